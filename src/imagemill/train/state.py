"""All that a training consists of at a moment, as named tensors, and back.

Names: `model.<name>`, `optimizer.<parameter>.<value>`, `ema.<name>`, `scaler.<value>`.
Draws need no state: they are pure functions of (seed, step) or (seed, epoch, sample key).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from imagemill.train.ema import Ema

Tensors = dict[str, Tensor]


def state_tensors(
    model: nn.Module, optimizer: Optimizer, ema: Ema | None, scaler: torch.amp.GradScaler
) -> Tensors:
    """Everything that changes while a model is trained."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    names = _parameter_names(model, optimizer)
    for number, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if value is not None:
                kept = value if isinstance(value, Tensor) else torch.tensor(value)
                tensors[f"optimizer.{names[number]}.{key}"] = kept
    if ema is not None:
        tensors |= {f"ema.{name}": value for name, value in ema.tensors.items()}
    if scaler.is_enabled():
        said = scaler.state_dict()
        tensors |= {
            f"scaler.{name}": torch.tensor(said[name], dtype=torch.float64)
            for name in ("scale", "_growth_tracker")
        }
    return {name: value.detach() for name, value in tensors.items()}


def restore_state(
    tensors: Tensors,
    model: nn.Module,
    optimizer: Optimizer,
    ema: Ema | None,
    scaler: torch.amp.GradScaler,
) -> None:
    """Put back what `state_tensors` gave."""
    model.load_state_dict(_below(tensors, "model."))
    _restore_optimizer(model, optimizer, _below(tensors, "optimizer."))
    if ema is not None:
        for name, value in _below(tensors, "ema.").items():
            ema.tensors[name].copy_(value)
    if scaler.is_enabled():
        said = _below(tensors, "scaler.")
        counts = {"_growth_tracker": int(said["_growth_tracker"])}
        scaler.load_state_dict({**scaler.state_dict(), "scale": float(said["scale"]), **counts})


def _restore_optimizer(model: nn.Module, optimizer: Optimizer, tensors: Tensors) -> None:
    numbers = {name: number for number, name in _parameter_names(model, optimizer).items()}
    parameters = dict(model.named_parameters())
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        parameter, _, key = name.rpartition(".")
        laid_out = _laid_out(value, parameters[parameter])
        state.setdefault(numbers[parameter], {})[key] = laid_out
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """In the parameter's memory format: fused optimisers walk through both side by side."""
    layout = torch.channels_last
    if type(value) is Tensor and value.ndim == 4 and parameter.is_contiguous(memory_format=layout):
        return value.contiguous(memory_format=layout)
    return value


def _parameter_names(model: nn.Module, optimizer: Optimizer) -> dict[int, str]:
    """The optimiser's number of each parameter -> its name in the model."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ordered = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return {number: names[id(parameter)] for number, parameter in enumerate(ordered)}


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
