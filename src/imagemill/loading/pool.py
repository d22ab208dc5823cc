"""Decoding processes as training sees them: asked for batches ahead, watched, and ended with it.

Own code instead of `multiprocessing` (docs/decisions/0014): its queues and pools wait for ever for
a worker that was killed, and a fork of a process full of threads may hang.

Each batch is shared out among all workers, so few batches are under way at once and memory does not
grow with their number.
"""

import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill import errors
from imagemill.errors import LoaderError, UserError
from imagemill.loading.messages import ANSWER, DONE, PIECE_ROWS, REQUEST, USER_FAULT, Task
from imagemill.loading.order import rank_range
from imagemill.loading.plan import Positions
from imagemill.loading.slots import Slots

_LOOK_SECONDS = 0.5
_END_SECONDS = 5
_START_SECONDS = 30
_NAMED = 3


class _Asked(NamedTuple):
    positions_R: Positions
    slot: int
    owing: set[int]  # numbers of workers that have not answered yet


class WorkerPool:
    """Decodes batches in `task.shape.workers` processes; close it to end them.

    Args:
        task: What they all need to know.
        describe: Names a sample for messages, with its shard.
    """

    def __init__(self, task: Task, describe: Callable[[int], str]) -> None:
        self._describe = describe
        self._stall_seconds = task.loading.stall_seconds
        self._slots = Slots(task.shape)
        self._free = deque(range(task.shape.slots))
        self._asked: deque[_Asked] = deque()
        self._handed_out: int | None = None
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        try:
            for number in range(task.shape.workers):
                worker = _Worker(task, number, self._slots.descriptor)
                self._workers.append(worker)
                self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        except BaseException:
            self.close()
            raise

    @property
    def ahead(self) -> int:
        """How many batches may be under way."""
        return self._slots.shape.slots - 1  # one is being trained on

    def ask(self, positions_R: Positions, epoch: int) -> None:
        """Start decoding; ask for no more than `ahead` batches that were not fetched."""
        slot, rows = self._free.popleft(), len(positions_R)
        self._slots.positions(slot)[:rows] = positions_R
        asked = _Asked(positions_R, slot, set())
        for number, worker in enumerate(self._workers):
            part = rank_range(rows, rank=number, world=len(self._workers))
            if part.start < part.stop:
                worker.ask(slot, part.start, part.stop, epoch)
                asked.owing.add(number)
        self._asked.append(asked)

    def fetch(self) -> NDArray[np.uint8]:
        """The images asked for first, uint8 [R, H, W, C], valid until the next call.

        Raises:
            LoaderError: a worker ended, or hangs; the message names the images it was at.
            UserError: what a worker met, such as a damaged shard, as it would be without workers.
        """
        if self._handed_out is not None:
            self._free.append(self._handed_out)
            self._handed_out = None
        asked = self._asked[0]
        if asked.owing:
            self._wait_for(asked)
        self._asked.popleft()
        self._handed_out = asked.slot
        return self._slots.pixels(asked.slot)[: len(asked.positions_R)]

    def close(self) -> None:
        """End the workers; they hold nothing that could be lost."""
        for worker in self._workers:
            worker.stop()
        self._selector.close()
        self._slots.close()

    def _wait_for(self, asked: _Asked) -> None:
        watch = _Watch(self._slots, self._stall_seconds)
        while asked.owing:
            events = self._selector.select(_LOOK_SECONDS)
            for key, _ in events:
                self._hear(key.data)
            if not events:
                hanging = watch.stalled(asked.owing)
                if hanging is not None:
                    raise LoaderError(
                        f"decoding process {hanging} got nowhere for {self._stall_seconds:g} s "
                        f"(loading.stall_seconds) {self._where(hanging)}"
                    )

    def _hear(self, worker: "_Worker") -> None:
        kind, slot, text = worker.answer()
        number = worker.number
        if kind == DONE:
            next(asked for asked in self._asked if asked.slot == slot).owing.discard(number)
        elif kind == USER_FAULT:
            name, _, sentence = text.partition(" ")
            raise getattr(errors, name, UserError)(sentence)
        elif kind is None:
            raise LoaderError(
                f"decoding process {number} {worker.ended()} {self._where(number)}; the "
                "next run goes on from its last checkpoint"
            )
        else:
            raise RuntimeError(f"decoding process {number} failed:\n{text}")

    def _where(self, number: int) -> str:
        """The images a worker was at when it last gave a sign."""
        asked = next((asked for asked in self._asked if number in asked.owing), None)
        if asked is None or self._slots.pulses_W2[number, 0] == 0:
            return "before its first image"
        rows = len(asked.positions_R)
        part = rank_range(rows, rank=number, world=len(self._workers))
        first = min(max(int(self._slots.pulses_W2[number, 1]), part.start), part.stop - 1)
        positions = asked.positions_R[first : min(first + PIECE_ROWS, part.stop)]
        named = [self._describe(int(position)) for position in positions[:_NAMED]]
        more = f" and {len(positions) - _NAMED} more" if len(positions) > _NAMED else ""
        return f"at {', '.join(named)}{more}"


