"""The stage: everything a run found on one page that needs nothing else."""

from collections.abc import Callable
from pathlib import Path

from imagemill import pages, records
from imagemill.params import Params
from imagemill.records import write_bytes
from imagemill.report.contents import gather
from imagemill.table import readable_size

PAGE = records.REPORTS / "index.html"


def report(root: Path, params: Params, *, log: Callable[[str], None]) -> None:
    """Write reports/index.html; the same files give the same bytes.

    Args:
        root: The project's root.
        params: All sections.
        log: Gets one line.

    Raises:
        IntegrityError: a file of an earlier stage is missing or damaged.
        DiskError: reports/ cannot be written.
    """
    page = pages.render("imagemill.report", _FILTERS, page=gather(root, params))
    write_bytes(root / PAGE, page)
    log(f"report: {PAGE}, {readable_size(len(page))}, opens in any browser without a network")


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction as percent; a dash for what is unknown."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f} %"


def count(number: int | None) -> str:
    """A whole number with separators; a dash for what is unknown."""
    return "–" if number is None else f"{number:,}"


def size(size_bytes: int | None) -> str:
    """Bytes as a person reads them; a dash for what is unknown."""
    return "–" if size_bytes is None else readable_size(size_bytes)


def decimals(number: float | None, digits: int = 2) -> str:
    """A number with so many decimals; a dash for what is unknown."""
    return "–" if number is None else f"{number:,.{digits}f}"


def short_digest(digest: str | None) -> str:
    """As much of a digest as a person compares."""
    return "–" if digest is None else digest[:12]


def extent(pixels: dict[str, int]) -> str:
    """Smallest, largest and median side, as short as they allow."""
    if pixels["min"] == pixels["max"]:
        return str(pixels["min"])
    return f"{pixels['min']} to {pixels['max']} (median {pixels['median']})"


_FILTERS: dict[str, Callable[..., str]] = {
    "percent": percent,
    "size": size,
    "count": count,
    "decimals": decimals,
    "digest": short_digest,
    "extent": extent,
}
