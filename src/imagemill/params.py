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
        description="A built-in name (digits, torchvision:NAME), or the path or address (s3://, "
        "http://) of a folder, an archive (.tar .tar.gz .tgz .zip), a table (.csv .parquet) or "
        "shards (train-{000..009}.tar). Relative paths start at the project's root.",
    )


class CheckParams(_Section):
    """What an audit check does with an image it finds."""

    action: Literal["warn", "quarantine", "fail"] = Field(
        description="warn: listed in data/audit/warnings.parquet and kept; quarantine: left out; "
        "fail: the run stops."
    )


class StrictCheckParams(_Section):
    """A check whose images cannot stay."""

    action: Literal["quarantine", "fail"] = Field(
        description="quarantine: left out; fail: the run stops."
    )


class SizeParams(CheckParams):
    """Images that are very small or very large."""

    min_side: Positive = Field(description="Least width and height, pixels.")
    max_side: Positive = Field(description="Greatest width and height, pixels.")

    @model_validator(mode="after")
    def _something_is_between(self) -> Self:
        if self.min_side > self.max_side:
            raise ValueError(
                f"min_side ({self.min_side}) must not be above max_side ({self.max_side})"
            )
        return self


class AspectParams(CheckParams):
    """Images that are very wide or very high."""

    max_ratio: float = Field(ge=1, description="Longer side over shorter side, at most.")


class ModeParams(CheckParams):
    """Ways of storing pixels that hint at something odd, though all of them can be read."""

    unexpected: tuple[
        Literal["grey", "palette", "alpha", "cmyk", "sixteen_bit", "animated"], ...
    ] = Field(description="The ways that are found by this check.")


class BlurParams(CheckParams):
    """Images without a sharp edge; 64 pixels and more on the shorter side."""

    min_sharpness: Fraction = Field(
        description="Least value of the Laplacian's 99th percentile at 256 pixels, 0 to 1."
    )


class DarkParams(CheckParams):
    """Images without a bright spot."""

    min_highlight: Fraction = Field(
        description="Least brightness of the 99th percentile of the pixels, 0 to 1."
    )


class BrightParams(CheckParams):
    """Images without a dark spot."""

    max_shadow: Fraction = Field(
        description="Greatest brightness of the 5th percentile of the pixels, 0 to 1."
    )


class InformationParams(CheckParams):
    """Images of next to one brightness."""

    min_entropy: float = Field(ge=0, le=8, description="Least entropy of the brightness, bits.")


class NearDuplicateParams(CheckParams):
    """Images that differ in size, compression or a slight crop only."""

    min_side: int = Field(
        ge=64, description="Images with a shorter side below this (pixels) are not compared."
    )
    max_distance: int = Field(
        ge=0, le=16, description="Bits of the 64-bit perceptual hash that may differ."
    )
    max_colour: Fraction = Field(
        description="Greatest mean difference of the colours of a 4x4 grid, 0 to 1."
    )


class WholeCheckParams(_Section):
    """What a check of the data set as a whole does."""

    action: Literal["warn", "fail"] = Field(
        description="warn: told in data/audit/report.json; fail: the run stops."
    )


class BalanceParams(WholeCheckParams):
    """Classes of very different size."""

    max_ratio: float = Field(ge=1, description="Images of the largest class over the smallest.")


class VolumeParams(WholeCheckParams):
    """Classes of few images."""

    min_images: Positive = Field(description="Least number of images of a class.")


class DiversityParams(WholeCheckParams):
    """Classes whose images are all alike."""

    min_spread: float = Field(
        ge=0, description="Least root mean square distance of a class's descriptors to their mean."
    )


