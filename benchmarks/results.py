"""How measurements are written: one JSON file a benchmark, and the same as a table."""

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("torch", "onnxruntime", "prefect", "dvc", "mlflow", "pyarrow")


@dataclass(frozen=True)
class Row:
    """One measurement; `ratio` is value over the reference's value."""

    case: str
    value: float
    unit: str
    relative_to: str | None = None
    ratio: float | None = None

    def against(self, name: str, reference: float) -> "Row":
        """The same beside another's figure."""
        return replace(self, relative_to=f"{name}: {reference:g}", ratio=self.value / reference)


def write_results(name: str, rows: Sequence[Row]) -> None:
    """Write results/<name>.json and print the rows."""
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} CPUs",
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "rows": [asdict(row) for row in rows],
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print_rows(rows)


def print_rows(rows: Sequence[Row]) -> None:
    """One line each."""
    for row in rows:
        ratio = f"  ({row.ratio:.3g} x {row.relative_to})" if row.ratio is not None else ""
        sys.stdout.write(f"{row.case:<60} {row.value:10.4g} {row.unit}{ratio}\n")
