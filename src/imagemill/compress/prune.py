"""Structured pruning: the least important channels are taken out; what stays is a dense net.

Shapes: B batch, C channels, H height, W width, K classes.
"""

import fnmatch
from collections.abc import Iterator, Sequence, Set
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.compress.bench import Bench, open_float, save_float, spread
from imagemill.compress.prune_weights import prune_weights
from imagemill.errors import ParamsError, UnknownNameError
from imagemill.loading import to_input
from imagemill.params import PruneParams

if TYPE_CHECKING:
    from torch import Tensor, nn

_PROBES = 32
# Processors compute on blocks of channels: 11 of 16 channels run slower than all 16 do.
_BLOCK = 8
# Outputs before and after the removal of channels that are zero: only the order of sums differs.
_TOLERANCE = 1e-4


def prune(source: Path, target: Path, step: PruneParams, bench: Bench) -> None:
    """Take out channels, or by `step.structure` single weights.

    Channels: the share `step.ratio` of each layer where that is safe, but for `step.keep`.

    Raises:
        UnknownNameError: no layer is called as `step.keep` says.
        ParamsError: the ratio is so small that no layer loses a channel, or the model cannot be
            pruned.
    """
    import torch

    from imagemill.models import check_prunable, count_parameters

    if step.structure == "weights":
        prune_weights(source, target, step, bench)
        return
    model, card = open_float(source, bench)
    if card.architecture.is_ensemble:
        raise ParamsError("an ensemble cannot be pruned: distil from it, or prune its members")
    check_prunable(card.architecture.name)
    val = bench.images("val")
    probes = torch.from_numpy(to_input(val.take(spread(val.targets_N, _PROBES))))
    kept = _layers_named(model, step.keep or ())
    pruned = remove_channels(model, probes, ratio=step.ratio, keep=kept)
    before, after = count_parameters(model), count_parameters(pruned)
    if after == before:
        raise ParamsError(
            f"prune.ratio {step.ratio:g} removes no channel of {card.architecture.name}: raise it"
        )
    bench.log(f"prune: {before:,} -> {after:,} parameters ({after / before:.2f} x)")
    save_float(target, pruned, card, card.architecture)


def _layers_named(model: "nn.Module", patterns: Sequence[str]) -> set[str]:
    names = set(_learned_widths(model))
    found: set[str] = set()
    for pattern in patterns:
        matching = set(fnmatch.filter(names, pattern))
        if not matching:
            raise UnknownNameError("layer that learns", pattern, names)
        found |= matching
    return found


def remove_channels(
    model: "nn.Module", images_BCHW: "Tensor", *, ratio: float, keep: Set[str] = frozenset()
) -> "nn.Module":
    """A copy of a net with narrower layers.

    A layer is narrowed together with all layers its channels are tied to. Shortcuts that pad
    channels are written as convolutions first, so that the streams they tie can lose some. A
    removal is kept only if the net computes the same as with these channels set to zero: that
    leaves alone the logits, and streams whose channels are counted by the net (the tokens of
    transformers; groups of filters). Layers that do not learn are left alone too: their magnitude
    says nothing.

    Args:
        model: float32, in evaluation mode.
        images_BCHW: Real images to compare outputs on.
        ratio: Share of the channels of each layer to remove, in (0, 1); of layers with 16 or more,
            so many that a multiple of 8 stays.
        keep: Names of layers that lose none, nor does what is tied to them.

    Source:
        Fang et al. 2023, "DepGraph: Towards Any Structural Pruning" (torch-pruning), group
        magnitude; the check of each removal is ours.
    """
    from imagemill.models import restore_shortcuts, write_shortcuts

    model = deepcopy(model)
    shortcuts = write_shortcuts(model)
    graph = _graph_of(model, images_BCHW)
    for name, width in _learned_widths(model).items():
        layer = model.get_submodule(name)
        # A layer that was tied to an earlier one has been narrowed with it.
        least = _least_channels(graph, layer, ratio) if _width(layer) == width else []
        if not least or _is_tied(graph, layer, {model.get_submodule(name) for name in keep}):
            continue
        spare = deepcopy(model)
        if not _taken_out(graph, model, layer, least, images_BCHW):
            model, graph = spare, _graph_of(spare, images_BCHW)
    restore_shortcuts(model, shortcuts)
    return model


