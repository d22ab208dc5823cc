"""The files stages hand to one another: their paths, columns and keys, and how they reach the disk.

Names and keys here are an interface to people and programs outside this code: adding is welcome,
a change is a decision on record (docs/decisions). Every path is relative to the project's root.
"""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from imagemill.errors import DiskError, IntegrityError

# Paths ---------------------------------------------------------------------------------------

SOURCE = Path("data/source.json")
INGEST = Path("data/ingest")
AUDIT = Path("data/audit")
SPLIT = Path("data/split")
DATA = Path("data")
SHARDS = Path("data/shards")
AUGMENTED = Path("data/augmented")
MODELS = Path("models")
REPORTS = Path("reports")
STATE = Path(".imagemill")

MANIFEST = INGEST / "manifest.parquet"
KEEP = AUDIT / "keep.parquet"
QUARANTINE = AUDIT / "quarantine.parquet"
SPLITS = SPLIT / "split.parquet"
DROPPED = SPLIT / "dropped.parquet"  # columns of quarantine.parquet: kept images in no split
SHARD_MANIFEST = SHARDS / "manifest.json"
SHARD_INDEX = SHARDS / "index.parquet"
AUGMENTED_INDEX = AUGMENTED / "index.parquet"
AUGMENTED_MANIFEST = AUGMENTED / "manifest.json"
REGISTER = REPORTS / "register.json"
LABEL_REVIEW = REPORTS / "label_review.csv"
REVIEW = Path("labels/review.csv")
SEEN = STATE / "seen.parquet"

ENSEMBLE = "ensemble"  # name of the architecture of several nets that answer as one

SPLIT_NAMES = ("train", "val", "test", "unlabelled")

# Columns -------------------------------------------------------------------------------------

# uri + offset + size_bytes say where the raw bytes are; `imagemill.sources.RawReader` reads them.
MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("target", pa.string()),  # class name
        pa.field("group", pa.string()),
        pa.field("split", pa.string()),
        # JSON of what is known beside the class (boxes, masks, captions): carried, not interpreted.
        pa.field("annotation", pa.string()),
        pa.field("review", pa.string()),  # what labels/review.csv says: relabel, drop or keep
        pa.field("extension", pa.string()),  # of its path in the source, "" if that has none
    ]
)
# One row an image in order of the manifest: the state of the file its digest was taken from.
SEEN_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("stamp", pa.string()),  # `RawReader.stamp`; null where a file has none
    ]
)
KEEP_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("near_group", pa.string()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),  # by content, as Pillow names it
        # Sums over the pixels of the image as RGB in 0..1, to aggregate statistics over any subset.
        pa.field("mean_rgb", pa.list_(pa.float32(), 3), nullable=False),
        pa.field("mean_square_rgb", pa.list_(pa.float32(), 3), nullable=False),
    ]
)
QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("check", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
SPLIT_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)
# `shard` is relative to data/; offset and size_bytes frame the image's bytes inside it.
INDEX_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("shard", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("target", pa.int32()),  # class id; null in `unlabelled`
        # Of the raw image where the bytes in the shard are other ones; null: they are the same.
        pa.field("raw_sha256", pa.string()),
    ]
)
AUGMENTED_SCHEMA = pa.schema(
    [
        *INDEX_SCHEMA,
        pa.field("parent_key", pa.string()),  # null: an original
        pa.field(
            "operations", pa.string()
        ),  # JSON: [{operation, strengths, positions}], null: an original
        pa.field("seed", pa.int64()),
    ]
)

# Keyed files ---------------------------------------------------------------------------------


class Record(BaseModel):
    """A JSON file between stages. Unknown keys are kept: a newer writer may say more."""

    model_config = ConfigDict(extra="allow")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a record.

        Raises:
            IntegrityError: the file is missing or does not say what it must.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise IntegrityError(f"{path} does not exist; `dvc repro` makes it") from None
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise IntegrityError(f"{path} is damaged at {where!r}: {fault['msg']}") from None

    def write(self, path: Path) -> None:
        """Write whole or not at all."""
        write_json(path, self.model_dump(mode="json"))


