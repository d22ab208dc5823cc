"""Parameters and gradients as one vector: one message instead of one for each.

P values of all parameters. A vector holds them as they lie in memory, which is the same on all
ranks.
"""

import torch
from torch import Tensor, nn


def learned_by(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that learn, in the order all ranks know."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def length(parameters: list[nn.Parameter]) -> int:
    """Values of all parameters: P."""
    return sum(parameter.numel() for parameter in parameters)


def views(parameters: list[nn.Parameter], vector_P: Tensor) -> list[Tensor]:
    """Views of a vector that lie as the parameters do, so that copies run from end to end."""
    parts = torch.split(vector_P, [parameter.numel() for parameter in parameters])
    return [
        part.as_strided(parameter.shape, parameter.stride(), part.storage_offset())
        for part, parameter in zip(parts, parameters, strict=True)
    ]


def flat(parameters: list[nn.Parameter]) -> Tensor:
    """Their values in one vector."""
    vector_P = parameters[0].detach().new_empty(length(parameters))
    for parameter, part in zip(parameters, views(parameters, vector_P), strict=True):
        part.copy_(parameter.detach())
    return vector_P


def put(parameters: list[nn.Parameter], weights_P: Tensor) -> None:
    """Back from `flat`."""
    for parameter, part in zip(parameters, views(parameters, weights_P), strict=True):
        parameter.detach().copy_(part)


def flat_gradient(parameters: list[nn.Parameter]) -> Tensor:
    """Their gradients in one vector; zero for one that took no part."""
    vector_P = parameters[0].detach().new_empty(length(parameters))
    write_gradient(parameters, vector_P)
    return vector_P


def write_gradient(parameters: list[nn.Parameter], vector_P: Tensor) -> None:
    """The same into a vector there is."""
    for parameter, part in zip(parameters, views(parameters, vector_P), strict=True):
        if parameter.grad is None:
            part.zero_()
        else:
            part.copy_(parameter.grad)


def put_gradient(parameters: list[nn.Parameter], gradient_P: Tensor) -> None:
    """Back from `flat_gradient`."""
    for parameter, part in zip(parameters, views(parameters, gradient_P), strict=True):
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_(part)