def _learned_widths(model: "nn.Module") -> dict[str, int]:
    """Name -> output channels of the layers that learn."""
    from torch import nn

    return {
        name: _width(layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.requires_grad
    }


def _width(layer: "nn.Module") -> int:
    """Output channels of a layer with weights."""
    from torch import Tensor

    assert isinstance(layer.weight, Tensor)
    return layer.weight.shape[0]


def _graph_of(model: "nn.Module", images_BCHW: "Tensor") -> Any:
    """Which layers' channels are tied; it follows what is pruned through it."""
    import torch_pruning as tp

    return tp.DependencyGraph().build_dependency(model, example_inputs=images_BCHW[:1])


def _least_channels(graph: Any, layer: "nn.Module", ratio: float) -> list[int]:
    """The channels of a layer that may go, in order; none of a layer that cannot lose any."""
    import torch_pruning as tp

    channels = _width(layer)
    count = channels - _kept(channels, ratio)
    # Not in the graph: not called (an auxiliary head, a part of an attention).
    if not count or layer not in graph.module2node:
        return []
    group = _group(graph, layer, list(range(channels)))
    if {_width(part) for part, _ in _outputs(graph, group)} != {channels}:
        return []
    importance = tp.importance.GroupMagnitudeImportance(p=2)(group)
    least: list[int] = importance.argsort(stable=True)[:count].sort().values.tolist()
    return least


def _is_tied(graph: Any, layer: "nn.Module", kept: "Set[nn.Module]") -> bool:
    """Whether a layer's channels go together with those of one that keeps its own."""
    group = _group(graph, layer, list(range(_width(layer))))
    return any(part in kept for part, _ in _outputs(graph, group))


def _taken_out(
    graph: Any, model: "nn.Module", layer: "nn.Module", channels: list[int], images_BCHW: "Tensor"
) -> bool:
    """Remove channels of a layer and what is tied to them; the model is spoilt if that is unsafe.

    Returns:
        Whether the net computes what it did with these channels set to zero.
    """
    import torch

    group = _group(graph, layer, channels)
    with torch.no_grad():
        _mute(graph, group)
        expected_BK = model(images_BCHW)
        try:
            group.prune()
            received_BK = model(images_BCHW)
        except RuntimeError:  # of shapes: the net counts on channels that are gone
            return False
    return _same(expected_BK, received_BK)


def _group(graph: Any, layer: "nn.Module", channels: list[int]) -> Any:
    """What has to go together with output channels of a layer."""
    remove = graph.get_pruner_of_module(layer).prune_out_channels
    return graph.get_pruning_group(layer, remove, channels)


def _kept(channels: int, ratio: float) -> int:
    """Channels that stay: at least one; whole blocks where there are two blocks or more."""
    wanted = channels * (1 - ratio)
    if channels < 2 * _BLOCK:
        return max(1, round(wanted))
    return _BLOCK * max(1, round(wanted / _BLOCK))


def _outputs(graph: Any, group: Any) -> Iterator[tuple[Any, list[int]]]:
    """Layers with weights that lose output channels, and which ones."""
    for dependency, channels in group:
        layer = dependency.target.module
        loses_outputs = graph.is_out_channel_pruning_fn(dependency.handler)
        if loses_outputs and getattr(layer, "weight", None) is not None:
            yield layer, channels


def _mute(graph: Any, group: Any) -> None:
    """Make the channels of a group say zero."""
    for layer, channels in _outputs(graph, group):
        layer.weight[channels] = 0
        if layer.bias is not None:
            layer.bias[channels] = 0


def _same(expected_BK: "Tensor", received_BK: "Tensor") -> bool:
    if expected_BK.shape != received_BK.shape:
        return False
    allowed = _TOLERANCE * max(1.0, float(expected_BK.abs().max()))
    return bool((expected_BK - received_BK).abs().max() <= allowed)