class SplitSize(Record):
    num_samples: int
    num_shards: int
    size_bytes: int


class ShardEntry(Record):
    path: str  # relative to data/
    sha256: str
    num_samples: int
    size_bytes: int
    annotations: str | None = None  # digest of those it holds; None: it holds none


class ShardManifest(Record):
    """data/shards/manifest.json."""

    schema_version: Literal[1] = 1
    digest: str  # of the data: sha256 over the sorted (key, sha256, target, split)
    index_digest: str  # sha256 of index.parquet
    classes: list[str]  # position = class id; append-only
    channels: Literal[1, 3]  # 1 if every image is grey
    pixel_mean: list[float]  # of train, per channel, in 0..1
    pixel_std: list[float]
    splits: dict[str, SplitSize]
    shards: list[ShardEntry]
    # Class ids and shards are carried on only while these stay what they are.
    source: str | None = None
    max_images: int | None = None
    max_bytes: int | None = None
    max_side: int | None = None
    strip_metadata: bool = False


class Architecture(Record):
    name: str  # in imagemill.models.MODELS, or ENSEMBLE
    # What its builder takes beside channels, input_size, num_classes; of an ensemble
    # {members: [architectures in their order]}.
    arguments: dict[str, Any]

    @property
    def is_ensemble(self) -> bool:
        return self.name == ENSEMBLE


class CopiesManifest(Record):
    """data/augmented/manifest.json; not there where no copies were written."""

    shards: list[ShardEntry]


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
    members: list[EnsembleMember] = []  # beside the base
    exports: dict[str, ExportCheck] = {}  # name in imagemill.compress.EXPORTS
    runtimes: dict[str, RuntimeFigures] = {}  # what `compress.runtime: auto` chose from


class Evaluation(Record):
    """reports/evaluate/<variant>.json: fractions, not percent; null where unknown."""

    variant: str
    parent: str | None
    top1: float
    top1_ci95: tuple[float, float]
    val_top1: float
    val_top1_ci95: tuple[float, float]
    top5: float | None
    macro_f1: float
    ece: float
    size_bytes: int
    num_parameters: int
    macs: int | None
    latency_ms_p50: float
    latency_ms_p95: float
    images_per_second: float
    speedup_over_base: float
    speedup_same_runtime: float | None
    energy_joules_per_1000: float | None
    verdict: Literal["base", "accepted", "dominated", "rejected"]
    verdict_reason: str
    runtime: str
    sha256: str
    per_class: list[dict[str, Any]]  # [{class, num_images, recall, precision, f1}]
    machine: dict[str, Any]  # cpu, threads, versions
    val_ece: float | None = None
    nll: float | None = None  # nats an image
    val_nll: float | None = None
    brier: float | None = None
    temperature: float | None = None  # fitted on val
    ece_at_temperature: float | None = None
    worst_class: dict[str, Any] | None = None  # {name, recall, num_images}
    val_worst_class: dict[str, Any] | None = None
    confusions: list[dict[str, Any]] | None = None  # [{true, predicted, num_images}], most first
    # Against the parent: {parent, only_parent_right, only_child_right, mcnemar_p, flip_rate,
    # delta_top1, delta_ci95, recall_deltas: {class: on test}}
    paired: dict[str, Any] | None = None
    val_paired: dict[str, Any] | None = None
    latency_ms_p99: float | None = None
    images_per_second_8: float | None = None
    selective: list[dict[str, float]] | None = None  # [{coverage, confidence, accuracy}] on test
    aurc: float | None = None  # mean error over all coverages
    slices: dict[str, list[dict[str, Any]]] | None = None  # column -> [{name, num_images, top1,..}]
    # On images of val: {num_images, mean_error, errors: {corruption: [by severity]},
    # relative_errors: {corruption: over the base's}}
    corruption: dict[str, Any] | None = None
    relative_corruption_error: float | None = None  # mean of these; 1 is the base's
    # {source, digest, num_images, num_left_out, ...} of the sets `evaluate` was given
    shift: dict[str, Any] | None = None  # ... top1, top1_ci95, drop, ece
    out_of_distribution: dict[str, Any] | None = None  # ... auroc, false_positives_at_95
    peak_memory_bytes: int | None = None  # of a process of its own that answers a batch
    load_ms: float | None = None  # from its file to the first answer
    on_pareto_front: bool | None = None  # of val top-1, latency, size and energy
    dominated_by: list[str] | None = None


