"""bfloat16: half the bytes for weights, and products in it where the runtime computes so."""

from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.compress.bench import (
    CARD,
    GRAPH,
    WEIGHTS,
    Bench,
    open_float,
    save_card,
    save_float,
)
from imagemill.compress.export import write_graph
from imagemill.params import HalveParams
from imagemill.records import ModelCard, write_bytes

if TYPE_CHECKING:
    from torch import nn


def bfloat16(source: Path, target: Path, step: HalveParams, bench: Bench) -> None:  # noqa: ARG001
    """Store filters and matrices in bfloat16; norms, biases and pixel statistics stay float32.

    Eager, compiled and OpenVINO compute in bfloat16; ONNX Runtime has no such kernels for the CPU
    and computes in float32 with the rounded weights.
    """
    import torch

    model, card = open_float(source, bench)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(torch.bfloat16).float()
    save_float(target, model, card, card.architecture)
    write_graph(target, target / GRAPH, bench)
    _halve_graph(target / GRAPH)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(torch.bfloat16)
    _save_halved(target, model)
    halved = ModelCard.read(target / CARD)
    save_card(target, halved, [WEIGHTS, GRAPH], bfloat16=True)


def _save_halved(target: Path, model: "nn.Module") -> None:
    from imagemill.models import save_weights

    save_weights(target / WEIGHTS, model)


def _halve_graph(path: Path) -> None:
    """Store float32 constants of two dimensions and more in bfloat16, cast where they are used."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values = numpy_helper.to_array(tensor)
        name = tensor.name
        # The upper half of a float32 is a bfloat16; these values were rounded to it before.
        halves = (values.view("<u4") >> 16).astype("<u2")
        tensor.CopyFrom(
            helper.make_tensor(
                f"{name}.bfloat16", TensorProto.BFLOAT16, values.shape, halves.tobytes(), raw=True
            )
        )
        casts.append(
            helper.make_node(
                "Cast", [tensor.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT
            )
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    write_bytes(path, model.SerializeToString(deterministic=True))