class ChecksParams(_Section):
    """The checks of the audit: thresholds, and what each does."""

    unreadable: StrictCheckParams = Field(description="Empty, broken, cut off or far too large.")
    extension: CheckParams = Field(description="A file name that speaks of another format.")
    size: SizeParams
    aspect: AspectParams
    mode: ModeParams
    blur: BlurParams
    dark: DarkParams
    bright: BrightParams
    low_information: InformationParams
    identifying: CheckParams = Field(
        description="Metadata that lead to people or places: positions, serial numbers, names."
    )
    duplicate: CheckParams = Field(description="The same bytes as another image.")
    leak: StrictCheckParams = Field(description="The same bytes in two given splits.")
    label_conflict: CheckParams = Field(description="The same bytes under two labels.")
    near_duplicate: NearDuplicateParams
    near_leak: CheckParams = Field(description="Near duplicates in two given splits.")
    near_label_conflict: CheckParams = Field(description="Near duplicates under two labels.")
    group_leak: CheckParams = Field(description="A group in two given splits.")
    class_balance: BalanceParams
    class_volume: VolumeParams
    diversity: DiversityParams


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
    checks: ChecksParams = Field(description="What is looked for, and what happens then.")


class SplitParams(_Section):
    """How images without a given split are assigned to train, val and test."""

    seed: Seed = Field(description="Seed of the assignment hash.")
    val_ratio: float = Field(
        gt=0, lt=1, description="Share of train held out as val where none is given."
    )
    test_ratio: float = Field(
        gt=0, lt=1, description="Share of all images held out as test where none is given."
    )
    drop_near_duplicates: bool = Field(
        description="Whether train images that nearly equal an image of a given test or val "
        "(and val images that nearly equal one of test) are left out."
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
    max_bytes: Positive = Field(description="Bytes of raw images in one shard at most.")
    max_side: Positive | None = Field(
        description="Images with a longer side are shrunk to it, pixels; null keeps all raw bytes."
    )
    strip_metadata: bool = Field(
        description="Take out what identifies people, places and cameras (EXIF, XMP, comments); "
        "pixels, orientation and colour profile stay."
    )


class OperationParams(_Section):
    """One random operation of an augmentation policy."""

    operation: str = Field(description="A name in docs/augmentation.md.")
    probability: Fraction = Field(description="Chance that the operation is applied to an image.")
    range: tuple[float, float] | None = Field(
        default=None,
        description="Lowest and highest strength, drawn evenly, in the operation's unit; "
        "absent for operations without a strength (flips). random_resized_crop: share of the area.",
    )
    ratio: tuple[float, float] | None = Field(
        default=None, description="random_resized_crop: width over height, lowest and highest."
    )
    count: Positive | None = Field(
        default=None, description="rand_augment: operations an image gets."
    )
    magnitude: Annotated[int, Field(ge=0, le=30)] | None = Field(
        default=None, description="rand_augment: how strong they are, 0 to 30."
    )
    width: Positive | None = Field(default=None, description="augmix: number of chains.")
    depth: Positive | None = Field(default=None, description="augmix: operations a chain at most.")
    severity: Annotated[int, Field(ge=1, le=10)] | None = Field(
        default=None, description="augmix: how strong they are at most, 1 to 10."
    )
    alpha: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="mixup, cutmix: shares are Beta(alpha, alpha); augmix: of its weights. Large "
        "values mix evenly, small ones leave one image nearly alone.",
    )

    @model_validator(mode="after")
    def _low_before_high(self) -> Self:
        for name in ("range", "ratio"):
            pair = getattr(self, name)
            if pair is not None and pair[0] > pair[1]:
                raise ValueError(f"{name} must be [low, high], got {list(pair)}")
        if self.ratio is not None and self.ratio[0] <= 0:
            raise ValueError(f"ratio must be positive, got {list(self.ratio)}")
        return self


