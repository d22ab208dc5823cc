"""The stage: from the base through a chain of steps to one variant."""

import shutil
from collections.abc import Callable
from pathlib import Path

from imagemill.compress.bench import CARD, GRAPH, WEIGHTS, Bench, Method, save_card
from imagemill.compress.distil import distil
from imagemill.compress.export import write_graph
from imagemill.compress.finetune import finetune
from imagemill.compress.prune import prune
from imagemill.compress.quantize import quantize
from imagemill.errors import UnknownNameError
from imagemill.params import BASE, Params, StepParams
from imagemill.records import MODELS, STATE, ModelCard, publishing_folder
from imagemill.runtimes import RUNTIMES
from imagemill.steps import Step, directly

METHODS: dict[str, Method] = {
    "prune": prune,
    "finetune": finetune,
    "distil": distil,
    "quantize": quantize,
}


def compress(
    root: Path,
    params: Params,
    variant: str,
    *,
    log: Callable[[str], None],
    progress: Callable[[float, str], None],
    step: Step = directly,
) -> ModelCard:
    """Make models/<variant>/ from models/base/.

    Args:
        root: The project's root.
        params: All sections.
        variant: A name in `compress.variants`.
        log: Gets a line for what was done.
        progress: Gets the share of the running step, 0..1, and the step's name.
        step: Calls each step of the chain.

    Returns:
        model.json of the variant.

    Raises:
        UnknownNameError: no such variant, runtime or model.
        IntegrityError: models/base or the data is missing or damaged.
        DiskError: models/ cannot be written.
    """
    if variant not in params.compress.variants:
        raise UnknownNameError("variant", variant, params.compress.variants)
    if params.compress.runtime not in RUNTIMES:
        raise UnknownNameError("runtime", params.compress.runtime, RUNTIMES)
    chain = params.compress.variants[variant]
    bench = Bench(root, params, log, progress)
    scratch = root / STATE / "compress" / variant
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        made = _run(chain, bench, scratch, step)
        return step(_publish, made, variant, chain, bench)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(chain: tuple[StepParams, ...], bench: Bench, scratch: Path, step: Step) -> Path:
    """Each step in turn; returns the last one's folder."""
    source = bench.base
    for number, link in enumerate(chain, 1):
        target = scratch / f"{number}-{link.method}"
        target.mkdir(parents=True)
        step(METHODS[link.method], source, target, getattr(link, link.method), bench)
        source = target
    return source


def _publish(made: Path, variant: str, chain: tuple[StepParams, ...], bench: Bench) -> ModelCard:
    """Complete the last folder for its runtime and put it in place."""
    path = bench.root / MODELS / variant
    like = ModelCard.read(made / CARD)
    runtime = bench.params.compress.runtime if WEIGHTS in like.files else like.runtime
    with publishing_folder(path) as folder:
        for name in like.files:
            shutil.copyfile(made / name, folder / name)
        if WEIGHTS in like.files and runtime == "onnxruntime":
            write_graph(made, folder / GRAPH, bench)
        shipped = RUNTIMES[runtime].file
        others = sorted({file.name for file in folder.iterdir()} - {shipped})
        save_card(
            folder,
            like,
            [shipped, *others],
            variant=variant,
            parent=BASE,
            steps=[link.model_dump(mode="json", exclude_unset=True) for link in chain],
            runtime=runtime,
        )
    card = ModelCard.read(path / CARD)
    _tell(card, bench)
    return card


def _tell(card: ModelCard, bench: Bench) -> None:
    base = ModelCard.read(bench.base / CARD)
    before = (bench.base / base.file).stat().st_size
    after = (bench.root / MODELS / card.variant / card.file).stat().st_size
    bench.log(
        f"{card.variant}: {before / 1000:.1f} -> {after / 1000:.1f} kB ({after / before:.2f} x), "
        f"runs in {card.runtime}"
    )
