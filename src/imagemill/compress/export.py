"""The ONNX form of a model folder: the one that is there, or one made and checked now."""

from pathlib import Path

from imagemill.compress.bench import CARD, GRAPH, Bench, open_float, spread
from imagemill.loading import to_input
from imagemill.records import ModelCard, write_bytes
from imagemill.runtimes import check_export, export_onnx
from imagemill.runtimes.contract import checked_bytes

_CHECKED_IMAGES = 256


def write_graph(source: Path, path: Path, bench: Bench) -> None:
    """Write the float32 ONNX graph of a model folder.

    A graph the folder holds is taken over; else its eager net is exported, and both are compared on
    images of val.

    Args:
        source: A model folder.
        path: The ONNX file to write.
        bench: The workbench.

    Raises:
        IntegrityError: the folder is damaged, or the exported graph says something else.
    """
    card = ModelCard.read(source / CARD)
    if GRAPH in card.files:
        write_bytes(path, checked_bytes(source, GRAPH))
        return
    model, _ = open_float(source, bench)
    export_onnx(model, card.input_shape, path)
    val = bench.images("val")
    images_BCHW = to_input(val.take(spread(val.targets_N, _CHECKED_IMAGES)))
    difference = check_export(model, path, [images_BCHW])
    bench.log(
        f"export: ONNX and eager differ by {difference:.1g} at most on {len(images_BCHW)} images "
        "of val and agree on every class"
    )
