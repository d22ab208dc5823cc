"""STRATEGIES: how the processes of a training come to the same weights."""

from imagemill.params import TrainParams
from imagemill.train.machine import Machine
from imagemill.train.ranks import Ranks
from imagemill.train.strategies.asynchronous import AsynchronousServer
from imagemill.train.strategies.ddp import Ddp
from imagemill.train.strategies.fsdp import Fsdp
from imagemill.train.strategies.parameter_server import ParameterServer
from imagemill.train.strategies.single import Single

STRATEGIES: dict[str, type[Single]] = {
    "single": Single,
    "ddp": Ddp,
    "fsdp": Fsdp,
    "parameter_server": ParameterServer,
}


def strategy_of(train: TrainParams, ranks: Ranks, machine: Machine) -> Single:
    """The strategy of `train.strategy`.

    Args:
        train: Strategy and what belongs to it.
        ranks: This process among those that train together.
        machine: Where it computes.
    """
    if train.asynchronous is not None:
        return AsynchronousServer(train, ranks, machine)
    return STRATEGIES[train.strategy](train, ranks, machine)


__all__ = ["STRATEGIES", "Single", "strategy_of"]
