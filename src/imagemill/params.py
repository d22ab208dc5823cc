"""params.yaml as value objects: every knob with its type, range, unit and a sentence.

params.yaml is the one home of a value: no field here has a default, except those whose absence
means something of its own (`None`). Names of models, operations and the like are checked against
their tables by the rooms that own those tables.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from imagemill.errors import ParamsError

PARAMS_FILE = "params.yaml"
BASE = "base"

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
VariantName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IngestParams(_Section):
    """Where the raw images come from."""

    source: str = Field(
        min_length=1,
        description="A built-in name (digits), a folder, an archive (.tar .tar.gz .tgz .zip) "
        "or a manifest file (.csv .parquet). Relative paths start at the project's root.",
    )


class AuditParams(_Section):
    """What makes an image unfit for training."""

    quarantine_budget: Fraction = Field(
        description="Largest fraction of images that may be quarantined before the run stops."
    )
    max_pixels: Positive = Field(
        description="Images with more pixels (width x height) are quarantined undecoded."
    )
    max_bytes: Positive = Field(description="Files larger than this (bytes) are quarantined.")
    decode_seconds: float = Field(gt=0, description="Time limit for decoding one image, seconds.")
    contact_sheet_images: Positive = Field(
        description="Number of images on the contact sheet, spread over the classes."
    )


class SplitParams(_Section):
    """How images without a given split are assigned to train, val and test."""

    seed: Seed = Field(description="Seed of the assignment hash.")
    val_ratio: float = Field(
        gt=0, lt=1, description="Share of train held out as val where none is given."
    )
    test_ratio: float = Field(
        gt=0, lt=1, description="Share of all images held out as test where none is given."
    )

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Self:
        if self.val_ratio + self.test_ratio >= 1:
            raise ValueError(
                "val_ratio + test_ratio must stay below 1: nothing is left to train on"
            )
        return self


class ShardParams(_Section):
    """How images are packed into WebDataset tars. A shard closes at whichever limit comes first."""

    max_images: Positive = Field(description="Images in one shard at most.")
    max_bytes: Positive = Field(description="Bytes of image data in one shard at most.")


class OperationParams(_Section):
    """One random operation of an augmentation policy."""

    operation: str = Field(description="A name in imagemill.augment.OPERATIONS.")
    probability: Fraction = Field(description="Chance that the operation is applied to an image.")
    range: tuple[float, float] | None = Field(
        default=None,
        description="Lowest and highest strength, drawn evenly, in the operation's unit; "
        "absent for operations without a strength (flips).",
    )

    @model_validator(mode="after")
    def _low_before_high(self) -> Self:
        if self.range is not None and self.range[0] > self.range[1]:
            raise ValueError(f"range must be [low, high], got {list(self.range)}")
        return self


class AugmentParams(_Section):
    """Augmentation: written to disk before training (offline) and drawn on the fly (online)."""

    seed: Seed = Field(description="Seed of all draws.")
    copies: int = Field(
        ge=0, description="Offline copies written per training image; 0 switches it off."
    )
    offline: tuple[OperationParams, ...] = Field(
        description="Operations applied, in order, to each copy."
    )
    online: tuple[OperationParams, ...] = Field(
        description="Operations applied, in order, to each training image of each batch."
    )

    @model_validator(mode="after")
    def _copies_differ_from_originals(self) -> Self:
        if self.copies and not self.offline:
            raise ValueError("copies > 0 needs at least one operation under offline")
        return self


class LoadingParams(_Section):
    """From shards to arrays."""

    resize: Literal["antialias", "linear"] = Field(
        description="Kernel used to bring images to train.input_size: antialias (averages areas) "
        "or linear (faster, aliases: another training input)."
    )
    cache_bytes: int = Field(
        ge=0,
        description="Decoded uint8 images of a split are kept in .imagemill/ and mapped to memory "
        "if they need no more than this; larger splits are decoded on the fly.",
    )


class TrainParams(_Section):
    """The base model and how it is trained."""

    model: str = Field(description="A name in imagemill.models.MODELS.")
    input_size: Positive = Field(description="Height and width the model sees, pixels.")
    initialisation: Literal["he", "xavier", "default"] = Field(
        description="Weights at the start: He, Xavier (Glorot), or torch's own."
    )
    init_from: str | None = Field(
        default=None, description="A safetensors file to start from instead of random weights."
    )
    epochs: Positive = Field(description="Passes over train.")
    batch_size: Positive = Field(
        description="Global batch: images per optimiser step over all processes."
    )
    loss: Literal["cross_entropy", "mse"] = Field(description="mse: on softmax against one-hot.")
    label_smoothing: float = Field(
        ge=0, lt=1, description="Mass moved from the label to all classes."
    )
    optimizer: Literal["sgd", "nesterov", "adam", "adamw", "muon"] = Field(
        description="muon: filters by Muon, everything else by Nesterov SGD."
    )
    learning_rate: float = Field(gt=0, description="Peak learning rate.")
    momentum: float = Field(ge=0, lt=1, description="Momentum of sgd, nesterov and muon.")
    weight_decay: float = Field(
        ge=0, description="Decoupled for adamw and muon, L2 for the others."
    )
    schedule: Literal["one_cycle", "constant"] = Field(
        description="one_cycle: linear up over warmup, then linear down to 0."
    )
    warmup: Fraction = Field(description="Share of all steps spent warming up (one_cycle).")
    seed: Seed = Field(description="Seed of initialisation and order.")
    processes: Positive = Field(description="Processes of torch.distributed.run.")
    threads: Positive = Field(description="CPU threads of each process.")
    device: Literal["auto", "cpu", "cuda"] = Field(description="auto: cuda where torch sees a GPU.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        description="Autocast type; auto: bfloat16 where the machine computes in it."
    )
    channels_last: bool = Field(description="Memory layout NHWC for convolutions.")
    keep_memory: bool = Field(
        description="Linux: let glibc keep freed memory instead of returning it at every step."
    )
    checkpoint_seconds: float = Field(gt=0, description="Time between checkpoints, seconds.")

    @model_validator(mode="after")
    def _processes_share_the_batch(self) -> Self:
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of processes ({self.processes})"
            )
        if self.loss == "mse" and self.label_smoothing:
            raise ValueError("label_smoothing belongs to cross_entropy; set it to 0 with mse")
        return self


class PruneParams(_Section):
    """Structured pruning: whole channels are removed, the net becomes smaller and stays dense."""

    ratio: float = Field(
        gt=0, lt=1, description="Share of channels removed in each prunable layer."
    )


class FinetuneParams(_Section):
    """Training that goes on from the step before, with train's data and batch size."""

    epochs: Positive = Field(description="Passes over train.")
    learning_rate: float = Field(gt=0, description="Peak learning rate of the same schedule.")


