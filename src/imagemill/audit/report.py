"""data/audit/report.json: what the audit counted and found."""

from typing import Any

from imagemill.records import Record


class NearGroups(Record):
    """Images that nearly equal one another."""

    num_groups: int
    num_images: int
    largest: int


class Diversity(Record):
    """How much the kept images differ, by descriptors of their colours and edges."""

    spread: float  # root mean square distance to the mean descriptor; a grey level is 1/255
    effective_dimensions: float  # of 64: participation ratio of the descriptors' variance
    least_by_class: dict[str, float]  # spread inside a class, the least ones


class WholeFinding(Record):
    """What is wrong with the data set as a whole."""

    check: str
    action: str
    told: str


class AuditReport(Record):
    """data/audit/report.json."""

    num_images: int
    num_kept: int
    num_quarantined: int
    quarantine_budget: float  # fraction of num_images
    quarantined_by_check: dict[str, int]
    first_quarantined: list[dict[str, str]]  # [{key, uri, check, reason}]
    classes: dict[str, int]  # kept images; of labelled ones
    num_unlabelled: int
    given_splits: dict[str, int]  # kept images
    width: dict[str, int]  # min, median, max in pixels, upright
    height: dict[str, int]
    modes: dict[str, int]
    formats: dict[str, int]
    channel_mean_rgb: list[float]  # over images, each as much as any other, in 0..1
    channel_std_rgb: list[float]
    # Thresholds and action of each check of params.yaml as they were.
    checks: dict[str, dict[str, Any]]
    warned_by_check: dict[str, int]  # kept images; one image may be under several
    whole: list[WholeFinding]
    orientations: dict[str, int]  # EXIF 1 to 8, kept images
    forms: dict[str, int]  # grey, palette, alpha, cmyk, sixteen_bit, animated: kept images
    identifying: dict[str, int]  # gps, serial_number, person, maker_note: kept images
    near_groups: NearGroups
    diversity: Diversity
