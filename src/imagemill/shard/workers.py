"""Shards written one after the other, or by several processes at once: the result is the same."""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Self

from imagemill import errors
from imagemill.errors import DiskError, UserError
from imagemill.shard.job import ShardJob, WrittenShard
from imagemill.shard.write import write_shard

Written = tuple[ShardJob, WrittenShard]

# What one process does in a second, roughly: less work than `_WORTH_SECONDS` is done before
# processes are up.
_IMAGES_PER_SECOND = 60_000
_BYTES_PER_SECOND = 1e9
_CHANGED_BYTES_PER_SECOND = 10e6  # decoded and encoded again
_WORTH_SECONDS = 3.0


def worthwhile_workers(num_images: int, size_bytes: int, *, changed: bool) -> int:
    """How many processes pay for this much work; 1 means none but our own.

    Args:
        num_images: To be written.
        size_bytes: Of them.
        changed: Whether they are encoded again.
    """
    rate = _CHANGED_BYTES_PER_SECOND if changed else _BYTES_PER_SECOND
    seconds = num_images / _IMAGES_PER_SECOND + size_bytes / rate
    return max(1, min(os.cpu_count() or 1, int(seconds / _WORTH_SECONDS)))


def write_all(jobs: Iterable[ShardJob], *, workers: int) -> Iterator[Written]:
    """Write shards.

    Args:
        jobs: One a shard; asked for as processes become free.
        workers: 1: this process does it; more: so many processes do.

    Returns:
        Jobs with what came of them, in their order, as they are done.

    Raises:
        UserError: whatever `write_shard` raises.
    """
    if workers == 1:
        return ((job, write_shard(job)) for job in jobs)
    return written_by_processes(jobs, workers)


def written_by_processes(jobs: Iterable[ShardJob], workers: int) -> Iterator[Written]:
    """`write_all` with processes, even if it is only one."""
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        idle: SimpleQueue[_Worker] = SimpleQueue()
        for _ in range(workers):
            # Ended before its thread is waited for.
            idle.put(stack.enter_context(_Worker()))
        yield from _in_order(jobs, threads, lambda job: _on_any(idle, job), ahead=2 * workers)


def _in_order(
    jobs: Iterable[ShardJob],
    threads: ThreadPoolExecutor,
    write: Callable[[ShardJob], WrittenShard],
    *,
    ahead: int,
) -> Iterator[Written]:
    pending: deque[tuple[ShardJob, Future[WrittenShard]]] = deque()
    try:
        for job in jobs:
            pending.append((job, threads.submit(write, job)))
            if len(pending) == ahead:
                done, future = pending.popleft()
                yield done, future.result()
        for done, future in pending:
            yield done, future.result()
    finally:
        for _, future in pending:
            future.cancel()


def _on_any(idle: "SimpleQueue[_Worker]", job: ShardJob) -> WrittenShard:
    worker = idle.get()
    try:
        return worker.write(job)
    finally:
        idle.put(worker)


class _Worker:
    """A process that writes the shards it is told to and ends when nobody tells it more."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "imagemill.shard.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def write(self, job: ShardJob) -> WrittenShard:
        """What `write_shard` gives or raises, done there."""
        answer = self._answer(json.dumps(job).encode() + b"\n")
        if not answer:
            raise DiskError(
                f"the process that wrote {job.path} ended with status {self._process.wait()}; "
                "it may have run out of memory"
            )
        said = json.loads(answer)
        if "error" in said:
            fault: type[UserError] = getattr(errors, said["error"])
            raise fault(said["message"])
        return WrittenShard(**said)

    def _answer(self, question: bytes) -> bytes:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(question)
            self._process.stdin.flush()
        except BrokenPipeError:
            return b""
        return self._process.stdout.readline()
