"""Children of the base model, each a chain of steps."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from imagemill.params.section import Fraction, Positive, Section
from imagemill.params.training import OwnTrainParams

BASE = "base"

VariantName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]


class FitParams(Section):
    """Training as the base was trained, but for what is set here."""

    epochs: Positive = Field(description="Passes over train.")
    learning_rate: float = Field(gt=0, description="Peak learning rate of the schedule.")
    train: OwnTrainParams | None = Field(
        default=None, description="Other keys of `train` that differ; absent: none does."
    )


class GradualParams(FitParams):
    """Training while the share of zeros grows, instead of all at once."""


class PruneParams(Section):
    """What matters least is taken out: whole channels, or single weights."""

    structure: Literal["channels", "weights"] | None = Field(
        default=None,
        description="channels: layers become narrower and stay dense. weights: single weights "
        "become zero; the file compresses better, nothing runs faster. Absent: channels.",
    )
    ratio: float = Field(
        gt=0, lt=1, description="Share of channels removed in each layer, or of weights overall."
    )
    keep: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Structure channels: layers that keep theirs, by name or pattern (`*.head`); "
        "so does what is tied to them. Absent: none.",
    )
    gradual: GradualParams | None = Field(
        default=None, description="Structure weights: epoch by epoch; absent: in one shot."
    )

    @model_validator(mode="after")
    def _structure_fits(self) -> Self:
        if self.gradual and self.structure != "weights":
            raise ValueError("gradual belongs to structure: weights; leave it out for channels")
        if self.keep and self.structure == "weights":
            raise ValueError("keep belongs to structure: channels; leave it out for weights")
        return self


class GuideParams(Section):
    """The base's outputs as something to learn beside the labels."""

    temperature: float = Field(gt=0, description="Softens both outputs (Hinton et al. 2015).")
    alpha: Fraction = Field(description="Weight of the base's part of the loss.")


class FinetuneParams(FitParams):
    """Training that goes on from the step before."""

    guide: GuideParams | None = Field(
        default=None, description="Learn from the base too; absent: from labels alone."
    )


class DistilParams(FitParams):
    """A smaller net that learns from the labels and from the base model's outputs."""

    student: str = Field(description="A name in imagemill.models.MODELS.")
    width: float = Field(gt=0, le=1, description="Width of the student relative to its full form.")
    temperature: float = Field(gt=0, description="Softens both outputs (Hinton et al. 2015).")
    alpha: Fraction = Field(
        description="Weight of the teacher's part of the loss; 0: labels alone, 1: teacher alone."
    )
    features: float | None = Field(
        default=None,
        gt=0,
        description="Weight of the part that compares which images look alike to both nets, "
        "before their heads; absent: logits alone.",
    )


class QuantizeParams(Section):
    """INT8: weights per channel, unsigned activations."""

    mode: Literal["static", "dynamic", "qat"] = Field(
        description="static: ranges of activations fixed by calibration on val. dynamic: found "
        "anew at each call. qat: the net first learns to live with rounding, then static."
    )
    calibration_images: Positive | None = Field(
        default=None, description="Images of val used, at most; modes static and qat."
    )
    epochs: Positive | None = Field(default=None, description="Mode qat: passes over train.")
    learning_rate: float | None = Field(
        default=None, gt=0, description="Mode qat: peak learning rate of the schedule."
    )
    train: OwnTrainParams | None = Field(
        default=None, description="Mode qat: other keys of `train` that differ, if any."
    )

    @model_validator(mode="after")
    def _mode_fits(self) -> Self:
        wanted = {
            "static": {"calibration_images"},
            "dynamic": set(),
            "qat": {"calibration_images", "epochs", "learning_rate"},
        }[self.mode]
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        if self.mode == "qat":
            given -= {"train"}
        if given - {"mode"} != wanted:
            raise ValueError(
                f"mode {self.mode} takes {sorted(wanted) or 'nothing else'}, "
                f"got {sorted(given - {'mode'}) or 'nothing'}"
            )
        return self


class FactoriseParams(Section):
    """Low rank: each convolution and linear layer becomes two thin ones."""

    ratio: float = Field(
        gt=0, lt=1, description="Weights of the two together, as a share of the layer's."
    )


class HalveParams(Section):
    """bfloat16: weights of half the size, products in bfloat16 where the runtime can."""


class EnsembleParams(Section):
    """Registered models beside the base: the mean of their probabilities answers."""

    members: tuple[Annotated[str, Field(pattern=r"^models:/")], ...] = Field(
        min_length=1,
        description="models:/NAME/VERSION or models:/NAME@ALIAS, trained on the same data. An "
        "alias is looked up when the variant is made; DVC does not notice that it moved.",
    )


class CalibrateParams(Section):
    """Temperature scaling: logits divided by what fits val best, stored in the net's file."""


class StepParams(Section):
    """One step of a chain: exactly one of its keys is given."""

    prune: PruneParams | None = None
    finetune: FinetuneParams | None = None
    distil: DistilParams | None = None
    quantize: QuantizeParams | None = None
    factorise: FactoriseParams | None = None
    bfloat16: HalveParams | None = None
    calibrate: CalibrateParams | None = None
    ensemble: EnsembleParams | None = None

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        given = sorted(self.model_fields_set)
        if len(given) != 1:
            raise ValueError(f"a step names exactly one method, got {given or 'none'}")
        return self

    @property
    def method(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def own_training(self) -> OwnTrainParams | None:
        """What it trains with in another way than the base, if it trains."""
        fits = (self.finetune, self.distil, self.quantize, self.prune and self.prune.gradual)
        return next((fit.train for fit in fits if fit), None)


class CompressParams(Section):
    """Children of the base model, each a chain of steps and a DVC stage instance of its own."""

    runtime: str = Field(
        description="A name in imagemill.runtimes.RUNTIMES: what variants ship in that hold a file "
        "for it; auto: the fastest of `candidates` on this machine, one image at a time."
    )
    candidates: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Runtimes that `auto` measures, in order of preference where they tie; "
        "absent: onnxruntime, openvino and eager.",
    )
    exports: tuple[str, ...] | None = Field(
        default=None,
        description="Names in imagemill.compress.EXPORTS: forms written beside what ships and "
        "checked against the eager net on val; absent: none.",
    )
    checked_images: Positive | None = Field(
        default=None,
        description="Images of val that exports and runtimes are checked on, at most; absent: all.",
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
            before = methods[:-2] if methods[-2:] == ["quantize", "calibrate"] else methods[:-1]
            for last in {"quantize", "bfloat16"}.intersection(before):
                raise ValueError(f"variant {name!r}: {last} must be the last step of its chain")
            if "ensemble" in methods[1:]:
                raise ValueError(f"variant {name!r}: ensemble must come first")
            if "distil" in (methods[2:] if methods[0] == "ensemble" else methods[1:]):
                raise ValueError(
                    f"variant {name!r}: distil starts a new net, so it must come first, or behind "
                    "ensemble"
                )
        return self