class DistilParams(_Section):
    """A smaller net that learns from the labels and from the base model's outputs."""

    student: str = Field(description="A name in imagemill.models.MODELS.")
    width: float = Field(gt=0, le=1, description="Width of the student relative to its full form.")
    epochs: Positive = Field(description="Passes over train.")
    learning_rate: float = Field(gt=0, description="Peak learning rate of the same schedule.")
    temperature: float = Field(gt=0, description="Softens both outputs (Hinton et al. 2015).")
    alpha: Fraction = Field(description="Weight of the teacher's part of the loss.")


class QuantizeParams(_Section):
    """INT8 after training: weights per channel, activations calibrated on images of val."""

    mode: Literal["static"] = Field(description="static: activation ranges fixed by calibration.")
    calibration_images: Positive = Field(description="Images of val used, at most.")


class StepParams(_Section):
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


class CompressParams(_Section):
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


class EvaluateParams(_Section):
    """How quality and cost are measured."""

    views: tuple[Literal["identity", "mirror", "up", "down", "left", "right"], ...] = Field(
        min_length=1,
        description="Test-time views whose probabilities are averaged; shifts are one pixel. "
        "[identity] is plain prediction. Latency counts all of them.",
    )
    calibration_bins: Positive = Field(description="Equal-width confidence bins of ECE.")
    threads: Positive = Field(description="Threads of every runtime while it is timed.")
    latency_rounds: Positive = Field(description="Single-image calls timed per variant.")
    throughput_batch: Positive = Field(description="Batch size of the throughput figure.")
    throughput_rounds: Positive = Field(description="Batches timed per variant.")


