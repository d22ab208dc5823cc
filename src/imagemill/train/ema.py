"""An average of the weights: what is judged and kept of a training that has one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from imagemill.params import EmaParams
from imagemill.train.ranks import own_part


class Ema:
    """Exponential moving average over parameters and running statistics.

    The first updates weigh more, as if the average had begun with them: the weight of the old one
    is min(decay, (1 + n) / (10 + n)) at the n-th.

    Source: Polyak and Juditsky 1992; the warm-up is that of TensorFlow's
    ExponentialMovingAverage(num_updates).
    """

    def __init__(self, model: nn.Module, settings: EmaParams) -> None:
        self._settings = settings
        self.tensors = {name: value.detach().clone() for name, value in _state(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps, if it is their turn."""
        number, rest = divmod(step, self._settings.every)
        if rest:
            return
        weight = 1 - min(self._settings.decay, (1 + number) / (10 + number))
        present = _state(model)
        averages = [own_part(self.tensors[name]) for name in present]
        torch._foreach_lerp_(averages, [own_part(value) for value in present.values()], weight)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Inside the block the model has the averaged weights."""
        present = {name: value.detach().clone() for name, value in _state(model).items()}
        self.put_into(model)
        try:
            yield
        finally:
            _put(model, present)

    def put_into(self, model: nn.Module) -> None:
        """Give the model the averaged weights."""
        _put(model, self.tensors)


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that learn and statistics that move; counters and frozen weights stay out."""
    learned = {name: value for name, value in model.named_parameters() if value.requires_grad}
    moving = {
        name: value
        for name, value in model.named_buffers()
        if value.is_floating_point() and name.rpartition(".")[2].startswith("running_")
    }
    return learned | moving


@torch.no_grad()
def _put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, value in _state(model).items():
        own_part(value).copy_(own_part(tensors[name]))
