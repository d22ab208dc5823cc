"""The process group: how long ranks wait for each other, and how its loss is told from a fault."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed

from imagemill.train.pulse import patience_seconds
from imagemill.train.ranks import Ranks

# Caches are filled and models fetched by one rank while the others wait.
_OPENING = timedelta(hours=12)
_SAID = ("gloo", "nccl", "connection closed", "connection reset", "timed out", "broken pipe")


@contextmanager
def contact(ranks: Ranks) -> Iterator[None]:
    """In the process group; it is left as well, unless who started this process made it."""
    if ranks.world == 1 or torch.distributed.is_initialized():
        yield
        return
    backend = "nccl" if ranks.device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=_OPENING)
    yield
    # Not after an error: without the others it would wait.
    torch.distributed.destroy_process_group()


def expect_answers(ranks: Ranks, timeout_seconds: float) -> None:
    """From now on a rank that does not answer is missed after half of `timeout_seconds`."""
    if ranks.world > 1:
        patience = timedelta(seconds=patience_seconds(timeout_seconds))
        torch.distributed.set_timeout(patience)


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another rank did not answer, and not that something is wrong
    here."""
    if isinstance(error, torch.distributed.DistError | ConnectionError):
        return True
    told = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in told for word in _SAID)
