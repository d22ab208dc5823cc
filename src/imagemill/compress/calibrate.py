"""Temperature scaling as a step: the net says how sure it is, with the temperature in its file.

Shapes: N images, B batch, K classes.
"""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemill.compress.bench import CARD, GRAPH, WEIGHTS, Bench, save_card, save_float, spread
from imagemill.compress.checking import believed_runtime
from imagemill.errors import ParamsError
from imagemill.loading import SplitImages, images_at_once, to_input
from imagemill.metrics import fitted_temperature, softmax
from imagemill.params import CalibrateParams
from imagemill.records import ModelCard
from imagemill.runtimes import Predictor, open_variant

_MOST, _PROBES = 256, 32
_TOLERANCE = 1e-4  # of the largest logit: only the order of operations differs


def calibrate(source: Path, target: Path, step: CalibrateParams, bench: Bench) -> None:
    """Fit a temperature on val and divide the logits by it; classes stay what they were.

    Raises:
        ParamsError: the net's logits do not come from a last linear layer.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. Ours is stored in
        the last layer's weights, or as one division at the end of an INT8 graph.
    """
    del step
    card = ModelCard.read(source / CARD)
    runtime, threads = believed_runtime(card), bench.params.evaluate.threads
    predict = open_variant(source, threads=threads, runtime=runtime)
    val = bench.images("val")
    probs_NK = softmax(_logits(predict, val, np.arange(len(val))))
    temperature = fitted_temperature(probs_NK, val.targets_N)
    bench.log(f"calibrate: logits are divided by {temperature:.3f}")
    if WEIGHTS in card.files:
        _divide_weights(source, target, temperature, bench)
    else:
        _divide_graph(source / GRAPH, target / GRAPH, temperature)
        save_card(target, card, [GRAPH], temperature=temperature)
    probes = spread(val.targets_N, _PROBES)
    divided = open_variant(target, threads=threads, runtime=runtime)
    expected_BK = _logits(predict, val, probes) / temperature
    received_BK = _logits(divided, val, probes)
    allowed = _TOLERANCE * max(1.0, float(np.abs(expected_BK).max()))
    if np.abs(expected_BK - received_BK).max() > allowed:
        raise ParamsError(
            f"calibrate cannot scale {card.architecture.name}: its logits do not come from a last "
            "linear layer; leave the step out, `evaluate` states the temperature all the same"
        )


def _logits(
    predict: Predictor, images: SplitImages, positions_N: NDArray[np.intp]
) -> NDArray[np.float32]:
    at_once = images_at_once(*images.input_shape[1:], most=_MOST)
    batches = np.split(positions_N, range(at_once, len(positions_N), at_once))
    return np.concatenate([predict(to_input(images.take(batch_B))) for batch_B in batches])


def _divide_weights(source: Path, target: Path, temperature: float, bench: Bench) -> None:
    import torch
    from torch import nn

    from imagemill.compress.bench import open_float

    model, card = open_float(source, bench)
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    with torch.no_grad():
        for weights in layers[-1].parameters() if layers else ():
            weights.div_(temperature)
    like = card.model_copy(update={"temperature": temperature})
    save_float(target, model, like, card.architecture)


def _divide_graph(graph: Path, divided: Path, temperature: float) -> None:
    import onnx
    from onnx import helper, numpy_helper

    shutil.copyfile(graph, divided)
    model = onnx.load(divided)
    (output,) = model.graph.output
    before = f"{output.name}_before_temperature"
    for node in model.graph.node:
        node.output[:] = [before if name == output.name else name for name in node.output]
    scale = numpy_helper.from_array(np.array(temperature, np.float32), "temperature")
    model.graph.initializer.append(scale)
    model.graph.node.append(helper.make_node("Div", [before, "temperature"], [output.name]))
    onnx.checker.check_model(model)
    onnx.save(model, divided)
