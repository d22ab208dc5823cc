"""INT8 with fixed ranges of activations, taken from images of val.

Shapes: N images, M others, B batch, C channels, H height, W width, K classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagemill.compress.folding import fold_norms
from imagemill.loading import images_at_once
from imagemill.metrics import Probabilities, softmax
from imagemill.runtimes.onnx_export import INPUT
from imagemill.runtimes.onnx_session import open_session

_BATCH = 64
# Of a batch that ranges are taken from: all activations of it are kept until it is over.
_PIXELS = 16 * 224 * 224
# How far an activation reaches: to the extremes of all images, which one odd image can stretch, or
# to the mean of the extremes of batches, which cuts that image off. Neither is better for all nets.
_RANGES: dict[str, dict[str, Any]] = {
    "extremes": {},
    "mean extremes": {"CalibMovingAverage": True},
}
# Mean divergence from float32, nats, that is near enough: a first layer in float32 brings answers
# nearer, but makes a net up to a sixth slower.
_NEAR = 0.001


def quantize_statically(
    graph: Path,
    quantized: Path,
    images_NCHW: NDArray[np.float32],
    others_MCHW: NDArray[np.float32],
) -> str:
    """Signed weights with a scale for each channel, unsigned activations.

    Args:
        graph: A float32 ONNX file.
        quantized: The file to write.
        images_NCHW: What ranges are taken from.
        others_MCHW: What they are judged on: the answers shall differ least from the float graph's.

    Returns:
        What was chosen, in words for the log.
    """
    from onnxruntime.quantization import quant_pre_process

    prepared = graph.with_name("prepared.onnx")
    # Shapes are known already; the symbolic pass would import torch's companions for nothing.
    quant_pre_process(graph, prepared, skip_symbolic_shape=True)
    _fold(prepared)
    wanted_MK = _probabilities(prepared, others_MCHW)
    made: dict[str, float] = {}

    def make(suffix: str, excluded: list[str]) -> None:
        for ranges, options in _RANGES.items():
            candidate = graph.with_name(f"{ranges}{suffix}.onnx")
            _write(prepared, candidate, images_NCHW, excluded, options)
            made[candidate.stem] = divergence(wanted_MK, _probabilities(candidate, others_MCHW))

    make("", [])
    # What looks at the image itself loses most where its 256 levels are rounded again.
    first = up_to_first_convolution(prepared)
    if first and min(made.values()) > _NEAR:
        make(", first layer in float32", first)
    best = min(made, key=made.__getitem__)
    graph.with_name(f"{best}.onnx").replace(quantized)
    told = "; ".join(f"{name} {value:.2g}" for name, value in made.items())
    return f"ranges by {best} (divergence from float32: {told})"


def _write(
    prepared: Path,
    candidate: Path,
    images_NCHW: NDArray[np.float32],
    excluded: list[str],
    options: dict[str, Any],
) -> None:
    """An INT8 graph but for the nodes named in `excluded`."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        prepared,
        candidate,
        _Calibration(images_NCHW),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        nodes_to_exclude=excluded,
        extra_options=options,
    )


def up_to_first_convolution(graph: Path) -> list[str]:
    """Names of the nodes before the first convolution, and its own; none if there is no other."""
    import onnx

    nodes = onnx.load(graph, load_external_data=False).graph.node
    places = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
    return [node.name for node in nodes[: places[0] + 1]] if len(places) > 1 else []


def _fold(graph: Path) -> None:
    """Norms that would be rounded by themselves go into convolutions first."""
    import onnx

    model = onnx.load(graph)
    if fold_norms(model.graph):
        onnx.save(model, graph)


def divergence(wanted_MK: Probabilities, answers_MK: Probabilities) -> float:
    """Mean Kullback-Leibler divergence of answers from those wanted, in nats.

    Args:
        wanted_MK, answers_MK: Probabilities.
    """
    least = np.finfo(np.float32).tiny
    ratios_MK = np.log(np.maximum(wanted_MK, least)) - np.log(np.maximum(answers_MK, least))
    return float((wanted_MK * ratios_MK).sum(1).mean())


def _probabilities(graph: Path, images_MCHW: NDArray[np.float32]) -> Probabilities:
    session = open_session(graph.read_bytes(), threads=1)
    starts = range(0, len(images_MCHW), _BATCH)
    logits = [session(images_MCHW[start : start + _BATCH]) for start in starts]
    return softmax(np.concatenate(logits))


class _Calibration:
    """Hands images over batch by batch, as ONNX Runtime asks for them."""

    def __init__(self, images_NCHW: NDArray[np.float32]) -> None:
        at_once = images_at_once(*images_NCHW.shape[2:], most=_BATCH, pixels=_PIXELS)
        self._batches = iter(np.split(images_NCHW, range(at_once, len(images_NCHW), at_once)))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next feed; None after the last."""
        batch_BCHW = next(self._batches, None)
        return None if batch_BCHW is None else {INPUT: batch_BCHW}
