"""What `compare` prints, from the figures the registry holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from imagemill.compare.pictures import draw_history, draw_versions
from imagemill.errors import ServiceError, UnknownNameError
from imagemill.params import Params
from imagemill.records import REPORTS
from imagemill.table import aligned, readable_size
from imagemill.tracking import Measured, compare_url, measured_versions
from imagemill.tracking.address import is_server

PICTURE = REPORTS / "compare.png"
# Where `imagemill up` shows MLflow if nothing else is there.
USUAL_PAGE = "http://127.0.0.1:5000"
_HEADINGS = (
    *("version", "variant", "val top-1 %", "95 % interval", "test top-1 %", "size", "p50 ms"),
    *("J/1000", "data", "verdict", ""),
)


@dataclass(frozen=True)
class Comparison:
    """What is shown."""

    table: str
    picture: Path  # relative to the project's root
    link: str


def compare(root: Path, params: Params, names: Sequence[str]) -> Comparison:
    """Versions side by side.

    Args:
        root: The project's root.
        params: Of them `register`.
        names: Numbers, aliases or variants; none: all there are.

    Raises:
        UnknownNameError: no version goes by a name.
        ServiceError: there is no registry, or nothing in it.
    """
    versions = measured_versions(root, params, names)
    if not versions:
        raise ServiceError(
            f"{params.register_.model_name!r} has no registered version yet; `imagemill run` "
            "makes one"
        )
    draw_versions(root / PICTURE, versions)
    address = params.register_.tracking_uri
    page = address.rstrip("/") if is_server(address) else USUAL_PAGE
    runs = {version.version: version.run_id for version in versions}
    link = f"{page}/{compare_url(params.register_.model_name, runs)}"
    return Comparison(table_of(versions), PICTURE, link)


def plot_metric(root: Path, params: Params, metric: str) -> Path:
    """Draw a metric over all versions; returns the picture, relative to the root.

    Args:
        root: The project's root.
        params: Of them `register`.
        metric: As MLflow names it, such as val_top1, size_bytes or recall/<class>.

    Raises:
        UnknownNameError: no version has such a metric.
        ServiceError: there is no registry.
    """
    versions = measured_versions(root, params, ())
    known = {name for version in versions for name in version.figures}
    if metric not in known:
        raise UnknownNameError("metric", metric, known)
    picture = REPORTS / f"compare-{quote(metric, safe=' ').replace('%2F', '-')}.png"
    draw_history(root / picture, metric, versions)
    return picture


def table_of(versions: Sequence[Measured]) -> str:
    """A line a version."""
    return "\n".join(aligned([_HEADINGS, *map(_cells, versions)]))


def _cells(version: Measured) -> tuple[str, ...]:
    figures = version.figures
    energy = figures.get("energy_joules_per_1000")
    low, high = figures["val_top1_ci95_low"], figures["val_top1_ci95_high"]
    return (
        str(version.version),
        version.variant,
        f"{100 * figures['val_top1']:.2f}",
        f"{100 * low:.2f} to {100 * high:.2f}",
        f"{100 * figures['top1']:.2f}",
        readable_size(figures["size_bytes"]),
        f"{figures['latency_ms_p50']:.3f}",
        "" if energy is None else f"{energy:.2f}",
        version.data_digest[:8],
        version.verdict,
        ", ".join(version.aliases),
    )
