"""Decoding processes that cannot take the run down with them.

Own code instead of `concurrent.futures`: an image that crashes its decoder, or keeps it busy for
ever, ends a worker; there the whole pool is lost with it, here the image is found and named.
"""

import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np

from imagemill.audit.facts import Record, facts_of
from imagemill.audit.messages import (
    ANSWER,
    USER_FAULT,
    Answer,
    Question,
    packed,
    read,
    receive,
    send,
)
from imagemill.errors import SourceError
from imagemill.params import AuditParams

C = TypeVar("C")

# Answers that may wait for an earlier one, a worker.
_AHEAD = 8
# What one worker does in a second, roughly; another one is started for so much work only, since
# its start is work as well.
_IMAGES_PER_SECOND = 10_000
_BYTES_PER_SECOND = 16e6
_WORTH_SECONDS = 0.5
# One thread a worker, and no memory reserved ahead: the worker's limit counts what is reserved.
_ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_NO_ANSWER = Answer(facts_of([]), [])


def _seconds(questions: list[Question]) -> float:
    """Roughly how long images keep a worker busy."""
    size_bytes = sum(question.size_bytes for question in questions)
    return len(questions) / _IMAGES_PER_SECOND + size_bytes / _BYTES_PER_SECOND


@dataclass(slots=True)
class _Task(Generic[C]):
    """A batch on its way."""

    context: C
    questions: list[Question]
    answer: Answer | None = None


class DecodingPool:
    """Measures images in up to `workers` processes; a context manager that leaves none behind."""

    def __init__(self, root: Path, params: AuditParams, *, workers: int) -> None:
        self._root = root
        self._params = params
        self._max_workers = workers
        self._seconds = 0.0  # of work asked for so far
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, _Task[Any]] = {}
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.stop()
        self._selector.close()

    def measure(self, jobs: Iterable[tuple[C, list[Question]]]) -> Iterator[tuple[C, Answer]]:
        """Facts of batches of images, in the order of the batches.

        A batch of no image waits for its turn and needs no process.

        Args:
            jobs: Anything the caller wants back, and the images.

        Yields:
            What the caller gave, and what was found out about its images.
        """
        tasks: deque[_Task[C]] = deque()
        for context, questions in jobs:
            task = _Task(context, questions)
            tasks.append(task)
            if questions:
                self._give(task)
            else:
                task.answer = _NO_ANSWER
            yield from self._finished(tasks, at_most=_AHEAD * self._max_workers)
        yield from self._finished(tasks, at_most=0)

    def _finished(self, tasks: deque[_Task[C]], *, at_most: int) -> Iterator[tuple[C, Answer]]:
        """What is ready at the front, waiting only while more than `at_most` are on their way."""
        while tasks and (tasks[0].answer is not None or len(tasks) > at_most):
            while (answer := tasks[0].answer) is None:
                self._collect()
            yield tasks.popleft().context, answer

    def _give(self, task: _Task[C]) -> None:
        self._seconds += _seconds(task.questions)
        workers = min(self._max_workers, 1 + int(self._seconds / _WORTH_SECONDS))
        while not self._idle and len(self._busy) >= workers:
            self._collect()
        worker = self._idle.pop() if self._idle else self._new_worker()
        worker.ask(task.questions)
        self._busy[worker] = task

    def _collect(self) -> None:
        """Take in at least one answer."""
        for event, _ in self._selector.select():
            worker = event.data
            answer = worker.answer()
            task = self._busy.pop(worker, None)
            if answer is None:
                # An idle worker that dies had nothing to lose.
                self._forget(worker)
                answer = self._one_by_one(task.questions) if task else None
            else:
                self._idle.append(worker)
            if task:
                task.answer = answer

    def _new_worker(self) -> "_Worker":
        worker = _Worker(self._root, self._params)
        self._workers.append(worker)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        return worker

    def _forget(self, worker: "_Worker") -> None:
        self._selector.unregister(worker.answers)
        self._workers.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        worker.stop()

    def _one_by_one(self, questions: list[Question]) -> Answer:
        """Find which of a batch ended its worker."""
        worker = _Worker(self._root, self._params)
        found = []
        try:
            for question in questions:
                worker.ask([question])
                answer = worker.answer()
                if answer is None:
                    answer = self._cause_of_death(worker)
                    worker = _Worker(self._root, self._params)
                found.append(answer)
        finally:
            worker.stop()
        facts_N = np.concatenate([answer.facts_N for answer in found])
        return Answer(facts_N, [reason for answer in found for reason in answer.reasons])

    def _cause_of_death(self, worker: "_Worker") -> Answer:
        status = worker.stop()
        fault, reason = "corrupt", f"the decoder crashed (signal {-status})"
        if status == -signal.SIGPROF:
            seconds = self._params.decode_seconds
            fault, reason = "timeout", f"decoding took more than {seconds:g} s of computing time"
        return Answer(facts_of([Record(fault, transient=True)]), [reason])


class _Worker:
    """One decoding process, asked one thing at a time."""

    def __init__(self, root: Path, params: AuditParams) -> None:
        command = [sys.executable, "-m", "imagemill.audit.worker"]
        self._process = subprocess.Popen(
            [*command, str(root), str(params.max_pixels), str(params.decode_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | _ENVIRONMENT,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._questions = self._process.stdin
        self.answers = self._process.stdout

    def ask(self, questions: list[Question]) -> None:
        """Send images; whether anybody is there to look at them shows in `answer`."""
        with suppress(BrokenPipeError):
            send(self._questions, packed(questions))

    def answer(self) -> Answer | None:
        """Facts, or None when an image ended the process.

        Raises:
            SourceError: the raw images cannot be read.
            RuntimeError: a fault of ours, not of the image.
        """
        body = receive(self.answers)
        if body is None:
            status = self._process.wait()
            if status >= 0:
                raise RuntimeError(f"a decoding process ended with status {status}")
            return None
        if body[:1] == USER_FAULT:
            raise SourceError(body[1:].decode())
        if body[:1] != ANSWER:
            raise RuntimeError(f"a decoding process failed:\n{body[1:].decode()}")
        return read(memoryview(body)[1:])

    def stop(self) -> int:
        """End the process if it still runs; it holds nothing that could be lost."""
        self._process.kill()
        with suppress(BrokenPipeError):
            self._questions.close()
        self.answers.close()
        return self._process.wait()
