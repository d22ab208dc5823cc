"""A network taken apart: its head, and the blocks of its body in the order images pass them."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from imagemill.errors import ParamsError
from imagemill.models.ensemble import Ensemble

# Containers by themselves; classes derived from them are blocks that happen to be written so.
_CONTAINERS = (nn.Sequential, nn.ModuleList)


def head_of(model: nn.Module) -> str:
    """Name of the layer that gives the logits: the last linear one or convolution."""
    names: list[str] = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    return names[-1]


def linear_head_of(model: nn.Module) -> tuple[str, nn.Linear]:
    """Name and layer of the head.

    Raises:
        ParamsError: it is a convolution, so there is no feature vector in front of it; or there is
            one for each member of an ensemble.
    """
    if any(isinstance(part, Ensemble) for part in model.modules()):
        raise ParamsError(
            "an ensemble has a head for each of its members, so there is no one vector of features "
            "that stands for it; take one of its members"
        )
    name = head_of(model)
    head = model.get_submodule(name)
    if not isinstance(head, nn.Linear):
        raise ParamsError(
            f"the last layer of this model ({name}) is no linear layer, so it has no features to "
            "stand on; choose another train.model, or transfer.mode: finetune"
        )
    return name, head


def features_of(model: nn.Module, images_BCHW: Tensor) -> Tensor:
    """What the head is given, [B, D].

    Args:
        model: Images in 0..1 [B, C, H, W] -> logits [B, K]; its head is linear.
        images_BCHW: Float32.
    """
    return features_and_logits(model, images_BCHW)[0]


def features_and_logits(model: nn.Module, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """What the head is given, [B, D], and what the model answers, [B, K]; as `features_of`."""
    seen: list[Tensor] = []
    _, head = linear_head_of(model)
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        logits_BK: Tensor = model(images_BCHW)
    finally:
        hook.remove()
    return seen[0], logits_BK


@dataclass(frozen=True)
class Block:
    """A part of the body that learns or rests as a whole.

    modules: Its modules; their submodules belong to it.
    parameters: Names in the model of its parameters.
    """

    modules: tuple[nn.Module, ...]
    parameters: tuple[str, ...]


def blocks_of(model: nn.Module) -> list[Block]:
    """The body's blocks in the order they are defined, the head left out.

    A block is a child of the network, or of its plain containers, that has weights; what has
    vectors alone (a norm) goes with the block before it, and parameters of the network itself with
    the first one.
    """
    head, loose = head_of(model), dict(model.named_parameters())
    found: list[Block] = []
    most = sum(value.numel() for value in loose.values()) // 2
    for name, part in _parts(model, "", most):
        if name == head or not any(True for _ in part.parameters()):
            continue
        names = tuple(f"{name}.{own}" for own, _ in part.named_parameters())
        if head.startswith(f"{name}."):
            names = tuple(own for own in names if not own.startswith(f"{head}."))
        if found and all(value.ndim < 2 for value in part.parameters()):
            before = found.pop()
            found.append(Block((*before.modules, part), (*before.parameters, *names)))
        elif names:
            found.append(Block((part,), names))
    taken = {name for block in found for name in block.parameters}
    rest = tuple(name for name in loose if name not in taken and not name.startswith(f"{head}."))
    if rest and found:
        found[0] = Block(found[0].modules, (*rest, *found[0].parameters))
    return found


def _parts(module: nn.Module, prefix: str, most: int) -> Iterator[tuple[str, nn.Module]]:
    """Children that are no containers, and those of children that are."""
    for name, child in module.named_children():
        if type(child) in _CONTAINERS or not prefix or _wraps_most(child, most):
            inner = list(child.named_children())
            if inner:
                yield from _parts(child, f"{prefix}{name}.", most)
                continue
        yield f"{prefix}{name}", child


def _wraps_most(module: nn.Module, most: int) -> bool:
    """Whether it is a shell around a container with most weights (a transformer's encoder)."""
    weights = sum(value.numel() for value in module.parameters())
    return weights > most and any(type(child) in _CONTAINERS for child in module.children())
