"""Distillation: a smaller net learns from the labels and from what the base says."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from imagemill.compress.bench import Bench, open_float, save_float
from imagemill.compress.fitting import fit_on_bench
from imagemill.params import DistilParams
from imagemill.records import SHARD_MANIFEST, Architecture, ShardManifest


def distil(source: Path, target: Path, step: DistilParams, bench: Bench) -> None:
    """Train a student from random weights with the net in `source` as its teacher.

    It learns from labels (weight 1 - alpha), from softened logits (alpha) and, where
    `step.features` is given, from which images look alike to the teacher.

    Raises:
        UnknownNameError: there is no such model.
        ParamsError: features are asked for of a net whose head is no linear layer.
        InputSizeError: the images are too small for it.
        TrainingError: the loss is not finite, or the ledger is not whole.

    Source:
        Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".
    """
    from imagemill.compress.likeness import FeatureTeacher
    from imagemill.models import count_parameters
    from imagemill.train.initial import initial_model
    from imagemill.train.losses import Teacher
    from imagemill.train.machine import choose_machine

    teacher, card = open_float(source, bench)
    architecture = Architecture(name=step.student, arguments={"width": step.width})
    images = bench.images("train")
    data = ShardManifest.read(bench.root / SHARD_MANIFEST)
    train = bench.params.train.changed(step.train)
    student = initial_model(architecture, images, data, train)
    before, after = count_parameters(teacher), count_parameters(student)
    bench.log(f"distil: {before:,} -> {after:,} parameters ({after / before:.2f} x)")
    machine = choose_machine(train)
    teacher = teacher.to(machine.device).to(memory_format=machine.memory_format)
    watching: AbstractContextManager[None] = nullcontext()
    guide = Teacher(teacher, step.temperature, step.alpha) if step.alpha else None
    if step.features is not None:
        guide = FeatureTeacher(teacher, step.temperature, step.alpha, step.features)
        watching = guide.watching(student)
    with watching:
        trained = fit_on_bench(
            student,
            images,
            bench,
            name="distil",
            how=step,
            teacher=guide,
        )
    save_float(target, trained, card, architecture)
