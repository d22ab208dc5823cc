"""Open any saved variant behind one call, whatever it runs in.

A runtime is one file here and one line in `RUNTIMES`. Importing this room imports no torch: a
variant that ships as ONNX is served without it.
"""

from pathlib import Path

from imagemill.errors import UnknownNameError
from imagemill.records import ModelCard
from imagemill.runtimes import compiled, eager, onnx_session, openvino_session
from imagemill.runtimes.contract import Predictor, Runtime
from imagemill.runtimes.onnx_export import check_export, export_onnx

RUNTIMES: dict[str, Runtime] = {
    "eager": Runtime(eager.FILE, eager.open_eager),
    "compiled": Runtime(compiled.FILE, compiled.open_compiled),
    "onnxruntime": Runtime(onnx_session.FILE, onnx_session.open_onnxruntime),
    "openvino": Runtime(openvino_session.FILE, openvino_session.open_openvino),
}


def open_variant(folder: Path, *, threads: int, runtime: str | None = None) -> Predictor:
    """Open a model folder in its own runtime or in another one it holds a file for.

    Args:
        folder: models/<variant>.
        threads: Threads inside one operator.
        runtime: A name in `RUNTIMES`; None: the one the variant ships in.

    Returns:
        float32 images [B, C, H, W] in 0..1 -> float32 logits [B, K].

    Raises:
        UnknownNameError: there is no such runtime, or the variant holds no file for it.
        IntegrityError: model.json or the file is missing, damaged or not the one on record.
    """
    card = ModelCard.read(folder / "model.json")
    name = runtime or card.runtime
    if name not in RUNTIMES:
        raise UnknownNameError("runtime", name, RUNTIMES)
    openable = runtimes_of(card)
    if name not in openable:
        raise UnknownNameError(f"runtime of variant {card.variant}", name, openable)
    return RUNTIMES[name].open(folder, threads=threads)


def runtimes_of(card: ModelCard) -> list[str]:
    """Names of the runtimes a variant holds a file for."""
    return [name for name, runtime in RUNTIMES.items() if runtime.file in card.files]


__all__ = [
    "RUNTIMES",
    "Predictor",
    "Runtime",
    "check_export",
    "export_onnx",
    "open_variant",
    "runtimes_of",
]
