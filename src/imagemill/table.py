"""The table at the end of a run: one line a variant, read from its evaluation and the registry."""

from collections.abc import Sequence
from pathlib import Path

from imagemill import records
from imagemill.records import Evaluation, Registration

_HEADINGS = ("variant", "top-1 %", "95 % interval", "size", "p50 ms", "speed-up", "J/1000")


def result_table(root: Path) -> str:
    """The variants of the last run as aligned text, with their aliases in the registry.

    Args:
        root: The project's root.

    Raises:
        IntegrityError: an evaluation or the registration is missing or damaged.
    """
    registration = Registration.read(root / records.REGISTER)
    aliases = {entry.variant: ", ".join(entry.aliases) for entry in registration.versions}
    evaluations = read_evaluations(root)
    is_measured = any(entry.energy_joules_per_1000 is not None for entry in evaluations)
    num_columns = len(_HEADINGS) if is_measured else len(_HEADINGS) - 1
    rows = [(*_HEADINGS[:num_columns], "")]
    rows += [
        (*_cells(entry)[:num_columns], aliases.get(entry.variant, "")) for entry in evaluations
    ]
    return "\n".join([*aligned(rows), *_earlier_champion(registration)])


def _earlier_champion(registration: Registration) -> list[str]:
    """A line about a champion of earlier content: only a promotion moves the alias."""
    if registration.champion_version in {entry.version for entry in registration.versions}:
        return []
    return [
        f"champion is still version {registration.champion_version} "
        f"({registration.champion}), of an earlier run"
    ]


def read_evaluations(root: Path) -> list[Evaluation]:
    """Every evaluation on disk, the base first, the others by their speed-up.

    Raises:
        IntegrityError: an evaluation is damaged.
    """
    folder = root / records.REPORTS / "evaluate"
    entries = [Evaluation.read(path) for path in sorted(folder.glob("*.json"))]
    return sorted(entries, key=lambda entry: (entry.parent is not None, entry.speedup_over_base))


def _cells(entry: Evaluation) -> tuple[str, ...]:
    low, high = entry.top1_ci95
    energy = entry.energy_joules_per_1000
    return (
        entry.variant,
        f"{100 * entry.top1:.2f}",
        f"{100 * low:.2f} to {100 * high:.2f}",
        readable_size(entry.size_bytes),
        f"{entry.latency_ms_p50:.3f}",
        f"{entry.speedup_over_base:.2f} x",
        "" if energy is None else f"{energy:.2f}",
    )


def readable_size(size_bytes: float) -> str:
    """Bytes in the unit a person would choose (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to their widest cell: the first to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    last = len(row) - 1
    return [
        cell.ljust(width) if column in (0, last) else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
