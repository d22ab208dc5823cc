"""What is explained: a variant as it ships, and its net where it has one."""

from pathlib import Path
from typing import NamedTuple

from torch import nn

from imagemill.models import load_model, model_named
from imagemill.params import Params
from imagemill.records import MODELS, ModelCard
from imagemill.runtimes import RUNTIMES, Predictor, open_variant

_NET = "eager"


class Subject(NamedTuple):
    """A variant to be explained.

    card: Its model.json.
    predict: What it says, in the runtime it ships in.
    model: The same as an eager float32 net in evaluation mode; None: it has none.
    evidence: Layer whose places explanations point at, where the table of models names one.
    """

    card: ModelCard
    predict: Predictor
    model: nn.Module | None
    evidence: str | None

    @property
    def why_no_net(self) -> str:
        """The reason for what is left out without one."""
        return (
            f"{self.card.variant} is {self.card.file} alone, a graph that {self.card.runtime} runs "
            "from images to logits: no gradients pass it and its layers cannot be seen; explain "
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
    layer = model_named(card.architecture.name).evidence
    evidence = f"1.{layer}" if layer else None  # behind the normalisation
    return Subject(card, predict, model, evidence)
