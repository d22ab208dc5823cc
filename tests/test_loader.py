"""Facts about the loader: the same batches whoever decodes them, a named error for each fault."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from loader_runs import batches, loader, make_project, same, workers_of

from imagemill.errors import IntegrityError, LoaderError
from imagemill.loading.digests import VERIFIED
from imagemill.loading.plan import Share
from imagemill.records import (
    AUGMENTED_MANIFEST,
    DATA,
    SHARD_MANIFEST,
    CopiesManifest,
    ShardManifest,
)
from imagemill.shard.verified import remember

STEPS = 18  # two epochs of 60 samples in batches of 7
SHARD = DATA / "shards/train/train-000003.tar"
ABANDONED = """
import sys
from pathlib import Path
from loader_runs import loader
with loader(Path(sys.argv[1])) as opened:
    for batch in opened.batches(0, 10**6):
        print(batch.step.number, flush=True)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def spoil(root: Path, offset: int = 600) -> None:
    """Change a byte of a shard."""
    with (root / SHARD).open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 255]))


@pytest.fixture
def running(root: Path) -> subprocess.Popen[bytes]:
    """A process in the middle of loading, with decoding processes of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ABANDONED, str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, stderr=-3)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


# The same batches ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_do_not_change_a_batch(workers: int, root: Path) -> None:
    """Decoded in any number of processes, batches are those decoded in none."""
    alone = batches(root, 0, STEPS, workers=0)
    assert same(batches(root, 0, STEPS, workers=workers), alone)


def test_a_run_may_start_at_any_step(root: Path) -> None:
    """Batches from the middle of an epoch on are those of the whole run."""
    whole = batches(root, 0, STEPS, workers=0)
    for first in (1, 8, 9, 13):
        assert same(batches(root, first, STEPS, workers=2), whole[first:])


def test_ranks_together_give_the_global_batch(root: Path) -> None:
    """Images and samples of three ranks, put together, are those of one."""
    alone = batches(root, 0, STEPS, workers=0)
    shares = [batches(root, 0, STEPS, workers=0, share=Share(rank, 3)) for rank in range(3)]
    for whole, *parts in zip(alone, *shares, strict=True):
        assert [position for part in parts for position in part.own] == whole.own
        assert np.array_equal(np.concatenate([part.images for part in parts]), whole.images)


def test_a_rank_without_a_sample_gets_one_that_does_not_count(root: Path) -> None:
    """With more ranks than samples in the last batch, a rank still has an image to step with."""
    got = batches(root, 8, 9, workers=0, share=Share(0, 8))[0]
    assert (got.own, len(got.images)) == ([], 1)


def test_rows_that_mixing_needs_come_behind_the_own(root: Path) -> None:
    """A rank's neighbour from another slice is loaded with its batch, augmented as there."""

    def with_next(batch_G: np.ndarray, mine_B: np.ndarray) -> np.ndarray:
        place = int(np.flatnonzero(batch_G == mine_B[-1])[0])
        return np.append(mine_B, batch_G[(place + 1) % len(batch_G)])

    whole = batches(root, 0, 4, workers=0)
    for workers in (0, 2):
        parts = batches(root, 0, 4, workers=workers, share=Share(0, 2), rows=with_next)
        for part, alone in zip(parts, whole, strict=True):
            count = len(part.own)
            assert part.rows == alone.own[: count + 1]
            assert np.array_equal(part.images, alone.images[: count + 1])


def test_a_cached_split_starts_no_process(root: Path) -> None:
    """Where decoded pixels are at hand, no process is asked for them."""
    with loader(root, cache_bytes=10**9, workers=2) as opened:
        next(opened.batches(0, STEPS))
        assert workers_of() == []


def test_a_device_decodes_only_where_it_is_told_to(root: Path) -> None:
    """With decoder: nvjpeg the device's decoder is asked, in this process; with cpu it is not."""
    alone = batches(root, 0, 2, workers=0)
    for decoder, processes in (("nvjpeg", 0), ("cpu", 2)):
        with loader(root, decoder=decoder, device="cpu", workers=2) as opened:
            batch = next(opened.batches(0, STEPS))
            assert np.array_equal(batch.images_RHWC, alone[0].images)
            assert len(workers_of()) == processes


# Faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_is_named(workers: int, root: Path) -> None:
    """A shard whose bytes are not those on record stops the run before an image of it is used."""
    spoil(root)
    with pytest.raises(IntegrityError, match=r"train-000003\.tar is damaged: its sha256 is"):
        batches(root, 0, STEPS, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_shard_is_named(workers: int, root: Path) -> None:
    """A shard that is gone is an error that names it."""
    (root / SHARD).unlink()
    with pytest.raises(IntegrityError, match=r"train-000003\.tar is missing"):
        batches(root, 0, STEPS, workers=workers)


def test_a_shard_of_another_size_is_named(root: Path) -> None:
    """A shard that was cut off is not even hashed."""
    os.truncate(root / SHARD, 4096)
    with pytest.raises(IntegrityError, match="it has 4096 bytes, on record are"):
        batches(root, 0, STEPS, workers=0)


def test_shards_of_copies_are_checked_too(root: Path) -> None:
    """What `augment` puts on record of its shards counts as much as what `shard` does."""
    data = ShardManifest.read(root / SHARD_MANIFEST)
    CopiesManifest(shards=data.shards).write(root / AUGMENTED_MANIFEST)
    data.model_copy(update={"shards": []}).write(root / SHARD_MANIFEST)
    spoil(root)
    with pytest.raises(IntegrityError, match=r"train-000003\.tar is damaged"):
        batches(root, 0, 9, workers=0)


def test_a_shard_that_changes_between_runs_is_hashed_again(root: Path) -> None:
    """What was verified before is not trusted once its stat has changed."""
    batches(root, 0, 9, workers=0)
    spoil(root)
    with pytest.raises(IntegrityError, match="is damaged"):
        batches(root, 0, 9, workers=0)


def test_what_shard_has_hashed_is_not_hashed_again(root: Path) -> None:
    """The note `shard` leaves is believed for as long as the file's stat is that of the note."""
    remember(root, ShardManifest.read(root / SHARD_MANIFEST).shards)
    status = (root / SHARD).stat()
    spoil(root, offset=100)  # in a header, so that no image tells
    os.utime(root / SHARD, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(batches(root, 0, 9, workers=0)) == 9
    os.utime(root / SHARD)
    with pytest.raises(IntegrityError, match="is damaged"):
        batches(root, 0, 9, workers=0)


def test_a_shard_is_hashed_once(root: Path) -> None:
    """What all processes of a run found right is remembered, a file a shard."""
    batches(root, 0, STEPS, workers=2)
    stamps = {path: path.stat().st_mtime_ns for path in (root / VERIFIED).iterdir()}
    batches(root, 0, STEPS, workers=2)
    assert {path: path.stat().st_mtime_ns for path in (root / VERIFIED).iterdir()} == stamps
    assert len([path for path in stamps if not path.name.startswith(".")]) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_decoded_is_named(workers: int, tmp_path: Path) -> None:
    """Without a digest on record, the image itself is found out and named by its key."""
    from made_shards import make_shards

    make_shards(tmp_path, size=12, per_shard=10)
    with (tmp_path / SHARD).open("r+b") as stream:
        stream.seek(512)
        stream.write(bytes(188))
    with pytest.raises(IntegrityError, match="'train/dark/0030'"):
        batches(tmp_path, 0, STEPS, workers=workers)


def test_a_killed_worker_is_a_named_error_within_seconds(root: Path) -> None:
    """SIGKILL to a decoding process ends the run with a sentence, not with a hang."""
    with loader(root, workers=2) as opened, pytest.raises(LoaderError) as caught:
        for batch in opened.batches(0, 10**6):
            if batch.step.number == 5:
                start = time.monotonic()
                workers_of()[1].kill()
    assert "was killed (signal 9" in str(caught.value)
    assert "train/" in str(caught.value)
    assert time.monotonic() - start < 10


def test_a_hanging_worker_is_a_named_error(root: Path) -> None:
    """A process that stands still is given up after loading.stall_seconds, with what it was at."""
    with loader(root, workers=2, stall_seconds=1) as opened, pytest.raises(LoaderError) as caught:
        for batch in opened.batches(0, 10**6):
            if batch.step.number == 5:
                workers_of()[0].send_signal(signal.SIGSTOP)
    assert "decoding process 0 got nowhere for 1 s" in str(caught.value)
    assert "in data/shards/train/train-" in str(caught.value)


def test_no_process_is_left_after_an_error(root: Path) -> None:
    """Whatever ends a run, its decoding processes end with it."""
    spoil(root)
    with pytest.raises(IntegrityError):
        batches(root, 0, STEPS, workers=3)
    assert workers_of() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_worker_outlives_its_parent(number: signal.Signals, running: subprocess.Popen) -> None:
    """Killed, interrupted or ended, a process takes its decoding processes along."""
    below = workers_of(psutil.Process(running.pid))
    assert len(below) == 2
    running.send_signal(number)
    gone, alive = psutil.wait_procs(below, timeout=10)
    assert (len(gone), alive) == (2, [])


def test_a_stopped_worker_ends_with_its_parent_too(running: subprocess.Popen) -> None:
    """Even one that cannot run any more is no orphan."""
    below = workers_of(psutil.Process(running.pid))
    below[0].send_signal(signal.SIGSTOP)
    running.kill()
    assert psutil.wait_procs(below, timeout=10)[1] == []


def test_nothing_stays_open(root: Path) -> None:
    """A finished run leaves no descriptor, no thread and no process behind."""
    batches(root, 0, STEPS, workers=2)
    me = psutil.Process()
    before = (me.num_fds(), me.num_threads(), len(workers_of()))
    batches(root, 0, STEPS, workers=2)
    assert (me.num_fds(), me.num_threads(), len(workers_of())) == before


def test_a_loader_can_start_again(root: Path) -> None:
    """Steps asked for anew, in the middle of others, are the right ones."""
    with loader(root) as opened:
        next(opened.batches(0, STEPS))
        again = [batch.step.own().tolist() for batch in opened.batches(3, 6)]
    assert again == [got.own for got in batches(root, 3, 6, workers=0)]
