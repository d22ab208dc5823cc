"""EXPORTS: other forms of a variant, for other programs; none of them is what its runtime loads.

Every one is compared with the net it was made from on images of val before it is published.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.compress.bench import GRAPH, WEIGHTS
from imagemill.runtimes import Predictor, openvino_session
from imagemill.runtimes.quiet import quiet_openvino


class Export(NamedTuple):
    """A form of a model.

    made_from: The file it is made from; a variant without it has no such export.
    files: What it consists of.
    write: Makes them in a model folder with a model.json.
    open: A predictor of what was written, to check it.
    """

    made_from: str
    files: tuple[str, ...]
    write: Callable[[Path], None]
    open: Callable[[Path], Predictor]


_PROGRAM, _TOPOLOGY, _CONSTANTS = "model.pt2", "model.xml", "model.bin"


def _write_program(folder: Path) -> None:
    """torch.export's archive; it holds a pickle, so that imagemill itself never loads one that
    it did not write in the same breath."""
    import torch

    from imagemill.models import load_model

    model, card = load_model(folder)
    example = torch.zeros(2, *card.input_shape)  # a batch of one would be taken for a constant
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / _PROGRAM)


def _open_program(folder: Path) -> Predictor:
    import torch

    run = torch.export.load(folder / _PROGRAM).module()

    def predict(images_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits_BK: NDArray[np.float32] = run(torch.from_numpy(images_BCHW)).numpy()
        return logits_BK

    return predict


def _write_openvino(folder: Path) -> None:
    """OpenVINO's own form of the ONNX file, weights as they are there."""
    openvino = quiet_openvino()
    model = openvino.Core().read_model(folder / GRAPH)
    openvino.save_model(model, folder / _TOPOLOGY, compress_to_fp16=False)


def _open_openvino(folder: Path) -> Predictor:
    model = quiet_openvino().Core().read_model(folder / _TOPOLOGY)
    return openvino_session.compiled(model, threads=1, bfloat16=False)


EXPORTS: dict[str, Export] = {
    "pt2": Export(WEIGHTS, (_PROGRAM,), _write_program, _open_program),
    "openvino": Export(GRAPH, (_TOPOLOGY, _CONSTANTS), _write_openvino, _open_openvino),
}