class CopiesParams(_Section):
    """How many offline copies of each training image are written: a number, or a mapping."""

    default: int = Field(ge=0, description="Copies of an image; 0 writes none.")
    classes: dict[str, Annotated[int, Field(ge=0)]] | None = Field(
        default=None, description="Other numbers for some classes, by name."
    )
    even_out: Positive | None = Field(
        default=None,
        description="Give smaller classes more copies, so that originals and copies together come "
        "to as many as those of the largest class; this many an image at most.",
    )

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_the_default(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"default": value}
        if not isinstance(value, Mapping | CopiesParams):
            raise ValueError(
                "must be a whole number, or a mapping such as {default: 1, classes: {rare: 4}}, "
                f"got {value!r}"
            )
        return value

    @property
    def most(self) -> int:
        """Copies an image can get."""
        return max(self.default, self.even_out or 0, *(self.classes or {}).values())


class AugmentParams(_Section):
    """Augmentation: written to disk before training (offline) and drawn on the fly (online)."""

    seed: Seed = Field(description="Seed of all draws.")
    copies: CopiesParams = Field(
        description="Offline copies written per training image; 0 switches it off. "
        "Or {default: 1, classes: {rare: 4}}, or {default: 0, even_out: 4}."
    )
    offline: tuple[OperationParams, ...] = Field(
        description="Operations applied, in order, to each copy."
    )
    online: tuple[OperationParams, ...] = Field(
        description="Operations applied, in order, to each training image of each batch."
    )

    @model_validator(mode="after")
    def _copies_differ_from_originals(self) -> Self:
        if self.copies.most and not self.offline:
            raise ValueError("copies need at least one operation under offline")
        return self


class LoadingParams(_Section):
    """From shards to arrays."""

    resize: Literal["antialias", "linear", "reduced"] = Field(
        description="Kernel that brings images to train.input_size, each another training input: "
        "antialias (averages under a triangle), reduced (faster: halves, then interpolates) or "
        "linear (interpolates, aliases when shrinking)."
    )
    cache_bytes: int = Field(
        ge=0,
        description="Decoded uint8 images of a split are kept in .imagemill/ and mapped to memory "
        "if they need no more than this; larger splits are decoded on the fly.",
    )
    workers: int = Field(
        ge=0,
        le=64,
        description="Decoding processes of each training process; 0: it decodes itself. Results do "
        "not depend on it, and a split in the decoded cache needs none.",
    )
    stall_seconds: float = Field(
        gt=0,
        description="A decoding process or a download that gets nowhere for so long is given up.",
    )
    ledger: bool = Field(
        description="Count what every epoch consumes and stop if an image is missing or doubled."
    )
    layout: Literal["local", "streaming"] = Field(
        description="local: shards in data/. streaming: shards fetched from `remote` when needed."
    )
    remote: str | None = Field(
        description="Streaming: a folder or address (s3://, https://) with a copy of data/; null "
        "in the local layout."
    )
    stream_cache_bytes: Positive = Field(
        description="Streaming: bytes of shards kept in .imagemill/stream at most."
    )
    window_shards: Positive = Field(
        description="Streaming: number of shards an epoch mixes with one another at a time."
    )

    @model_validator(mode="after")
    def _streams_from_somewhere(self) -> Self:
        if self.layout == "streaming" and not self.remote:
            raise ValueError("layout: streaming needs remote, the folder or address of the shards")
        return self

    @property
    def order(self) -> str:
        """What the order of training depends on beside seed and samples."""
        return "all" if self.layout == "local" else f"window of {self.window_shards} shards"


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


class LabelReviewParams(_Section):
    """Which labels a person should look at again."""

    enabled: bool = Field(
        description="Off: the stage writes an empty list. On: it trains `folds` times."
    )
    folds: int = Field(
        ge=2, le=100, description="Parts held out in turn; a model is trained without each."
    )
    epochs: Positive = Field(description="Passes of each of these trainings.")
    include_test: bool = Field(
        description="Look at test too; its images are never trained on. See docs/labels.md first."
    )
    pictures: Positive = Field(description="Suggestions shown on the page at most; all are listed.")


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
    label_review: LabelReviewParams
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
