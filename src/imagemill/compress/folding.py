"""Batch norms behind a max-pool become part of the convolution before it.

Exporters fold a norm into the convolution it follows. Where a max-pool stands between the two they
leave it alone, and a quantizer then rounds its parameters as well. A norm that scales up or down,
but never turns a sign, picks the same largest value before the pool as behind it.

Shapes: O output channels.
"""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx


def fold_norms(graph: "onnx.GraphProto") -> int:
    """Change a graph in place; it computes the same but for rounding.

    Args:
        graph: In evaluation form, its weights stored as initializers.

    Returns:
        How many norms are gone.
    """
    folded = [node for node in graph.node if _folded(graph, node)]
    for node in folded:
        graph.node.remove(node)
    used = _uses(graph)
    for stored in list(graph.initializer):
        if not used[stored.name]:
            graph.initializer.remove(stored)
    return len(folded)


def _folded(graph: "onnx.GraphProto", norm: "onnx.NodeProto") -> bool:
    """Whether a node is a norm whose work the convolution before its pool does from now on."""
    from onnx import numpy_helper

    makers, uses = {name: node for node in graph.node for name in node.output}, _uses(graph)
    pool = makers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
    convolution = makers.get(pool.input[0]) if pool and pool.op_type == "MaxPool" else None
    if convolution is None or pool is None or convolution.op_type != "Conv":
        return False
    if any(uses[node.output[0]] != 1 for node in (pool, convolution)):
        return False
    stored = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    if not {*norm.input[1:], *convolution.input[1:]} <= stored.keys():
        return False
    scale_O, shift_O, mean_O, variance_O = (
        stored[name].astype(np.float64) for name in norm.input[1:]
    )
    epsilon = next((each.f for each in norm.attribute if each.name == "epsilon"), 1e-5)
    factor_O = scale_O / np.sqrt(variance_O + epsilon)
    if (factor_O <= 0).any():  # the least value would be the largest behind it
        return False
    weight, *bias = (stored[name] for name in convolution.input[1:])
    bias_O = ((bias[0] if bias else 0.0) - mean_O) * factor_O + shift_O
    weight = weight * factor_O.reshape(-1, *[1] * (weight.ndim - 1))
    names = [f"{norm.output[0]}.{part}" for part in ("weight", "bias")]
    for name, values in zip(names, (weight, bias_O), strict=True):
        graph.initializer.append(numpy_helper.from_array(_single(values), name))
    del convolution.input[1:]
    convolution.input.extend(names)
    pool.output[0] = norm.output[0]
    return True


def _single(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, dtype=np.float32)


def _uses(graph: "onnx.GraphProto") -> Counter[str]:
    """How often each value is read; what the graph returns counts once more."""
    read = [name for node in graph.node for name in node.input]
    return Counter(read + [each.name for each in graph.output])
