"""Writing shards beside `tar cf` and other writers: `python -m benchmarks.sharding`.

Files lie in a folder and in the page cache. Every case runs in a process of its own; what counts
are CPU seconds (user and system, of the process and those it starts), in two ways:

- "whole process": from its start to its end, imports and all. This is how `tar cf` is counted.
- "work alone": once all is imported and the list of files is in memory. For `tar cf` the same.

One rule holds for all cases of a comparison. The first is what a person waits for who packs these
files; the second is what remains where there are a hundred times as many. Cases take turns; in
every round the medians of a case's turns are compared, and of these ratios the median is told.

Our cases write the target beside each image, their part of the index, and sync every shard, which
others do not; with "sha256" the shard's own digest is taken in the same pass. Members are not
hashed again while their files are unchanged, but for those up to 2 kB. They start from planned
jobs; "the whole stage" starts from the results of ingest, audit and split. Peers get the bytes of
each file and its class. A missing one is passed over.
"""

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.photographs import FOLDER, cifar_files, photographs
from benchmarks.results import Row, write_results
from benchmarks.shard_writers import HASHED, QUARTER, STAGE, UNHASHED
from imagemill.params import PARAMS_FILE, Params, parse_params, read_yaml

ROUNDS = 5
# Of cases that take a second or less, in each round: the shorter, the closer to their neighbours.
TURNS = 3
PROJECT = Path(__file__).resolve().parent.parent
TAR = "tar cf"
QUICK = (TAR, UNHASHED, HASHED, "Python tarfile")
# Case -> the module that must be there.
PEERS = {
    "webdataset.ShardWriter": "webdataset",
    "litdata.optimize": "litdata",
    "streaming.MDSWriter": "streaming",
    "streaming.MDSWriter, sha256": "streaming",
}
WAYS = ("work alone", "whole process")
# The first touch of memory that the machine gave back to its host costs ten times the usual.
WARM_BYTES = 1 << 30


@dataclass(frozen=True)
class Figure:
    """What one run took."""

    seconds: dict[str, float]  # of CPU time, by `WAYS`
    peak_bytes: int  # of resident memory, of the largest process


Round = dict[str, list[Figure]]


def measure() -> list[Row]:
    """Figures of all cases on both sets of files."""
    rows: list[Row] = []
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, files in (("photographs", photographs()), ("CIFAR-10", cifar_files())):
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            place = _Place(Path(folder), files)
            place.prepare()
            rows += _rows(name, [_round(place) for _ in range(ROUNDS)])
    return rows


def _round(place: "_Place") -> Round:
    found: Round = {}
    slow = [STAGE, QUARTER, *(case for case, module in PEERS.items() if find_spec(module))]
    for case in (*QUICK * TURNS, *slow):
        found.setdefault(case, []).append(place.run(case))
    return found


def _rows(name: str, rounds: list[Round]) -> Iterator[Row]:
    peers = [case for case in PEERS if case in rounds[0]]
    for way in WAYS:
        for case in (*QUICK, STAGE, *peers):
            yield _row(name, rounds, way, case, TAR)
        for case in peers:
            for ours in (UNHASHED, HASHED):
                yield _row(name, rounds, way, ours, case)
    for case in (HASHED, QUARTER, *peers):
        peak = max(figure.peak_bytes for of in rounds for figure in of[case])
        yield Row(f"{name}: {case}, peak memory", round(peak / 1e6, 1), "MB")


def _row(name: str, rounds: list[Round], way: str, case: str, reference: str) -> Row:
    """The ratio is of speed: above 1 is faster than the reference."""
    seconds, ratios = [], []
    for of in rounds:
        seconds.append(statistics.median(figure.seconds[way] for figure in of[case]))
        ratios.append(
            statistics.median(figure.seconds[way] for figure in of[reference]) / seconds[-1]
        )
    ratio = round(statistics.median(ratios), 3)
    value = round(statistics.median(seconds), 3)
    return Row(f"{name}: {case}, {way}", value, "CPU s", reference, ratio)