class Picture(Record):
    file: str  # beside the record
    caption: str


class ExplainedImage(Record):
    key: str
    true: str
    predicted: str
    probability: float
    features: str | None  # file: what the chosen layers make of it; None: left out


class Skipped(Record):
    """What could not be done with this variant."""

    what: str
    why: str


class Faithfulness(Record):
    """Whether a saliency map says what the model goes by; means over the judged images."""

    method: str
    deletion: float  # area under the probability as evidence is taken away: lower is better
    insertion: float  # as it is added: higher is better
    # How much better than random maps, with its standard error over images; None: of random maps.
    deletion_gain: float | None
    deletion_gain_error: float | None
    insertion_gain: float | None
    insertion_gain_error: float | None
    beats_random: bool | None  # both gains are more than two standard errors
    occlusion_correlation: float | None  # of ranks, over patches; None: it is occlusion


class TrainNeighbour(Record):
    key: str
    label: str
    similarity: float  # cosine of the embeddings


class ExplainedMistake(Record):
    """A mistake and what of train lies next to it."""

    key: str
    true: str
    predicted: str
    neighbours: list[TrainNeighbour]  # nearest first


class OnEmbeddings(Record):
    """A simple model on the embeddings of the net."""

    name: str
    kind: Literal["surrogate", "baseline"]  # learned the net's predictions, or the labels
    fidelity: float  # share of test images where it says what the net says
    accuracy: float  # share where it says the label
    net_accuracy: float  # the net's own there
    train_images: int
    test_images: int


class Explanation(Record):
    """reports/explain/explain.json."""

    variant: str
    sha256: str  # of the file its runtime loads
    runtime: str
    gradcam_layers: list[str]  # one a member of an ensemble; none: it has no net
    features_layers: list[str]
    integration_gap: float | None  # of integrated gradients: what their sum misses, as a share
    judged_images: int
    faithfulness: list[Faithfulness]  # random maps last
    mistakes: list[ExplainedMistake]
    on_embeddings: list[OnEmbeddings]
    skipped: list[Skipped]
    pictures: list[Picture]  # all of them, the saliency of all images first
    images: list[ExplainedImage]  # in the order of the saliency picture, mistakes last


class RegisteredVersion(Record):
    variant: str
    version: int
    run_id: str
    aliases: list[str]
    sha256: str
    git_rev: str | None  # commit that was checked out when it was registered


class Registration(Record):
    """reports/register.json: the registry as it was when `register` ran."""

    registered_model: str
    tracking_uri: str
    compare_url: str
    champion: str  # variant
    champion_version: int  # may be of earlier content: then it is not among `versions`
    versions: list[RegisteredVersion]


# Writing -------------------------------------------------------------------------------------


def write_json(path: Path, document: Any) -> None:
    """Write JSON (sorted keys, UTF-8) whole or not at all."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    write_bytes(path, text.encode() + b"\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Write whole or not at all.

    Raises:
        DiskError: the folder cannot be written, or the disk is full.
    """
    with publishing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; on success its bytes are synced and it becomes `path`.

    Raises:
        DiskError: the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is gone after a success, and may never have come to be
            temporary.unlink()


def _remove_abandoned(path: Path) -> None:
    """Temporary files of processes that were killed: DVC would keep them with the output."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = leftover.name.split(".")[-2]
        if pid.isdigit() and not _is_alive(int(pid)):
            leftover.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def publishing_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`; on success it becomes `path` and what was there before goes.

    Raises:
        DiskError: the folder cannot be made or renamed.
    """
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with _refusing(path):
            temporary.mkdir(parents=True)
        yield temporary
        with _refusing(path):
            if path.exists():
                path.rename(old)
            temporary.rename(path)
    finally:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """What the file system says, said of `path`."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from error


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
