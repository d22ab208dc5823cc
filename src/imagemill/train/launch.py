"""Start training processes, follow them, go on when one is lost. Imports no torch."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from imagemill.errors import ToBeResumedError, TrainingError
from imagemill.train.agent import agent
from imagemill.train.job import ERROR, FAULT, LINES, LOG, STOPPED, Job, Line
from imagemill.train.pulse import hung, pulse_folder

_POLL_SECONDS = 0.2
_TAIL_LINES = 15

Follow = Callable[[], None]
Log = Callable[[str], None]


def train_processes(job: Job, on_line: Callable[[Line], None], log: Log) -> None:
    """Run the job's processes to their end.

    Args:
        job: What to train.
        on_line: Called with each new line of metrics.jsonl.
        log: Called with a sentence when a process hangs, or there are fewer of them.

    A process that is lost takes its group down, and torch.distributed.run starts it again from
    the last checkpoint, `train.restarts` times; after that it is tried with one process fewer.
    A process that hangs is named, killed, and thereby lost. Not so after a mistake of the user's.

    Raises:
        TrainingError: a process failed; with its own words where it left some.
        ToBeResumedError: a process was asked to end; a checkpoint is written.
    """
    (job.folder / LINES).touch()
    (job.folder / LOG).write_bytes(b"")
    with (job.folder / LINES).open(encoding="utf-8") as lines:
        lines.seek(0, os.SEEK_END)  # what an earlier attempt wrote was told then
        try:
            _go_on_with_fewer(job, lambda: _forward(lines, on_line), log)
        except BaseException:
            if stopped := stopped_by_request(job):
                log(stopped)
            raise


def stopped_by_request(job: Job) -> str | None:
    """What a training that was asked to end says of itself; None if it was not."""
    file = job.folder / STOPPED
    if not file.is_file():
        return None
    told: str = json.loads(file.read_bytes())["told"]
    return told


def _go_on_with_fewer(job: Job, follow: Follow, log: Log) -> None:
    most = job.train.processes
    for processes in range(most, 0, -1):
        (job.folder / FAULT).unlink(missing_ok=True)
        status = run_group(job, processes, follow, log)
        if status == 0 and stopped_by_request(job) is None:
            return
        if not _was_lost(job) or processes == 1:
            raise _failure(job, status)
        log(f"processes were lost {job.train.restarts + 1} times: going on with {processes - 1}")


def run_group(job: Job, processes: int, follow: Follow, log: Log) -> int:
    """Run this machine's processes until they are done, or cannot go on.

    Args:
        job: What to train.
        processes: How many here.
        follow: Called several times a second.
        log: As in `train_processes`.

    Returns:
        The status of torch.distributed.run.
    """
    for old in pulse_folder(job.folder).glob("*"):
        old.unlink()
    killed: set[int] = set()
    with agent(job, processes) as group:
        while group.poll() is None and not _is_decided(job):
            time.sleep(_POLL_SECONDS)
            follow()
            _end_hung(job, killed, log)
    follow()
    assert group.returncode is not None, "it is gone when the block is left"
    return group.returncode


def _is_decided(job: Job) -> bool:
    """Whether starting again would change nothing. Among several machines that is the agents'
    decision: they start all processes again when one more machine comes."""
    if (job.folder / ERROR).is_file():
        return True
    return job.train.nodes is None and (job.folder / STOPPED).is_file()


def _was_lost(job: Job) -> bool:
    """Whether there may be better luck with fewer processes."""
    is_explained = any((job.folder / name).is_file() for name in (ERROR, STOPPED, FAULT))
    return not is_explained and job.train.nodes is None


def _end_hung(job: Job, killed: set[int], log: Log) -> None:
    """Kill ranks that hang; once each: a process takes its time to go."""
    for sign in hung(pulse_folder(job.folder), job.train.timeout_seconds):
        if sign.pid in killed:
            continue
        killed.add(sign.pid)
        log(f"{sign}; it is killed")
        with suppress(ProcessLookupError):
            os.kill(sign.pid, signal.SIGKILL)
        with (job.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{sign}\n")


def _forward(lines: Iterator[str], on_line: Callable[[Line], None]) -> None:
    for line in lines:
        on_line(json.loads(line))


def _failure(job: Job, status: int) -> Exception:
    error = job.folder / ERROR
    if error.is_file():
        return TrainingError(error.read_text(encoding="utf-8").strip())
    stopped = stopped_by_request(job)
    if stopped is not None:
        return ToBeResumedError(stopped)
    log = job.folder / LOG
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    tail = "\n".join(text[-_TAIL_LINES:])
    hangs = "".join(f"\n{line}" for line in text if line.startswith("rank ") and " hangs: " in line)
    return TrainingError(
        f"training ended with status {status}; the next run goes on from its last checkpoint."
        f"{hangs}\nThe end of {log}:\n{tail}"
    )
