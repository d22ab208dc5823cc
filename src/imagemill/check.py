"""Whether params.yaml names what exists and the models can take the images, before any work."""

from collections.abc import Iterator
from pathlib import Path

from imagemill.augment import compile_policy
from imagemill.errors import InputSizeError, SourceError, UnknownNameError
from imagemill.label_review.review import require_cleanlab
from imagemill.models import model_named
from imagemill.params import Params
from imagemill.runtimes import RUNTIMES
from imagemill.train.origin import CHAMPION, PUBLISHED


def check(root: Path, params: Params) -> None:
    """Check every name in params.yaml against the table it comes from.

    Args:
        root: The project's root.
        params: All of params.yaml.

    Raises:
        UnknownNameError: a model, operation or runtime that is in none of our tables.
        InputSizeError: `train.input_size` is too small for a model.
        ParamsError: an operation's range does not fit it, or a stage needs a missing package.
        SourceError: `train.init_from` does not exist.
    """
    compile_policy(params.augment.offline, seed=params.augment.seed, online=False)
    compile_policy(params.augment.online, seed=params.augment.seed, online=True)
    if params.compress.runtime not in RUNTIMES:
        raise UnknownNameError("runtime", params.compress.runtime, RUNTIMES)
    for key, name in _models(params):
        _check_model(key, name, params.train.input_size)
    _check_weights(root, params.train.init_from)
    if params.label_review.enabled:
        require_cleanlab()


def _models(params: Params) -> Iterator[tuple[str, str]]:
    """Every model named in params.yaml, with the key that names it."""
    yield "train.model", params.train.model
    for variant, chain in params.compress.variants.items():
        for step in chain:
            if step.distil is not None:
                yield f"compress.variants.{variant}", step.distil.student


def _check_model(key: str, name: str, input_size: int) -> None:
    least = model_named(name).minimum_size
    if input_size < least:
        raise InputSizeError(
            f"{key}: {name} needs images of at least {least} px, got train.input_size: "
            f"{input_size}; raise it (images are resized to it) or choose a smaller model"
        )


def _check_weights(root: Path, init_from: str | None) -> None:
    # A registered model and published weights are looked up where they are used.
    if init_from is None or init_from in (CHAMPION, PUBLISHED) or init_from.startswith("models:/"):
        return
    if not (root / init_from).is_file():
        raise SourceError(f"train.init_from: {root / init_from} does not exist")
