"""The process group: how long ranks wait for each other, and how its loss is told from a fault."""

from datetime import timedelta

import torch
import torch.distributed
from torch.distributed.distributed_c10d import _set_pg_timeout

from imagemill.train.pulse import patience_seconds
from imagemill.train.ranks import Ranks

# Caches are filled and models fetched by one rank while the others wait.
_OPENING = timedelta(hours=12)
_SAID = ("gloo", "nccl", "connection closed", "connection reset", "timed out", "broken pipe")


def make_contact(ranks: Ranks) -> None:
    """Join the process group, unless who started this process has done so."""
    if ranks.world > 1 and not torch.distributed.is_initialized():
        backend = "nccl" if ranks.device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=_OPENING)


def expect_answers(ranks: Ranks, timeout_seconds: float) -> None:
    """From now on a rank that does not answer is missed after half of `timeout_seconds`."""
    if ranks.world > 1:
        patience = timedelta(seconds=patience_seconds(timeout_seconds))
        # Without a public form in torch 2.14; new groups ask for theirs by `default_pg_timeout`.
        _set_pg_timeout(patience, torch.distributed.group.WORLD)


def lose_contact(ranks: Ranks) -> None:
    """Leave the process group."""
    if ranks.world > 1:
        torch.distributed.destroy_process_group()


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another rank did not answer, and not that something is wrong
    here."""
    if isinstance(error, torch.distributed.DistError | ConnectionError):
        return True
    told = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in told for word in _SAID)
