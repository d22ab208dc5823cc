"""Where a training starts: weights as a file on this machine, and what they are. Without torch."""

from pathlib import Path
from typing import NamedTuple

from imagemill.errors import IntegrityError, SourceError
from imagemill.params import TrainParams
from imagemill.records import RANDOM, STATE, ModelCard, Start, sha256_of_file

WEIGHTS, CARD = "model.safetensors", "model.json"
CHAMPION, PUBLISHED = "champion", "published"  # what `train.init_from` can say beside a path
_CONVERTED = STATE / "weights"


class Origin(NamedTuple):
    """What a training starts from.

    start: What is told of it.
    file: Its weights as safetensors, in the names of `build_model`'s state dict; None: none.
    """

    start: Start
    file: Path | None


FROM_NOTHING = Origin(RANDOM, None)


def local_origin(root: Path, train: TrainParams) -> Origin:
    """What `train.init_from` names, where that is a file, published weights or nothing.

    Args:
        root: The project's root.
        train: Model and `init_from`.

    Raises:
        SourceError: there is no such file, or published weights cannot be fetched.
        IntegrityError: it is not the file its model.json names, or not what was published.
        ParamsError: nobody publishes weights for this model.
    """
    wanted = train.init_from
    if wanted is None:
        return FROM_NOTHING
    if wanted == PUBLISHED:
        from imagemill.models.published import published_weights

        file = published_weights(train.model, root / _CONVERTED)
        name = f"{PUBLISHED} weights of {train.model}"
        return Origin(Start(kind="published", name=name, sha256=sha256_of_file(file)), file)
    return _file(root / wanted, wanted)


def _file(file: Path, name: str) -> Origin:
    """A file of weights; a model.json beside it says the classes of its head."""
    if not file.is_file():
        raise SourceError(f"train.init_from: {file} does not exist")
    sha256, classes = sha256_of_file(file), None
    card_file = file.parent / CARD
    if card_file.is_file():
        card = ModelCard.read(card_file)
        expected = card.files.get(file.name)
        if expected != sha256:
            raise IntegrityError(
                f"train.init_from: {file} has sha256 {sha256[:12]}, {CARD} beside it says "
                f"{expected[:12] if expected else 'nothing of it'}: refused"
            )
        classes = card.classes
    return Origin(Start(kind="file", name=name, sha256=sha256, classes=classes), file)
