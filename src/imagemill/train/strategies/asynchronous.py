"""The asynchronous parameter server: nobody waits for the gradients of others."""

import copy
import threading
from datetime import timedelta

import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Optimizer

from imagemill.params import TrainParams
from imagemill.train.ema import Ema
from imagemill.train.machine import Machine
from imagemill.train.optimizers import rate_of
from imagemill.train.pulse import patience_seconds
from imagemill.train.ranks import Ranks
from imagemill.train.strategies.parameter_server import ParameterServer
from imagemill.train.strategies.serving import Server
from imagemill.train.strategies.vectors import flat, flat_gradient, learned_by, put

_PUSH, _LEAVE = 0.0, 1.0
_HEADER = 4  # float32 places of two float64: what it is, and the learning rate


class AsynchronousServer(ParameterServer):
    """Each rank sends the gradient of its samples when it has it, and gets the newest weights.

    A global batch makes one update for each rank instead of one for all. So that it moves the
    weights as far, an update has the mean gradient of its rank's samples and the rate divided by
    the number of ranks.

    In rank 0 one thread serves each of the others; they talk through a process group of their
    own, on the CPU. The server lives from one `settle` to the next: there, all ranks wait for each
    other, and weights and optimiser go back to where synchronous training has them.
    """

    def __init__(self, train: TrainParams, ranks: Ranks, machine: Machine) -> None:
        super().__init__(train, ranks, machine)
        assert train.asynchronous is not None, "strategy_of looks for it"
        self._max_ahead = train.asynchronous.max_staleness
        self.loss_factor = float(ranks.world)
        self._group = _group_of_servers(train.timeout_seconds) if ranks.world > 1 else None
        self._server: Server | None = None
        self._is_open = False
        self._threads: list[threading.Thread] = []
        self._staleness: list[int] = []

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model itself: it is the server that has copies."""
        self._model = model
        return super().replicate(model)

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Of the model; between two settles the server's own optimiser has its values."""
        self._optimizer = super().optimizer(model)
        return self._optimizer

    def combine(self, model: nn.Module) -> None:
        """Gradients stay apart."""

    def clip(self, model: nn.Module, norm: float) -> Tensor:
        """Each rank shortens its own."""
        return torch.nn.utils.clip_grad_norm_(model.parameters(), norm)

    @torch.no_grad()
    def take_step(self, optimizer: Optimizer) -> None:
        """Push the gradient, pull the weights."""
        if not self._is_open:
            self._open()
        gradient, rate = flat_gradient(self._learned), rate_of(optimizer) / self.ranks.world
        if self._server is not None:
            weights = self._server.push(0, gradient, rate)
        else:
            weights = self._exchanged(gradient.cpu(), rate)
        put(self._learned, weights)

    @torch.no_grad()
    def settle(self, model: nn.Module, ema: Ema | None) -> None:
        """Wait for all gradients; then all have the weights they made."""
        if self._is_open:
            self._close()
        weights = flat(self._learned)
        self.ranks.share_first([weights])
        put(self._learned, weights)
        self.share_statistics(model, ema)

    def measured(self) -> dict[str, float | None]:
        """Mean and largest staleness of the updates since the last time, on rank 0."""
        taken = self._take_staleness()
        if not taken:
            return {}
        return {"staleness_mean": sum(taken) / len(taken), "staleness_max": max(taken)}

    def _take_staleness(self) -> list[int]:
        if self._server is not None:
            self._staleness += self._server.take_staleness()
        taken, self._staleness = self._staleness, []
        return taken

    def _open(self) -> None:
        """On rank 0: a server with the weights and optimiser values there are."""
        self._is_open = True
        if not self.ranks.reports:
            return
        served = copy.deepcopy(self._model)
        self._served = learned_by(served)
        self._served_optimizer = super().optimizer(served)
        self._served_optimizer.load_state_dict(copy.deepcopy(self._optimizer.state_dict()))
        self._server = Server(
            self._served,
            self._served_optimizer,
            world=self.ranks.world,
            max_ahead=self._max_ahead,
        )
        self._threads = [
            threading.Thread(target=self._serve, args=(self._server, rank), daemon=True)
            for rank in range(1, self.ranks.world)
        ]
        for thread in self._threads:
            thread.start()

    def _close(self) -> None:
        """On rank 0: back from the server; elsewhere: say that no more will come."""
        self._is_open = False
        if self._server is None:
            torch.distributed.send(
                self._message(_LEAVE, torch.zeros(self._size()), 0.0), 0, self._group
            )
            return
        self._server.leave(0)
        self._server.wait_for_all()
        for thread in self._threads:
            thread.join()
        put(self._learned, flat(self._served))
        self._optimizer.load_state_dict(self._served_optimizer.state_dict())
        self._staleness += self._server.take_staleness()
        self._server = None

    @torch.no_grad()  # it is a property of the thread
    def _serve(self, server: Server, rank: int) -> None:
        """Answer one rank until it leaves."""
        message = torch.empty(_HEADER + self._size())
        try:
            while True:
                torch.distributed.recv(message, rank, self._group)
                kind, rate = message[:_HEADER].view(torch.float64).tolist()
                if kind == _LEAVE:
                    server.leave(rank)
                    return
                weights = server.push(rank, message[_HEADER:].to(self.machine.device), rate)
                torch.distributed.send(weights.cpu(), rank, self._group)
        except Exception as failure:
            server.fail(failure)  # raised in the threads that wait, and in the end by training

    def _exchanged(self, gradient: Tensor, rate: float) -> Tensor:
        """The newest weights, for a gradient."""
        torch.distributed.send(self._message(_PUSH, gradient, rate), 0, self._group)
        weights = torch.empty_like(gradient)
        torch.distributed.recv(weights, 0, self._group)
        return weights

    def _message(self, kind: float, gradient: Tensor, rate: float) -> Tensor:
        header = torch.tensor([kind, rate], dtype=torch.float64).view(torch.float32)
        return torch.cat([header, gradient])

    def _size(self) -> int:
        return sum(parameter.numel() for parameter in self._learned)


def _group_of_servers(timeout_seconds: float) -> torch.distributed.ProcessGroup:
    patience = timedelta(seconds=patience_seconds(timeout_seconds))
    group = torch.distributed.new_group(backend="gloo", timeout=patience)
    assert isinstance(group, torch.distributed.ProcessGroup), "every rank is in it"
    return group
