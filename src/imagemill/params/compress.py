"""Children of the base model, each a chain of steps."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from imagemill.params.section import Fraction, Positive, Section

BASE = "base"

VariantName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]


class PruneParams(Section):
    """Structured pruning: whole channels are removed, the net becomes smaller and stays dense."""

    ratio: float = Field(
        gt=0, lt=1, description="Share of channels removed in each prunable layer."
    )


class FinetuneParams(Section):
    """Training that goes on from the step before, with train's data and batch size."""

    epochs: Positive = Field(description="Passes over train.")
    learning_rate: float = Field(gt=0, description="Peak learning rate of the same schedule.")


class DistilParams(Section):
    """A smaller net that learns from the labels and from the base model's outputs."""

    student: str = Field(description="A name in imagemill.models.MODELS.")
    width: float = Field(gt=0, le=1, description="Width of the student relative to its full form.")
    epochs: Positive = Field(description="Passes over train.")
    learning_rate: float = Field(gt=0, description="Peak learning rate of the same schedule.")
    temperature: float = Field(gt=0, description="Softens both outputs (Hinton et al. 2015).")
    alpha: Fraction = Field(description="Weight of the teacher's part of the loss.")


class QuantizeParams(Section):
    """INT8 after training: weights per channel, activations calibrated on images of val."""

    mode: Literal["static"] = Field(description="static: activation ranges fixed by calibration.")
    calibration_images: Positive = Field(description="Images of val used, at most.")


class StepParams(Section):
    """One step of a chain: exactly one of its keys is given."""

    prune: PruneParams | None = None
    finetune: FinetuneParams | None = None
    distil: DistilParams | None = None
    quantize: QuantizeParams | None = None

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        given = sorted(self.model_fields_set)
        if len(given) != 1:
            raise ValueError(f"a step names exactly one method, got {given or 'none'}")
        return self

    @property
    def method(self) -> str:
        return next(iter(self.model_fields_set))


class CompressParams(Section):
    """Children of the base model, each a chain of steps and a DVC stage instance of its own."""

    runtime: str = Field(
        description="A name in imagemill.runtimes.RUNTIMES: what float variants ship in."
    )
    variants: dict[VariantName, tuple[StepParams, ...]] = Field(
        description="Name -> chain of steps."
    )

    @model_validator(mode="after")
    def _chains_make_sense(self) -> Self:
        for name, chain in self.variants.items():
            methods = [step.method for step in chain]
            if name == BASE:
                raise ValueError(f"a variant cannot be called {BASE!r}: that is the trained model")
            if not chain:
                raise ValueError(f"variant {name!r} has no step")
            if "quantize" in methods[:-1]:
                raise ValueError(f"variant {name!r}: quantize must be the last step of its chain")
            if "distil" in methods[1:]:
                raise ValueError(
                    f"variant {name!r}: distil starts a new net, so it must come first"
                )
        return self
