"""From an eager net to one self-contained ONNX file, and the proof that both say the same.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import IntegrityError
from imagemill.records import write_bytes

if TYPE_CHECKING:
    import onnx
    from torch import nn

INPUT = "images"
OUTPUT = "logits"
OPSET = 20

# Largest |difference| between two float32 implementations of one net, relative to the largest
# logit: they sum in another order, each of some 20 layers loses a few of the 24 bits.
TOLERANCE = 1e-3


def export_onnx(model: "nn.Module", input_shape: tuple[int, int, int], path: Path) -> None:
    """Write `model` as one ONNX file with a free batch size.

    What the exporter adds for debugging (stack traces with paths of this machine, module names) is
    left out: the same weights give the same bytes anywhere.

    Args:
        model: Eager float32 net in evaluation mode; takes float32 [B, C, H, W] in 0..1.
        input_shape: (C, H, W).
        path: Where the file goes; written whole or not at all.

    Raises:
        DiskError: `path` cannot be written.
    """
    import torch

    assert not model.training, "export freezes batch statistics: call model.eval() first"
    # Two images: a batch of one would be taken for a constant.
    example = torch.zeros(2, *input_shape)
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        external_data=False,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    graph = program.model_proto
    _forget_debugging(graph)
    write_bytes(path, graph.SerializeToString(deterministic=True))


def _forget_debugging(graph: "onnx.ModelProto") -> None:
    graph.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")
    graph.graph.ClearField("doc_string")
    graph.graph.ClearField("value_info")
    parts = (graph.graph.node, graph.graph.input, graph.graph.output, graph.graph.initializer)
    for group in parts:
        for part in group:
            part.ClearField("metadata_props")
            part.ClearField("doc_string")


def check_export(model: "nn.Module", path: Path, batches: Iterable[NDArray[np.float32]]) -> float:
    """Compare an exported file with its eager net on real images.

    Args:
        model: The net that was exported, float32, in evaluation mode.
        path: What `export_onnx` wrote.
        batches: Images, each float32 [B, C, H, W] in 0..1.

    Returns:
        The largest absolute difference between two logits.

    Raises:
        IntegrityError: a logit differs by more than float32 arithmetic explains, or an image gets
            another class (equal logits aside).
    """
    import torch

    from imagemill.runtimes.onnx_session import open_session

    run = open_session(path.read_bytes(), threads=torch.get_num_threads())
    largest = 0.0
    for images_BCHW in batches:
        with torch.inference_mode():
            eager_BK = model(torch.from_numpy(images_BCHW)).numpy()
        largest = max(largest, _agreement(eager_BK, run(images_BCHW), path))
    return largest


def _agreement(
    expected_BK: NDArray[np.float32], received_BK: NDArray[np.float32], path: Path
) -> float:
    """Largest absolute difference, once it is known to be harmless."""
    allowed = TOLERANCE * max(1.0, float(np.abs(expected_BK).max()))
    difference = float(np.abs(expected_BK - received_BK).max())
    # Classes whose logits lie closer than the arithmetic resolves may swap.
    chosen_B = received_BK.argmax(1)
    lost_B = expected_BK.max(1) - expected_BK[np.arange(len(chosen_B)), chosen_B]
    if not difference <= allowed or bool((lost_B > difference).any()):
        raise IntegrityError(
            f"{path} differs from the net it was exported from by {difference:.2g} "
            f"(allowed {allowed:.2g}); the exporter misread this net, so use runtime eager"
        )
    return difference
