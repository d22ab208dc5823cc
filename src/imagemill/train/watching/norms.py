"""How large gradients and activations are, layer by layer, at a few steps.

Shapes: P parameters that learn.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from imagemill.train.machine import Machine
from imagemill.train.ranks import Ranks


class Look:
    """What is seen of one step.

    gradients: Parameter -> Euclidean norm of its gradient for the global batch, before clipping.
    activations: Layer -> root mean square of what it puts out, on this rank.

    Args:
        ranks: This process among those that train.
        apart: Look at activations in a forward pass of their own, which changes nothing; else
            whoever takes the step puts `at_activations` around it.
    """

    def __init__(self, ranks: Ranks, *, apart: bool = False) -> None:
        self._ranks, self._apart = ranks, apart
        self._seen: dict[str, list[Tensor]] = {}
        self.gradients: dict[str, float] = {}

    @torch.no_grad()
    def at_gradients(self, model: nn.Module, scale: float) -> None:
        """Measure gradients; all ranks must, where these are sharded.

        Args:
            model: After the last backward pass of the step.
            scale: What the loss was multiplied with.
        """
        named = [
            (name, parameter.grad)
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        ]
        if not named:
            return
        parts = [_local(gradient) for _name, gradient in named]
        norms_P = torch.stack([norm.float() for norm in torch._foreach_norm(parts)])
        if any(isinstance(gradient, DTensor) for _name, gradient in named):
            norms_P = self._ranks.summed(norms_P.square()).sqrt()
        told = (norms_P / scale).tolist()
        self.gradients = {name: norm for (name, _), norm in zip(named, told, strict=True)}

    def at_images(self, model: nn.Module, images_BCHW: Tensor, machine: Machine) -> None:
        """Before the step: the pass apart, if one is wanted."""
        if not self._apart:
            return
        moving = {name: value.clone() for name, value in model.named_buffers()}
        devices = [images_BCHW.device] if images_BCHW.is_cuda else []
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices),
            machine.autocast(),
            self.at_activations(model),
        ):
            torch.func.functional_call(model, moving, (images_BCHW,))

    @contextmanager
    def at_activations(self, model: nn.Module) -> Iterator[None]:
        """Inside the block every layer with weights is looked at in each forward pass."""
        with ExitStack() as stack:
            for name, layer in model.named_modules():
                if next(layer.parameters(recurse=False), None) is not None:
                    stack.callback(layer.register_forward_hook(partial(self._see, name)).remove)
            yield

    def _see(self, name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        del layer, inputs
        if isinstance(output, Tensor) and output.numel():
            with torch.no_grad():
                norm = torch.linalg.vector_norm(output.detach(), dtype=torch.float32)
            self._seen.setdefault(name, []).append(norm / output.numel() ** 0.5)

    @property
    def activations(self) -> dict[str, float]:
        if not self._seen:
            return {}
        means = [torch.stack(norms).mean() for norms in self._seen.values()]
        return dict(zip(self._seen, torch.stack(means).tolist(), strict=True))


def _local(gradient: Tensor) -> Tensor:
    """The part of a gradient that is here."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
