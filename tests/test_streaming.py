"""Facts about the streaming layout: its order, its cache on disk, and stores that fail."""

import functools
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from loader_runs import batches, make_project, same, train_images
from pydantic import ValidationError

from imagemill.errors import DiskError, IntegrityError, LoaderError, ParamsError
from imagemill.loading.order import Window, windowed_order
from imagemill.loading.shard_cache import STREAM, ShardCache
from imagemill.params import LoadingParams
from imagemill.randomness import key_hashes
from imagemill.records import DATA, sha256_of_file

STEPS = 18
SHARD = "shards/train/train-000003.tar"
STREAMED = {"layout": "streaming", "remote": "far", "window_shards": 2}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose shards lie elsewhere: in the folder `far`."""
    make_project(tmp_path)
    (tmp_path / DATA / "shards/train").rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", tmp_path / "far/shards/train")
    return tmp_path


def streamed(root: Path, **changes: object) -> list:
    return batches(root, 0, STEPS, **STREAMED | {"workers": 0} | changes)


def stored(root: Path) -> dict[str, int]:
    """Name and size of what is in the cache."""
    files = (root / STREAM).iterdir()
    return {file.name: file.stat().st_size for file in files if not file.name.startswith(".")}


# Order ---------------------------------------------------------------------------------------


SHARD_N = np.repeat(np.arange(20, dtype=np.int32), 50)
HASHES = key_hashes([f"k{number}" for number in range(1000)])


def order(window: int, *, seed: int = 0, epoch: int = 0) -> np.ndarray:
    names = key_hashes([f"shard {number}" for number in range(20)])
    return windowed_order(HASHES, Window(window, SHARD_N, names), seed=seed, epoch=epoch)


def test_each_sample_stands_once_in_the_windowed_order() -> None:
    """It is a permutation, another one for another epoch and seed."""
    assert np.array_equal(np.sort(order(4)), np.arange(1000))
    assert np.array_equal(order(4), order(4))
    assert not np.array_equal(order(4), order(4, epoch=1))
    assert not np.array_equal(order(4), order(4, seed=1))


@pytest.mark.parametrize("window", [1, 4, 8])
def test_few_shards_are_needed_at_a_time(window: int) -> None:
    """At every moment at most window + 1 shards were begun and not finished."""
    shards = SHARD_N[order(window)]
    first = [int(np.flatnonzero(shards == shard)[0]) for shard in range(20)]
    last = [int(np.flatnonzero(shards == shard)[-1]) for shard in range(20)]
    live = [sum(a <= at <= b for a, b in zip(first, last, strict=True)) for at in range(1000)]
    assert max(live) <= window + 1


def test_the_windowed_order_does_not_know_numbers_of_shards() -> None:
    """Shards are told by their names: listed the other way round, the order stays."""
    names = key_hashes([f"shard {number}" for number in range(20)])
    turned = Window(4, (19 - SHARD_N).astype(np.int32), names[::-1].copy())
    assert np.array_equal(windowed_order(HASHES, turned, seed=0, epoch=0), order(4))


def test_streaming_needs_a_remote() -> None:
    """layout: streaming without remote is refused."""
    with pytest.raises(ValidationError, match="needs remote"):
        LoadingParams.model_validate(train_params() | {"layout": "streaming"})


def train_params() -> dict[str, object]:
    from loader_runs import loading

    return loading().model_dump()


# Batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_streamed_batches_do_not_depend_on_workers(workers: int, root: Path) -> None:
    """Fetched and decoded by several processes, batches are those of one."""
    assert same(streamed(root, workers=workers), streamed(root))


def test_a_streamed_run_may_start_at_any_step(root: Path) -> None:
    """Resumed in the middle of an epoch with an empty cache, batches are those of the whole run."""
    whole = streamed(root)
    for first in (4, 9, 13):
        shutil.rmtree(root / STREAM)
        assert same(batches(root, first, STEPS, **STREAMED), whole[first:])


def test_streamed_images_are_those_of_the_shards(root: Path) -> None:
    """An epoch has the same images as the local layout, in another order."""
    remote = {
        row: image for got in streamed(root)[:9] for row, image in zip(*got[1::2], strict=True)
    }
    shutil.rmtree(root / DATA / "shards/train", ignore_errors=True)
    (root / "moved").rename(root / DATA / "shards/train")
    local = batches(root, 0, 9, workers=0)
    for got in local:
        for row, image in zip(got.own, got.images, strict=True):
            assert np.array_equal(image, remote[row])


# The cache -----------------------------------------------------------------------------------


def shard_bytes(root: Path) -> int:
    return (root / "far" / SHARD).stat().st_size


def test_the_cache_stays_below_its_limit(root: Path) -> None:
    """Three epochs over six shards never keep more than the limit, which holds five and a half."""
    limit, seen = shard_bytes(root) * 13 // 2, []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            if (root / STREAM).exists():
                seen.append(sum(stored(root).values()))

    with ThreadPoolExecutor() as threads:
        threads.submit(watch)
        batches(root, 0, 27, **STREAMED | {"workers": 0, "window_shards": 1}, **limit_of(limit))
        ended.set()
    assert 0 < max(seen) <= limit


def limit_of(size_bytes: int) -> dict[str, object]:
    return {"stream_cache_bytes": size_bytes}


def test_a_cache_too_small_for_the_window_is_refused(root: Path) -> None:
    """Before anything is fetched, and with the number of bytes it takes."""
    with pytest.raises(ParamsError, match="a window of 2 shards needs"):
        streamed(root, **limit_of(3 * shard_bytes(root)))


def test_a_shard_in_use_is_not_removed(root: Path) -> None:
    """Room is made at the cost of shards nobody has open; without any it is an error."""
    cache = ShardCache(root, max_bytes=250)
    for name in ("a", "b"):
        with cache.receiving(name, 100) as part:
            part.publish()
    held = cache.opened("a")  # now the most recently used is also in use
    with cache.receiving("c", 100) as part:
        part.publish()
    assert set(stored(root)) == {"a", "c"}
    other = cache.opened("c")
    with pytest.raises(DiskError, match="are in use and"), cache.receiving("d", 100):
        pass
    for descriptor in (held, other):
        os.close(descriptor)


def test_the_least_recently_used_shard_goes_first(root: Path) -> None:
    """Of two, the one that was opened later stays."""
    cache = ShardCache(root, max_bytes=200)
    for name in ("a", "b"):
        with cache.receiving(name, 100) as part:
            part.publish()
    os.close(cache.opened("a"))
    with cache.receiving("c", 100) as part:
        part.publish()
    assert set(stored(root)) == {"a", "c"}


def test_a_part_left_by_a_killed_process_is_taken_over(root: Path) -> None:
    """Nobody holds its lock any more: its room counts as free, and the shard is fetched anew."""
    cache = ShardCache(root, max_bytes=150)
    (root / STREAM).mkdir(parents=True)
    (root / STREAM / "old.part").write_bytes(bytes(100))
    with cache.receiving("new", 100) as part:
        assert set(stored(root)) == {"new.part"}
        part.publish()


def test_one_process_fetches_a_shard(root: Path) -> None:
    """A second one that wants the same is told that it is on its way."""
    cache, other = ShardCache(root, max_bytes=500), ShardCache(root, max_bytes=500)
    with cache.receiving("a", 100) as part, other.receiving("a", 100) as second:
        assert part is not None
        assert second is None


def test_a_stored_shard_that_went_bad_is_fetched_again(root: Path) -> None:
    """Bytes that changed in the cache are noticed in the next run, and replaced."""
    whole = streamed(root)
    for file in (root / STREAM).iterdir():
        if not file.name.startswith("."):
            content = bytearray(file.read_bytes())
            content[600] ^= 255
            file.write_bytes(content)
    assert same(streamed(root), whole)


# Faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_remote_shard_is_named(workers: int, root: Path) -> None:
    """The message has the shard and the address."""
    (root / "far" / SHARD).unlink()
    with pytest.raises(IntegrityError, match=rf"shard {SHARD} is missing: no .*/far/{SHARD}"):
        streamed(root, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_wrong_bytes_are_named(workers: int, root: Path) -> None:
    """A remote shard with other bytes never reaches the cache."""
    path = root / "far" / SHARD
    content = bytearray(path.read_bytes())
    content[600] ^= 255
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=rf"shard {SHARD} came with wrong bytes from"):
        streamed(root, workers=workers)
    whole = [file for file in (root / STREAM).iterdir() if not re.search(r"^\.|\.part$", file.name)]
    assert [sha256_of_file(file) for file in whole] == [file.name for file in whole]


FULL = """
import resource, sys
from pathlib import Path
from loader_runs import batches
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
batches(Path(sys.argv[1]), 0, 9, layout="streaming", remote="far", window_shards=2, workers=0)
"""


def test_a_full_disk_is_named(root: Path) -> None:
    """Room is taken before a byte is fetched; without it the error says what to do."""
    train_images(root)  # the saved index is not what this is about
    answer = subprocess.run(
        [sys.executable, "-c", FULL, str(root)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "DiskError: no room for a shard of" in answer.stderr
    assert "free some disk" in answer.stderr


class Flaky(http.server.SimpleHTTPRequestHandler):
    """A web server that breaks off its first answers for one shard, or never answers for it."""

    failures = 0
    hangs = False

    def do_GET(self) -> None:
        if self.path.endswith(SHARD):
            if type(self).hangs:
                time.sleep(15)
            if type(self).failures:
                type(self).failures -= 1
                self.send_error(503)
                return
        super().do_GET()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def web(root: Path) -> Iterator[str]:
    """The folder `far` behind HTTP."""
    Flaky.failures, Flaky.hangs = 0, False
    handler = functools.partial(Flaky, directory=str(root / "far"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        Flaky.hangs = False


def test_shards_come_over_http(web: str, root: Path) -> None:
    """From a web server the batches are those from a folder."""
    pytest.importorskip("aiohttp", reason="fsspec reads http through it")
    folder = streamed(root)
    shutil.rmtree(root / STREAM)
    assert same(streamed(root, remote=web), folder)


def test_a_passing_failure_is_tried_again(web: str, root: Path) -> None:
    """A server that answers 503 twice is asked a third time."""
    pytest.importorskip("aiohttp", reason="fsspec reads http through it")
    Flaky.failures = 2
    assert len(streamed(root, remote=web)) == STEPS


def test_a_lasting_failure_is_named(web: str, root: Path) -> None:
    """A server that always answers 503 is an error within seconds, with shard and address."""
    pytest.importorskip("aiohttp", reason="fsspec reads http through it")
    Flaky.failures = 1000
    start = time.monotonic()
    with pytest.raises(LoaderError, match=rf"shard {SHARD} could not be fetched from {web}"):
        streamed(root, remote=web)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_that_does_not_answer_is_given_up(workers: int, web: str, root: Path) -> None:
    """After `loading.stall_seconds` without a byte it is an error with shard and address."""
    pytest.importorskip("aiohttp", reason="fsspec reads http through it")
    Flaky.hangs = True
    with pytest.raises(LoaderError, match=rf"no byte of shard {SHARD} came from {web} for 3 s"):
        streamed(root, remote=web, stall_seconds=3, workers=workers)


# An object store -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket on a real moto server."""
    pytest.importorskip("s3fs", reason="the s3 extra reads object stores")
    server = pytest.importorskip("moto.server", reason="the tests' S3").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem().mkdir("shards-here")
        yield "s3://shards-here/data"
    server.stop()


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_come_from_an_object_store(workers: int, bucket: str, root: Path) -> None:
    """From S3 the batches are those from a folder."""
    import s3fs

    s3fs.S3FileSystem().put(str(root / "far") + "/", bucket + "/", recursive=True)
    folder = streamed(root)
    shutil.rmtree(root / STREAM)
    assert same(streamed(root, remote=bucket, workers=workers), folder)


def test_an_object_store_without_the_shard_is_named(bucket: str, root: Path) -> None:
    """A key that is not there is an error with shard and address."""
    with pytest.raises(IntegrityError, match=r"is missing: no s3://shards-here/nowhere/shards"):
        streamed(root, remote="s3://shards-here/nowhere")


def test_a_store_that_is_down_is_named(bucket: str, root: Path) -> None:
    """No server at the address: an error within seconds."""
    with socket.socket() as unused, pytest.MonkeyPatch.context() as patch:
        unused.bind(("127.0.0.1", 0))
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        start = time.monotonic()
        with pytest.raises(LoaderError, match="shard shards/train/"):
            streamed(root, remote=bucket, stall_seconds=10)
        assert time.monotonic() - start < 30
        s3fs.S3FileSystem.clear_instance_cache()


def test_nothing_is_left_of_a_streamed_run(root: Path) -> None:
    """No part of a shard and no thread."""
    before = threading.active_count()
    streamed(root)
    assert not any(name.endswith(".part") for name in stored(root))
    assert threading.active_count() == before
