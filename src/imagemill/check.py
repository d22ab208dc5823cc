"""Whether params.yaml names what exists and the models can take the images, before any work."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagemill.augment import compile_policy
from imagemill.compress.publish import check_names
from imagemill.errors import InputSizeError, ParamsError, SourceError
from imagemill.label_review.review import require_cleanlab
from imagemill.models import check_architecture, check_prunable
from imagemill.params import Params
from imagemill.records import Architecture
from imagemill.train.job import base_architecture
from imagemill.train.origin import CHAMPION, PUBLISHED


def check(root: Path, params: Params) -> None:
    """Check every name in params.yaml against the table it comes from.

    Args:
        root: The project's root.
        params: All of params.yaml.

    Raises:
        UnknownNameError: a model, operation or runtime that is in none of our tables.
        InputSizeError: `train.input_size` does not fit a model.
        ParamsError: an operation's range does not fit it, a model has no such width or cannot be
            pruned, or a stage needs a missing package.
        SourceError: `train.init_from` does not exist.
    """
    compile_policy(params.augment.offline, seed=params.augment.seed, online=False)
    compile_policy(params.augment.online, seed=params.augment.seed, online=True)
    check_names(params.compress)
    for key, architecture in _models(params):
        with _said_of(key):
            check_architecture(architecture, params.train.input_size)
    for key, name in _pruned(params):
        with _said_of(key):
            check_prunable(name)
    _check_weights(root, params.train.init_from)
    if params.label_review.enabled:
        require_cleanlab()


def _models(params: Params) -> Iterator[tuple[str, Architecture]]:
    """Every model named in params.yaml, with the key that names it."""
    yield "train.model", base_architecture(params.train)
    for variant, chain in params.compress.variants.items():
        for step in chain:
            if step.distil is not None:
                width = {"width": step.distil.width}
                student = Architecture(name=step.distil.student, arguments=width)
                yield f"compress.variants.{variant}", student


def _pruned(params: Params) -> Iterator[tuple[str, str]]:
    """Names of the models that are to be pruned, with the key that asks for it."""
    for variant, chain in params.compress.variants.items():
        name = params.train.model
        for step in chain:
            if step.distil is not None:
                name = step.distil.student
            if step.prune is not None and step.prune.structure != "weights":
                yield f"compress.variants.{variant}", name


@contextmanager
def _said_of(key: str) -> Iterator[None]:
    """What is wrong with a model, said of the key that names it."""
    try:
        yield
    except (InputSizeError, ParamsError) as error:
        raise type(error)(f"{key}: {error}") from None


def _check_weights(root: Path, init_from: str | None) -> None:
    # A registered model and published weights are looked up where they are used.
    if init_from is None or init_from in (CHAMPION, PUBLISHED) or init_from.startswith("models:/"):
        return
    if not (root / init_from).is_file():
        raise SourceError(f"train.init_from: {root / init_from} does not exist")