class ExplainParams(_Section):
    """Pictures of what the base model looks at."""

    images: Positive = Field(description="Number of test images shown.")
    seed: Seed = Field(description="Seed of their choice.")


class RegisterParams(_Section):
    """Where runs and versions go."""

    model_name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Registered model.")
    experiment: str = Field(min_length=1, description="MLflow experiment.")
    tracking_uri: str = Field(
        min_length=1,
        description="sqlite:///<file> (from the project's root), postgresql://... or http(s)://...",
    )


class ReportParams(_Section):
    """The one-page report."""

    title: str = Field(min_length=1, description="Heading of the page.")


class Params(_Section):
    """All of params.yaml, one section a stage."""

    ingest: IngestParams
    audit: AuditParams
    split: SplitParams
    shard: ShardParams
    augment: AugmentParams
    loading: LoadingParams
    train: TrainParams
    compress: CompressParams
    evaluate: EvaluateParams
    explain: ExplainParams
    register_: RegisterParams = Field(alias="register")
    report: ReportParams

    @property
    def variants(self) -> tuple[str, ...]:
        """The base model and its children, in the order of params.yaml."""
        return (BASE, *self.compress.variants)


def read_params(root: Path) -> Params:
    """Read and check `root/params.yaml`.

    Raises:
        ParamsError: no such file, not YAML, an unknown key, a wrong type, a broken rule.
    """
    return parse_params(read_yaml(root / PARAMS_FILE), where=PARAMS_FILE)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML 1.2 mapping (as DVC reads it).

    Raises:
        ParamsError: no such file, or not a YAML mapping.
    """
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(
            f"there is no {path.name} in {path.parent.resolve()}; run from the project's root, "
            "or put a recipe in place with `make recipe RECIPE=digits`"
        ) from None
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        first_line = " ".join(str(error).split())
        raise ParamsError(f"{path.name} cannot be read as YAML: {first_line}") from None
    if not isinstance(document, dict):
        raise ParamsError(
            f"{path.name} must be a mapping of sections, got {type(document).__name__}"
        )
    return document


def parse_params(document: Mapping[str, Any], *, where: str) -> Params:
    """Check a parsed params file; all its mistakes are told at once.

    Raises:
        ParamsError: an unknown key, a wrong type, a broken rule.
    """
    try:
        return Params.model_validate(document)
    except ValidationError as error:
        told = "; ".join(_tell(dict(fault)) for fault in error.errors())
        raise ParamsError(f"{where}: {told}") from None


def _tell(fault: Mapping[str, Any]) -> str:
    location = [str(part) for part in fault["loc"]]
    dotted = ".".join(location)
    if fault["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        nearest = get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        return f"unknown key {dotted!r}{hint}"
    if fault["type"] == "missing":
        return f"{dotted!r} is missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{dotted}: {message}"
    return f"{dotted}: {message[0].lower()}{message[1:]}, got {fault['input']!r}"


def _keys_at(location: list[str]) -> list[str]:
    """Keys allowed at a place in params.yaml."""
    model: Any = Params
    for part in location:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = _innermost_model(model.model_fields[part].annotation)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _innermost_model(annotation: Any) -> Any:
    """The value object inside `X | None`, `tuple[X, ...]` or `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        found = _innermost_model(part)
        if found is not None:
            return found
    return None
