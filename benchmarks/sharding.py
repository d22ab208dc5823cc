"""Writing shards beside `tar cf` and other writers: `python -m benchmarks.sharding`.

Files lie in a folder and in the page cache. A case runs in a process of its own; what counts are
the CPU seconds (user and system, its own and those of processes it starts) of the writing alone,
after all imports. Cases take turns, and medians over the rounds are compared.

- "rows to shards" is the core of the stage: from sorted rows, the result of ingest, audit, split
  and plan, to finished, synced tars with their targets and their part of the index. With or without
  the shard's own sha256, which is taken in the same pass. Members are not hashed again while their
  files are unchanged, but for those up to 2 kB.
- "whole stage" is `imagemill shard --full`: that, and reading, joining and sorting four tables
  before, index and manifest after.
- "a worker" is the process that writes shards where there are several, from its start to its end,
  beside the peers' processes from their start: their imports counted.
- Peers get the bytes of each file and its class, and take no digest but where it says so. A missing
  one is passed over.
"""

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import psutil

from benchmarks.photographs import FOLDER, cifar_files, photographs
from benchmarks.results import Row, write_results
from imagemill.params import Params, parse_params, read_yaml

ROUNDS = 3
PROJECT = Path(__file__).resolve().parent.parent
TAR, CORE, STAGE = "tar cf", "rows to shards", "whole stage"
UNHASHED = "rows to shards, no sha256"
# Of a worker process: these are about its memory.
WORKER, WORKER_QUARTER = "a worker", "a worker, a quarter of the data"
# Case -> the module that must be there.
PEERS = {
    "webdataset.ShardWriter": "webdataset",
    "litdata.optimize": "litdata",
    "streaming.MDSWriter": "streaming",
    "streaming.MDSWriter, sha256": "streaming",
}


@dataclass(frozen=True)
class Figure:
    """What one run took."""

    seconds: float  # of CPU time, for the work alone
    peak_bytes: int  # of resident memory, of the largest process
    process_seconds: float = 0.0  # of CPU time, from its start to its end


def measure() -> list[Row]:
    """Figures of all cases on both sets of files."""
    rows: list[Row] = []
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, files in (("photographs", photographs()), ("CIFAR-10", cifar_files())):
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            root = Path(folder)
            _prepare(root, files)
            figures: dict[str, list[Figure]] = {}
            for _ in range(ROUNDS):
                for case in _cases():
                    figures.setdefault(case, []).append(_run(case, root, files))
        rows += _rows(name, figures)
    return rows


def _cases() -> Iterator[str]:
    yield from (TAR, UNHASHED, CORE, STAGE, WORKER, WORKER_QUARTER)
    for case, module in PEERS.items():
        if find_spec(module):
            yield case
        else:
            sys.stdout.write(f"{case} is left out: {module} is not installed\n")


def _rows(name: str, figures: dict[str, list[Figure]]) -> Iterator[Row]:
    seconds = {
        case: statistics.median(figure.seconds for figure in of) for case, of in figures.items()
    }
    peaks = {case: max(figure.peak_bytes for figure in of) / 1e6 for case, of in figures.items()}
    for case in figures:
        if case not in (WORKER, WORKER_QUARTER):
            # Of speed: above 1 is faster than tar.
            ratio = round(seconds[TAR] / seconds[case], 3)
            yield Row(f"{name}: {case}", round(seconds[case], 3), "CPU s", TAR, ratio)
    for ours in (CORE, UNHASHED):
        for case in sorted(PEERS.keys() & figures.keys()):
            ratio = round(seconds[case] / seconds[ours], 2)
            yield Row(f"{name}: {ours}", round(seconds[ours], 3), "CPU s", case, ratio)
    whole = {case: statistics.median(f.process_seconds for f in of) for case, of in figures.items()}
    for case in sorted(PEERS.keys() & figures.keys()):
        ratio = round(whole[case] / seconds[WORKER], 2)
        yield Row(f"{name}: {WORKER}", round(seconds[WORKER], 3), "CPU s", f"all of {case}", ratio)
    for case, peak in peaks.items():
        if case in (WORKER, WORKER_QUARTER, *PEERS):
            yield Row(f"{name}: {case}, peak memory", round(peak, 1), "MB")


