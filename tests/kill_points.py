"""Kill `shard` at random moments: `python tests/kill_points.py 100`.

The stage runs in a process group of its own, with worker processes or without, and turns one state
of `data/shards` into another: shards are added, rewritten and removed. SIGKILL hits the whole group
after a random part of the time that a run takes. Afterwards everything in the folder must be
complete and listed, and a second run must end with the bytes of a run that nobody killed.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raw_images import params_for, picture, pictures, run_stages, write_files

from imagemill import records
from imagemill.records import ShardManifest, sha256_of_file
from imagemill.shard import shard

PARAMS = params_for(shard={"max_images": 15}).shard
_RUN = """
import sys
from pathlib import Path
from imagemill.params import ShardParams
from imagemill.shard import publish, shard

root, workers, exchange = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "exchange"
if not exchange:
    def refuse(*_):
        raise OSError("this filesystem cannot exchange folders")
    publish._exchange = refuse
params = ShardParams.model_validate_json(sys.argv[4])
print("ready", flush=True)
shard(root, params, log=lambda _: None, workers=workers)
print("done", flush=True)
"""


class Trial:
    """A project whose next run of `shard` has much to do, and what that run ends with.

    Args:
        folder: Where projects are made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.before = folder / "before"
        files = pictures({"cat": 120, "dog": 120})
        write_files(self.before / "raw", files)
        run_stages(self.before, params_for(shard={"max_images": 15}))
        for number in range(0, 120, 40):
            (self.before / f"raw/cat/{number:03d}.png").write_bytes(picture(7000 + number))
        for number in range(120, 240, 50):
            (self.before / f"raw/dog/{number:03d}.png").unlink()
        write_files(self.before / "raw", {f"cat/n{n}.png": picture(8000 + n) for n in range(60)})
        run_stages(self.before, params_for(shard={"max_images": 15}), until="split")
        self.old = state(self.before)
        finished = Path(shutil.copytree(self.before, folder / "finished"))
        self.seconds = {workers: self._timed(finished, workers) for workers in (1, 2)}
        self.new = state(finished)
        assert self.new != self.old

    def _timed(self, root: Path, workers: int) -> float:
        """How long a run takes that is left alone, seconds."""
        shutil.rmtree(root)
        shutil.copytree(self.before, root)
        process, start = self._started(root, workers), time.monotonic()
        assert process.stdout is not None and process.stdout.readline() == b"done\n"
        seconds = time.monotonic() - start
        assert process.wait() == 0
        return seconds

    def kill_once(self, seed: int, *, exchange: bool) -> str:
        """Kill a run at a random moment; says which state it left: old, new or between renames.

        Args:
            seed: Decides the moment, and whether there are worker processes.
            exchange: Whether the filesystem exchanges two folders in one step.

        Raises:
            AssertionError: something is lost, half written or listed nowhere.
        """
        draw = random.Random(seed)
        workers = draw.choice((1, 2))
        root = Path(shutil.copytree(self.before, self._folder / f"trial{seed}"))
        process = self._started(root, workers, exchange=exchange)
        time.sleep(draw.random() * self.seconds[workers] * 1.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        left = self._checked(root, exchange=exchange)
        shard(root, PARAMS, log=lambda _: None, workers=workers)
        assert state(root) == self.new, f"seed {seed}: the finished result differs"
        leftovers = [path.name for path in (root / records.DATA).glob(".*")]
        assert not leftovers, f"seed {seed}: {leftovers} are left in data/"
        shutil.rmtree(root)
        return left

    @staticmethod
    def _started(root: Path, workers: int, *, exchange: bool = True) -> "subprocess.Popen[bytes]":
        way = "exchange" if exchange else "rename"
        command = [sys.executable, "-c", _RUN, str(root), str(workers), way]
        process = subprocess.Popen(
            [*command, PARAMS.model_dump_json()], stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        return process

    def _checked(self, root: Path, *, exchange: bool) -> str:
        if not exchange and not (root / records.SHARDS).exists():
            # Between two renames: nothing half, and the old state is beside it.
            (root / "data/.shards.old").rename(root / records.SHARDS)
            assert state(root) == self.old
            (root / records.SHARDS).rename(root / "data/.shards.old")
            return "between renames"
        check_complete(root)
        now = state(root)
        assert now in (self.old, self.new)
        return "new" if now == self.new else "old"


def state(root: Path) -> dict[str, bytes]:
    """Every file of data/shards."""
    files = (path for path in (root / records.SHARDS).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def check_complete(root: Path) -> None:
    """What is in the folder is whole and listed; what is listed is there."""
    manifest = ShardManifest.read(root / records.SHARD_MANIFEST)
    listed = {f"data/{entry.path}": entry.sha256 for entry in manifest.shards}
    tars = {name for name in state(root) if name.endswith(".tar")}
    assert tars == listed.keys()
    assert all(sha256_of_file(root / name) == sha256 for name, sha256 in listed.items())
    assert sha256_of_file(root / records.SHARD_INDEX) == manifest.index_digest


def main() -> None:
    """Kill as often as asked, half of it where folders cannot be exchanged."""
    num_points = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder:
        trial, start = Trial(Path(folder)), time.monotonic()
        left = [trial.kill_once(seed, exchange=seed % 2 == 0) for seed in range(num_points)]
    counts = {name: left.count(name) for name in sorted(set(left))}
    print(f"{num_points} kills in {time.monotonic() - start:.0f} s, left: {counts}; nothing lost")


if __name__ == "__main__":
    main()
