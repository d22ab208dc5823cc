"""Groups of processes that train together, forked from one that has imported everything."""

import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from imagemill.train.ranks import Ranks

_PATIENCE_SECONDS = 240
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "pytest",
        "imagemill.train.loop",
        "imagemill.train.worker",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "torch.distributed.checkpoint.hf_storage",
    ]
)


def together(world: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `function(ranks, *arguments)` in `world` processes with a process group.

    Args:
        world: How many.
        folder: For what they need to find each other.
        function: Of a module.
        arguments: Can be pickled, as must what it returns.

    Returns:
        What it returned, by rank.
    """
    with _group(world, folder, function, arguments) as (_, receivers):
        results = [_received(receiver) for receiver in receivers]
    failures = [result for result in results if isinstance(result, str) and "Traceback" in result]
    assert not failures, "\n".join(failures)
    return results


def killed_together(
    world: int, folder: Path, function: Callable[..., Any], *arguments: Any
) -> None:
    """The same with a function that ends in SIGKILL on every rank."""
    with _group(world, folder, function, arguments) as (processes, receivers):
        for process in processes:
            process.join(_PATIENCE_SECONDS)
        for process, receiver in zip(processes, receivers, strict=True):
            assert process.exitcode == -signal.SIGKILL, _received(receiver)


@contextmanager
def _group(
    world: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Iterator[tuple[list[Any], list[Connection]]]:
    """The processes and the pipes their results come from; gone when the block is left."""
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    pipes = [_context.Pipe(duplex=False) for _ in range(world)]
    processes = [
        _context.Process(
            target=_rank, args=(rank, world, meeting, pipe, (function, arguments)), daemon=True
        )
        for rank, (_, pipe) in enumerate(pipes)
    ]
    try:
        for process in processes:
            process.start()
        for _, pipe in pipes:
            pipe.close()  # so that the end of a process ends its pipe
        yield processes, [receiver for receiver, _ in pipes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _received(receiver: Connection) -> Any:
    if not receiver.poll(_PATIENCE_SECONDS):
        return "Traceback: nothing came"
    try:
        return pickle.loads(receiver.recv_bytes())
    except EOFError:
        return "Traceback: the process ended without a word"


def _rank(
    rank: int,
    world: int,
    meeting: Path,
    pipe: Connection,
    work: tuple[Callable[..., Any], tuple[Any, ...]],
) -> None:
    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=120),
        )
        function, arguments = work
        result = function(Ranks(rank, world, torch.device("cpu")), *arguments)
        pipe.send_bytes(pickle.dumps(result))  # `send` would share tensors, not copy them
        torch.distributed.destroy_process_group()
    except BaseException:
        pipe.send_bytes(pickle.dumps(traceback.format_exc()))