def _prepare(root: Path, files: Path) -> None:
    """A project that has come as far as `shard`, on files in the page cache."""
    # Not at the top: a case shall not carry the memory of the stages before it.
    from imagemill.audit import audit
    from imagemill.ingest import ingest
    from imagemill.split import split

    params = _params(files)
    ingest(root, params.ingest, log=print)
    audit(root, params.audit, log=print)
    split(root, params.split, log=print)


def _params(files: Path) -> Params:
    document = read_yaml(PROJECT / "recipes" / "cifar10.yaml")
    document["ingest"]["source"] = str(files)
    # The photographs' folder has no given splits, and repeats among them are not the point.
    document["audit"]["quarantine_budget"] = 1.0
    return parse_params(document, where="recipes/cifar10.yaml")


# One case, in a process of its own -----------------------------------------------------------


def _run(case: str, root: Path, files: Path) -> Figure:
    command = [sys.executable, "-m", "benchmarks.sharding", case, str(root), str(files)]
    before = _cpu_seconds()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figure = Figure(**json.loads(done.stdout.splitlines()[-1]))
    return replace(figure, process_seconds=_cpu_seconds() - before)


def _measured(case: str, root: Path, files: Path) -> Figure:
    out = root / "out"
    out.mkdir()
    work = _work(case, root, files, out)
    before = _cpu_seconds()
    of_workers = work()
    seconds = _cpu_seconds() - before
    shutil.rmtree(out)
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(each).ru_maxrss for each in who) * 1024
    return Figure(seconds, of_workers if isinstance(of_workers, int) else peak)


def _peak_of_children() -> int:
    """As the kernel saw it: a child's rusage would hold its parent's size."""
    peaks = [0]
    for child in psutil.Process().children():
        lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
        peaks.append(int(dict(line.split(":", 1) for line in lines)["VmHWM"].split()[0]) * 1024)
    return max(peaks)


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _work(case: str, root: Path, files: Path, out: Path) -> Callable[[], object]:
    """What is measured of a case; all that comes before is done here."""
    if case == TAR:
        command = ["tar", "cf", str(out / "all.tar"), "-C", str(files), "."]
        return partial(subprocess.run, command, check=True)
    if case == STAGE:
        from imagemill.shard import shard

        params = _params(files).shard
        return partial(shard, root, params, log=lambda _: None, full=True, workers=1)
    if case in (CORE, UNHASHED, WORKER, WORKER_QUARTER):
        return _core(root, files, out, case)
    from benchmarks.shard_writers import WRITERS

    import_module(PEERS[case])
    return partial(WRITERS[case], _samples(files), out)


def _core(root: Path, files: Path, out: Path, case: str) -> Callable[[], object]:
    from imagemill.parquet import SortedRuns
    from imagemill.shard import write
    from imagemill.shard.jobs import ROW_SCHEMA, Packing, cut
    from imagemill.shard.plan import FROM_SCRATCH, rows_to_write
    from imagemill.shard.workers import write_all, written_by_processes

    classes = sorted(path.name for path in files.glob("**/*") if path.is_dir())
    rows = SortedRuns(out / "order", ROW_SCHEMA, by="order")
    parts = 4 if case == WORKER_QUARTER else 1
    for table in rows_to_write(root, classes, FROM_SCRATCH):
        rows.add(table.slice(0, table.num_rows // parts).select(ROW_SCHEMA.names).cast(ROW_SCHEMA))
    # Held in memory here, which a stage never does: sorting is no part of this case.
    merged = list(rows.merged())
    packing = Packing(root, out, FROM_SCRATCH, _params(files).shard)
    in_worker = case in (WORKER, WORKER_QUARTER)

    def work() -> int | None:
        writer = partial(write.TarWriter, hashing=case != UNHASHED)
        jobs = cut(merged, packing)
        with mock.patch.object(write, "TarWriter", writer):
            if in_worker:
                return max(_peak_of_children() for _ in written_by_processes(jobs, 1))
            assert sum(1 for _ in write_all(jobs, workers=1))
            return None

    return work


def _samples(files: Path) -> list[tuple[str, int]]:
    """Path and class of each file."""
    paths = sorted(files.rglob("*.jpg"))
    numbers = {name: number for number, name in enumerate(sorted({p.parent.name for p in paths}))}
    return [(str(path), numbers[path.parent.name]) for path in paths]


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(asdict(_measured(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))))
    else:
        write_results("sharding", measure())
