"""One writer at work, in a process of its own: `python -m benchmarks.shard_writers CASE FOLDER`.

FOLDER/inputs.json names the files that say what to write; what it took goes to FOLDER/figure.json.
Nothing is imported here but what the case needs, for whole processes are compared too.

A sample is the path of an image and its class; what peers pack are the file's bytes and the class,
each with its own defaults where it has some. Their shards close at 10,000 images or 256 MB where
the writer can be told, else at 64 MB.
"""

import json
import resource
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

Inputs = dict[str, str]
Work = Callable[[], object]

UNHASHED, HASHED, QUARTER, STAGE = (
    "imagemill, no sha256",
    "imagemill, sha256",
    "imagemill, sha256, a quarter of the data",
    "imagemill, the whole stage",
)
_MAX_IMAGES, _MAX_BYTES = 10_000, 1 << 28
_CHUNK_BYTES = 1 << 26


def measured(case: str, folder: Path) -> dict[str, float]:
    """CPU seconds of the work alone, all imports done, and the largest process's peak memory."""
    inputs = json.loads((folder / "inputs.json").read_bytes())
    work = WRITERS[case](inputs)
    before = cpu_seconds()
    work()
    return {"work_seconds": cpu_seconds() - before, "peak_bytes": _peak_bytes()}


def cpu_seconds() -> float:
    """Of this process and of children it has waited for, user and system."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak_bytes() -> int:
    # A process's own rusage would hold the size of the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    own = int(dict(line.split(":", 1) for line in lines)["VmHWM"].split()[0])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024


# Ours ----------------------------------------------------------------------------------------


def _worker(inputs: Inputs, *, jobs: str, hashing: bool = True) -> Work:
    """The process that writes shards where there are several, from planned jobs on."""
    from imagemill.shard import worker, write

    if not hashing:
        write.TarWriter = partial(write.TarWriter, hashing=False)

    def work() -> None:
        with Path(inputs[jobs]).open() as sys.stdin:
            worker.main()

    return work


def _stage(inputs: Inputs) -> Work:
    """`imagemill shard --full`: reads, joins and sorts four tables before, writes index and
    manifest after."""
    from imagemill.params import read_params
    from imagemill.shard import shard

    root = Path(inputs["root"])
    params = read_params(root).shard
    return partial(shard, root, params, log=lambda _: None, full=True, workers=1)


# Others --------------------------------------------------------------------------------------


def _samples(inputs: Inputs) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = json.loads(Path(inputs["samples"]).read_bytes())
    return found


def _tarfile(inputs: Inputs) -> Work:
    import tarfile

    samples = _samples(inputs)

    def work() -> None:
        with tarfile.open(Path(inputs["out"]) / "all.tar", "w") as tar:
            for path, _ in samples:
                tar.add(path)

    return work


def _webdataset(inputs: Inputs) -> Work:
    from webdataset import ShardWriter

    samples, pattern = _samples(inputs), str(Path(inputs["out"]) / "train-%06d.tar")

    def work() -> None:
        with ShardWriter(pattern, maxcount=_MAX_IMAGES, maxsize=_MAX_BYTES, verbose=0) as writer:
            for number, (path, target) in enumerate(samples):
                content = Path(path).read_bytes()
                writer.write({"__key__": f"{number:08d}", "jpg": content, "cls": target})

    return work


def _litdata_sample(sample: tuple[str, int]) -> dict[str, Any]:
    path, target = sample
    return {"image": Path(path).read_bytes(), "label": target}


def _litdata(inputs: Inputs) -> Work:
    import litdata

    return partial(
        litdata.optimize,
        fn=_litdata_sample,
        inputs=_samples(inputs),
        output_dir=str(Path(inputs["out"]) / "litdata"),
        chunk_bytes=_CHUNK_BYTES,
        num_workers=1,
    )


def _streaming(inputs: Inputs, *, hashes: Sequence[str] = ()) -> Work:
    from streaming import MDSWriter

    samples, out = _samples(inputs), str(Path(inputs["out"]) / "mds")
    columns = {"image": "bytes", "label": "int"}

    def work() -> None:
        with MDSWriter(
            out=out, columns=columns, size_limit=_CHUNK_BYTES, hashes=list(hashes)
        ) as writer:
            for path, target in samples:
                writer.write({"image": Path(path).read_bytes(), "label": target})

    return work


# Case -> what imports all it needs and returns the work.
WRITERS: dict[str, Callable[[Inputs], Work]] = {
    UNHASHED: partial(_worker, jobs="jobs", hashing=False),
    HASHED: partial(_worker, jobs="jobs"),
    QUARTER: partial(_worker, jobs="quarter"),
    STAGE: _stage,
    "Python tarfile": _tarfile,
    "webdataset.ShardWriter": _webdataset,
    "litdata.optimize": _litdata,
    "streaming.MDSWriter": _streaming,
    "streaming.MDSWriter, sha256": partial(_streaming, hashes=("sha256",)),
}


if __name__ == "__main__":
    place = Path(sys.argv[2])
    figure = measured(sys.argv[1], place)
    (place / "figure.json").write_text(json.dumps(figure), encoding="utf-8")