class _Place:
    """A project on files in the page cache that has come as far as `shard`, and its inputs.

    Args:
        root: An empty folder.
        files: The images.
    """

    def __init__(self, root: Path, files: Path) -> None:
        self._root = root
        self._files = files
        self._out = root / "out"

    def prepare(self) -> None:
        """Run the stages before, and write down what cases start from."""
        from imagemill.audit import audit
        from imagemill.ingest import ingest
        from imagemill.split import split

        document = _document(self._files)
        (self._root / PARAMS_FILE).write_text(json.dumps(document), encoding="utf-8")
        params = parse_params(document, where=PARAMS_FILE)
        ingest(self._root, params.ingest, log=print)
        audit(self._root, params.audit, log=print)
        split(self._root, params.split, log=print)
        samples = self._root / "samples.json"
        samples.write_text(json.dumps(_samples(self._files)), encoding="utf-8")
        inputs = {
            "root": str(self._root),
            "out": str(self._out),
            "samples": str(samples),
            "jobs": self._jobs(params, "jobs", parts=1),
            "quarter": self._jobs(params, "quarter", parts=4),
        }
        (self._root / "inputs.json").write_text(json.dumps(inputs), encoding="utf-8")

    def _jobs(self, params: Params, name: str, *, parts: int) -> str:
        """A file of planned jobs, one a line, for one of so many parts of the data."""
        from imagemill.parquet import SortedRuns
        from imagemill.shard.jobs import ROW_SCHEMA, Packing, cut
        from imagemill.shard.plan import FROM_SCRATCH, rows_to_write

        classes = sorted(path.name for path in self._files.glob("**/*") if path.is_dir())
        path = self._root / f"{name}.jsonl"
        packing = Packing(self._root, self._root / name, FROM_SCRATCH, params.shard)
        with SortedRuns(self._root / "order", ROW_SCHEMA, by="order") as rows:
            for table in rows_to_write(self._root, classes, FROM_SCRATCH):
                part = table.slice(0, table.num_rows // parts)
                rows.add(part.select(ROW_SCHEMA.names).cast(ROW_SCHEMA))
            lines = [json.dumps(job) + "\n" for job in cut(rows.merged(), packing)]
        path.write_text("".join(lines), encoding="utf-8")
        return str(path)

    def run(self, case: str) -> Figure:
        """Run a case and remove what it wrote."""
        command = [sys.executable, "-m", "benchmarks.shard_writers", case, str(self._root)]
        if case == TAR:
            command = ["tar", "cf", str(self._out / "all.tar"), "-C", str(self._files), "."]
        self._out.mkdir()
        _touch_memory()
        before = _children_seconds()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=PROJECT)
        seconds = _children_seconds() - before
        self._clear()
        if case == TAR:
            return Figure(dict.fromkeys(WAYS, seconds), 0)
        figure = json.loads((self._root / "figure.json").read_bytes())
        both = dict(zip(WAYS, (figure["work_seconds"], seconds), strict=True))
        return Figure(both, figure["peak_bytes"])

    def _clear(self) -> None:
        for folder in (self._out, self._root / "data" / "shards"):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("jobs", "quarter"):
            for path in (self._root / name).rglob("*.tar"):
                path.unlink()


def _document(files: Path) -> dict[str, Any]:
    document = read_yaml(PROJECT / "recipes" / "cifar10.yaml")
    document["ingest"]["source"] = str(files)
    # The photographs' folder has no given splits, and repeats among them are not the point.
    document["audit"]["quarantine_budget"] = 1.0
    return document


def _samples(files: Path) -> list[tuple[str, int]]:
    """Path and class of each file."""
    paths = sorted(files.rglob("*.jpg"))
    numbers = {name: number for number, name in enumerate(sorted({p.parent.name for p in paths}))}
    return [(str(path), numbers[path.parent.name]) for path in paths]


def _touch_memory() -> None:
    assert b"\1" * WARM_BYTES


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    write_results("sharding", measure())
