"""Killed while sharding: what is in the folder is complete and listed, and nothing is lost."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kill_points import PARAMS, Trial, state

from imagemill import records
from imagemill.shard import shard


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A project whose next run has much to do."""
    return Trial(tmp_path_factory.mktemp("exchange"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_kill_leaves_whole_shards(trial: Trial, seed: int) -> None:
    """SIGKILL of the whole process group; the finished result is that of an unkilled run."""
    assert trial.kill_once(seed, exchange=True) in ("old", "new")


def test_random_kill_without_exchange_leaves_whole_shards(trial: Trial) -> None:
    """The same where a folder steps aside for another in two renames."""
    assert trial.kill_once(4, exchange=False) in ("old", "new", "between renames")


KILLED_BETWEEN = """
import os, signal, sys
from pathlib import Path
from imagemill.params import ShardParams
from imagemill.shard import publish, shard

root, fatal = Path(sys.argv[1]), int(sys.argv[2])
seen = None

def refuse(*_):
    global seen
    seen = 0
    raise OSError("this filesystem cannot exchange folders")

def watch(event, arguments):
    global seen
    if seen is not None and event in ("os.rename", "shutil.rmtree"):
        seen += 1
        if seen == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

publish._exchange = refuse
sys.addaudithook(watch)
shard(root, ShardParams.model_validate_json(sys.argv[3]), log=lambda _: None)
"""


@pytest.mark.parametrize("fatal", [1, 2, 3])
def test_kill_between_renames_loses_nothing(trial: Trial, tmp_path: Path, fatal: int) -> None:
    """Before, between and after the two renames the old or the new state is whole somewhere."""
    root = Path(shutil.copytree(trial.before, tmp_path / "project"))
    command = [sys.executable, "-c", KILLED_BETWEEN, str(root), str(fatal)]
    done = subprocess.run([*command, PARAMS.model_dump_json()], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (root / records.SHARDS).exists() == (fatal != 2)
    if fatal == 2:
        assert (root / "data/.shards.old/manifest.json").exists()
    else:
        assert state(root) == (trial.old if fatal == 1 else trial.new)
    shard(root, PARAMS, log=lambda _: None)
    assert state(root) == trial.new
    assert not list((root / "data").glob(".*"))


def test_worker_ends_with_the_one_who_asked() -> None:
    """A worker whose standard input closes is gone; nobody has to look for it."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "imagemill.shard.worker"], stdin=subprocess.PIPE
    )
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(timeout=30) == 0
