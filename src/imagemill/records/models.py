"""What stages say of a model."""

from typing import Any, Literal

from pydantic import Field

from imagemill.records.record import Record

ENSEMBLE = "ensemble"  # name of the architecture of several nets that answer as one


class Architecture(Record):
    name: str  # in imagemill.models.MODELS, or ENSEMBLE
    # What its builder takes beside channels, input_size, num_classes; of an ensemble
    # {members: [architectures in their order]}.
    arguments: dict[str, Any]

    @property
    def is_ensemble(self) -> bool:
        return self.name == ENSEMBLE


class Start(Record):
    """What a training started from, as model.json, metrics.json and MLflow say it."""

    kind: Literal["random", "file", "published", "registered", "pretrained"]
    name: str  # what `train.init_from` says
    version: int | None = None  # of a registered model
    sha256: str | None = None  # of the weights as they were read
    classes: list[str] | None = None  # of the head among them; None: there is none, or unknown
    note: str | None = None  # why it is not what was asked for

    def __str__(self) -> str:
        told = [f"version {self.version}"] if self.version is not None else []
        told += [f"sha256 {self.sha256[:12]}"] if self.sha256 else []
        told += [self.note] if self.note else []
        return f"{self.name} ({', '.join(told)})" if told else self.name


RANDOM = Start(kind="random", name="random weights")


class EnsembleMember(Record):
    """A registered model inside an ensemble."""

    name: str  # as `ensemble.members` says
    version: int
    sha256: str  # of its float weights


class ExportCheck(Record):
    """What an export says of images of val, beside the net it was made from."""

    max_difference: float  # largest |difference| between two logits
    val_top1: float


class RuntimeFigures(ExportCheck):
    """The same of a runtime, and how fast it is there; where it was measured."""

    latency_ms_p50: float  # one image


class ModelCard(Record):
    """models/<variant>/model.json."""

    variant: str
    parent: str | None
    steps: list[dict[str, Any]]  # the chain of compress.variants; [] for the base
    architecture: Architecture
    input_shape: tuple[int, int, int]  # channels, height, width; float32 in 0..1
    classes: list[str]
    files: dict[str, str]  # name -> sha256
    file: str  # the one its runtime loads
    sha256: str  # of that one
    data_digest: str
    index_digest: str
    runtime: str  # in imagemill.runtimes.RUNTIMES
    resize: str  # loading.resize at training
    started_from: Start | None = None  # of the base's training; None: not on record
    # None: count them on the eager net (an INT8 graph has none; it says those of its float parent).
    num_parameters: int | None = None
    macs: int | None = None
    bfloat16: bool = False  # computed in bfloat16 by runtimes that can
    temperature: float | None = None  # logits were divided by it; it is in the file already
    members: list[EnsembleMember] = Field(default_factory=list)  # beside the base
    # Name in imagemill.compress.EXPORTS -> what was found.
    exports: dict[str, ExportCheck] = Field(default_factory=dict)
    # What `compress.runtime: auto` chose from.
    runtimes: dict[str, RuntimeFigures] = Field(default_factory=dict)