class _Watch:
    """Notices workers whose pulse has stopped.

    Time is counted in looks, not by the clock: a machine that slept is no worker that hangs.
    """

    def __init__(self, slots: Slots, limit_seconds: float) -> None:
        self._pulses_W2 = slots.pulses_W2
        self._limit_seconds = limit_seconds
        self._seen_W = self._pulses_W2[:, 0].copy()
        self._idle_W = np.zeros(len(self._seen_W))

    def stalled(self, owing: set[int]) -> int | None:
        """A worker that owes and whose pulse stands still for too long, one look later."""
        counts_W = self._pulses_W2[:, 0].copy()
        self._idle_W = np.where(counts_W == self._seen_W, self._idle_W + _LOOK_SECONDS, 0.0)
        self._seen_W = counts_W
        # Before its first pulse a process is starting, which takes a busy machine seconds.
        limit_W = np.where(counts_W == 0, self._limit_seconds + _START_SECONDS, self._limit_seconds)
        late = [number for number in sorted(owing) if self._idle_W[number] >= limit_W[number]]
        return late[0] if late else None


class _Worker:
    """One decoding process."""

    def __init__(self, task: Task, number: int, descriptor: int) -> None:
        self.number = number
        own = (str(os.getpid()), str(number), str(descriptor))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "imagemill.loading.worker", task.model_dump_json(), *own],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[descriptor],
            # One thread each: their number is the parallelism.
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            bufsize=0,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self.answers = self._process.stdin, self._process.stdout

    def ask(self, *request: int) -> None:
        """Send a request; whether anybody is there to answer shows in `answer`."""
        with suppress(BrokenPipeError):
            self._requests.write(REQUEST.pack(*request))

    def answer(self) -> tuple[bytes | None, int, str]:
        """Kind, slot and text; None for the kind when the process has ended."""
        head = _read(self.answers.fileno(), ANSWER.size)
        if len(head) < ANSWER.size:
            return None, -1, ""
        kind, slot, size = ANSWER.unpack(head)
        return kind, slot, _read(self.answers.fileno(), size).decode()

    def ended(self) -> str:
        """How the process ended, which has closed its answers already."""
        try:
            status = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its answers"
        if status == -signal.SIGKILL:
            return "was killed (signal 9; did the machine run out of memory?)"
        return f"ended with {f'signal {-status}' if status < 0 else f'status {status}'}"

    def stop(self) -> None:
        """End the process if it still runs."""
        self._process.kill()
        self._requests.close()
        self.answers.close()
        self._process.wait()


def _read(descriptor: int, size: int) -> bytes:
    """So many bytes, fewer if the other side is gone."""
    found = b""
    while len(found) < size and (piece := os.read(descriptor, size - len(found))):
        found += piece
    return found
