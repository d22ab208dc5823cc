"""What is explained: a variant as it ships, and its net where it has one."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import nn

from imagemill.explain.saliency import last_maps
from imagemill.models import load_model, model_named
from imagemill.params import Params
from imagemill.records import MODELS, Architecture, ModelCard
from imagemill.runtimes import RUNTIMES, Predictor, open_variant

_NET = "eager"


class Subject(NamedTuple):
    """A variant to be explained.

    card: Its model.json.
    predict: What it says, in the runtime it ships in.
    model: The same as an eager float32 net in evaluation mode; None: it has none.
    layers: Whose places explanations by gradients point at, one a member of an ensemble.
    """

    card: ModelCard
    predict: Predictor
    model: nn.Module | None
    layers: tuple[str, ...]

    @property
    def why_no_net(self) -> str:
        """The reason for what is left out without one."""
        return (
            f"{self.card.variant} is {self.card.file} alone, a graph that {self.card.runtime} runs "
            "from images to logits: no gradients pass it, its layers are no outputs; explain "
            "the float variant it was made from"
        )


def open_subject(root: Path, params: Params) -> Subject:
    """Open `explain.variant`.

    Raises:
        IntegrityError: its folder is missing or damaged.
    """
    folder = root / MODELS / params.explain.variant
    card = ModelCard.read(folder / "model.json")
    predict = open_variant(folder, threads=params.evaluate.threads)
    model = load_model(folder)[0] if RUNTIMES[_NET].file in card.files else None
    layers = tuple(_layers(model, card.architecture, "")) if model else ()
    return Subject(card, predict, model, layers)


def _layers(model: nn.Module, architecture: Architecture, inside: str) -> Iterator[str]:
    """The layer the table of models names, else the last convolution; of each member."""
    if architecture.is_ensemble:
        for number, member in enumerate(architecture.arguments["members"]):
            yield from _layers(model, Architecture(**member), f"{inside}0.members.{number}.")
        return
    named = model_named(architecture.name).evidence
    part = model.get_submodule(inside.rstrip("."))
    # Its first part is the normalisation.
    yield inside + (f"1.{named}" if named else last_maps(part))
