"""Parameters and gradients as one vector: one message instead of one for each."""

import torch
from torch import Tensor, nn


def learned_by(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that learn, in the order all ranks know."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flat(parameters: list[nn.Parameter]) -> Tensor:
    """Their values in one vector."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in parameters])


def put(parameters: list[nn.Parameter], weights: Tensor) -> None:
    """Back from `flat`."""
    for parameter, part in zip(parameters, _parts(parameters, weights), strict=True):
        parameter.detach().copy_(part)


def flat_gradient(parameters: list[nn.Parameter]) -> Tensor:
    """Their gradients in one vector; zero for one that took no part."""
    return torch.cat(
        [
            torch.zeros_like(parameter).reshape(-1)
            if parameter.grad is None
            else parameter.grad.reshape(-1)
            for parameter in parameters
        ]
    )


def put_gradient(parameters: list[nn.Parameter], gradient: Tensor) -> None:
    """Back from `flat_gradient`."""
    for parameter, part in zip(parameters, _parts(parameters, gradient), strict=True):
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_(part)


def _parts(parameters: list[nn.Parameter], vector: Tensor) -> list[Tensor]:
    """Views of a vector in the shapes of parameters."""
    sizes = [parameter.numel() for parameter in parameters]
    return [
        part.view(parameter.shape)
        for part, parameter in zip(torch.split(vector, sizes), parameters, strict=True)
    ]
