"""Muon: momentum whose updates to a filter bank are made orthogonal."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

# Rates of the other parameters relative to the filters', and their momentum (as in the source).
MATRIX_SHARE = 0.0852
VECTOR_SHARE = 0.22
# Of shifts of norms that learn no scale: the source's rate is for sums of losses over 500 images
# and a scale of 1. With another one shifts are as much larger, and their gradients smaller.
SHIFT_SHARE = 500 * VECTOR_SHARE
OTHERS_MOMENTUM = 0.85


class Muon(Optimizer):
    """Filters by orthogonalised momentum, the rest by Nesterov SGD, in one optimiser.

    Filters are kept at a fixed norm (the square root of their number), so the rate is the share
    of the norm that a step turns.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", in the
    form used for convolutions by airbench94.
    """

    def __init__(
        self,
        filters: Sequence[nn.Parameter],
        matrices: Sequence[nn.Parameter],
        vectors: Sequence[nn.Parameter],
        shifts: Mapping[float, Sequence[nn.Parameter]],
        *,
        momentum: float,
        weight_decay: float,
    ) -> None:
        others = {"orthogonal": False, "momentum": OTHERS_MOMENTUM}
        groups: list[dict[str, Any]] = [
            {"params": list(filters), "lr": 1.0, "orthogonal": True, "momentum": momentum},
            {"params": list(matrices), "lr": MATRIX_SHARE, **others},
            {"params": list(vectors), "lr": VECTOR_SHARE, **others},
            *(
                {"params": list(behind), "lr": SHIFT_SHARE * scale**2, **others}
                for scale, behind in shifts.items()
            ),
        ]
        super().__init__(
            [group for group in groups if group["params"]], {"weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # we return no loss
        """One update from the gradients."""
        assert closure is None, "the loop computes its own loss"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["orthogonal"]:
                    self._turn(parameter, group)
                else:
                    self._descend(parameter, group)

    def _turn(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        direction = self._momentum(parameter, parameter.grad, group["momentum"])
        parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
        update = _orthogonal_update(direction)
        parameter.add_(update, alpha=-group["lr"])

    def _descend(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        # By the share, so that a decay means the same for all, whatever their rates.
        gradient = parameter.grad.add(parameter, alpha=group["weight_decay"] / group["share"])
        direction = self._momentum(parameter, gradient, group["momentum"])
        parameter.add_(direction, alpha=-group["lr"])

    def _momentum(
        self, parameter: nn.Parameter, gradient: Tensor | None, momentum: float
    ) -> Tensor:
        """Nesterov's direction: the gradient plus where the velocity will carry it."""
        assert gradient is not None
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(gradient)
        velocity: Tensor = state["velocity"]
        velocity.mul_(momentum).add_(gradient)
        return gradient.add(velocity, alpha=momentum)


def _orthogonal_update(direction: Tensor) -> Tensor:
    """Of filters [F, ...]; where they are sharded each rank turns all and keeps its own."""
    if isinstance(direction, DTensor):
        update = DTensor.from_local(
            _orthogonal_update(direction.full_tensor()), direction.device_mesh, [Replicate()]
        )
        return update.redistribute(placements=direction.placements)
    return orthogonalised(direction.reshape(len(direction), -1)).view_as(direction)


def orthogonalised(matrix_RC: Tensor, *, steps: int = 3) -> Tensor:
    """The nearest matrix with singular values near 1, by a quintic Newton-Schulz iteration.

    The iterates are polynomials of one Gram matrix times the matrix; so the iteration goes on among
    square matrices, and the long side is multiplied twice instead of twice a step.

    Args:
        matrix_RC: Any real matrix.
        steps: Iterations, 1 or more; the coefficients are tuned for few.
    """
    wide = matrix_RC.shape[0] <= matrix_RC.shape[1]
    x = matrix_RC if wide else matrix_RC.T
    x = x / (x.norm() + 1e-7)
    first = x @ x.T
    factor = _quintic(first)
    for _ in range(steps - 1):
        factor = _quintic(factor @ first @ factor) @ factor
    result: Tensor = factor @ x if wide else (factor @ x).T
    return result


def _quintic(gram_RR: Tensor) -> Tensor:
    """What a step multiplies a matrix with, from its Gram matrix."""
    a, b, c = 3.4445, -4.7750, 2.0315
    factor_RR = torch.addmm(gram_RR, gram_RR, gram_RR, beta=b, alpha=c)
    factor_RR.diagonal().add_(a)
    return factor_RR
