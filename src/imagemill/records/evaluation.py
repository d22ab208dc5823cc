"""What stages say of how good a model is, and of its version in the registry."""

from typing import Any, Literal

from imagemill.records.record import Record


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
