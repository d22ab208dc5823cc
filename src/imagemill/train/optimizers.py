"""OPTIMIZERS: who turns gradients into new weights."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from imagemill.params import TrainParams
from imagemill.train.muon import Muon


def sgd(model: nn.Module, train: TrainParams) -> Optimizer:
    """Gradient descent with momentum."""
    return SGD(
        _groups(model, train),
        lr=1.0,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        fused=_can_be_fused(model, train),
    )


def nesterov(model: nn.Module, train: TrainParams) -> Optimizer:
    """Gradient descent with Nesterov's momentum.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum".
    """
    return SGD(
        _groups(model, train),
        lr=1.0,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        nesterov=train.momentum > 0,
        fused=_can_be_fused(model, train),
    )


def adam(model: nn.Module, train: TrainParams) -> Optimizer:
    """Adam; Source: Kingma and Ba 2014."""
    return Adam(_groups(model, train), lr=1.0, weight_decay=train.weight_decay, fused=True)


def adamw(model: nn.Module, train: TrainParams) -> Optimizer:
    """Adam with decoupled decay; Source: Loshchilov and Hutter 2017."""
    return AdamW(_groups(model, train), lr=1.0, weight_decay=train.weight_decay, fused=True)


def rmsprop(model: nn.Module, train: TrainParams) -> Optimizer:
    """Gradients divided by their running root mean square.

    Source: Tieleman and Hinton 2012, lecture 6.5 of "Neural Networks for Machine Learning".
    """
    return RMSprop(
        _groups(model, train), lr=1.0, momentum=train.momentum, weight_decay=train.weight_decay
    )


def muon(model: nn.Module, train: TrainParams) -> Optimizer:
    """Muon for the filters of convolutions, Nesterov SGD for everything else."""
    learned = _learned(model)
    filters = [parameter for parameter in learned if parameter.ndim == 4]
    matrices = [parameter for parameter in learned if parameter.ndim == 2]
    shifts = _shifts(model)
    of_shifts = {id(parameter) for behind in shifts.values() for parameter in behind}
    vectors = [
        parameter for parameter in learned if parameter.ndim == 1 and id(parameter) not in of_shifts
    ]
    optimizer = Muon(
        *(filters, matrices, vectors, shifts),
        momentum=train.momentum,
        weight_decay=train.weight_decay,
    )
    for group in optimizer.param_groups:
        if train.norm_weight_decay is not None and group["params"][0].ndim == 1:
            group["weight_decay"] = train.norm_weight_decay
    return optimizer


OPTIMIZERS: dict[str, Callable[[nn.Module, TrainParams], Optimizer]] = {
    "sgd": sgd,
    "nesterov": nesterov,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "muon": muon,
}


def build_optimizer(model: nn.Module, train: TrainParams) -> Optimizer:
    """The optimiser of `train.optimizer`; its rates are shares that `set_rate` multiplies."""
    optimizer = OPTIMIZERS[train.optimizer](model, train)
    for group in optimizer.param_groups:
        group["share"] = group["lr"]
    return optimizer


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Learning rate of the next step, for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def share_rates(optimizer: Optimizer, model: nn.Module, shares: Mapping[str, float]) -> None:
    """Let parameters learn at a share of the rate.

    Args:
        optimizer: Of `build_optimizer`, before its first step; its groups are divided.
        model: Whose parameters it has.
        shares: Name of a parameter -> share; those not named keep all of it.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        divided: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            divided.setdefault(shares.get(names[id(parameter)], 1.0), []).append(parameter)
        groups += [
            {**group, "params": parameters, "share": group["share"] * share}
            for share, parameters in divided.items()
        ]
    optimizer.param_groups[:] = groups


def rate_of(optimizer: Optimizer) -> float:
    """The learning rate `set_rate` was told."""
    group = max(optimizer.param_groups, key=lambda group: float(group["share"]))
    return float(group["lr"] / group["share"])


def _shifts(model: nn.Module) -> dict[float, list[nn.Parameter]]:
    """Biases of norms that learn no scale, by the scale they have."""
    found: dict[float, list[nn.Parameter]] = {}
    for layer in model.modules():
        if not isinstance(layer, nn.BatchNorm2d) or not layer.affine:
            continue
        if layer.bias.requires_grad and not layer.weight.requires_grad:
            scale = layer.weight.detach()
            whole = scale.full_tensor() if isinstance(scale, DTensor) else scale
            # Rounded, so that means over few and many channels are the same.
            found.setdefault(round(float(whole.abs().mean()), 6), []).append(layer.bias)
    return found


def _can_be_fused(model: nn.Module, train: TrainParams) -> bool:
    """One pass over memory, a fifth of the time.

    torch 2.14 has none for SGD on shards, nor where some parameters have moved before and others,
    frozen until now, have not.
    """
    is_sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    return not is_sharded and train.transfer is None


def _groups(model: nn.Module, train: TrainParams) -> list[dict[str, Any]]:
    """What learns; norms and biases by themselves where they decay in another way."""
    learned = _learned(model)
    if train.norm_weight_decay is None:
        return [{"params": learned}]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in learned if parameter.ndim > 1]},
        {
            "params": [parameter for parameter in learned if parameter.ndim <= 1],
            "weight_decay": train.norm_weight_decay,
        },
    ]
    return [group for group in groups if group["params"]]


def _learned(model: nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
