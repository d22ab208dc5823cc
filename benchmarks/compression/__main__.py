"""Compressed nets beside their parents and peers, one table: `make bench-compress`.

    python -m benchmarks.compression               # both bases; trains them the first time
    python -m benchmarks.compression resnet20      # one alone
    python -m benchmarks.compression resnet20 int8 pruned50    # some of its variants

One thread, all contestants in turns in one process. Writes results/compression.json, for one base
alone results/compression-<base>.json. Peers that are not installed are left out, and that is said.
"""

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from benchmarks.compression import ceiling, peers
from benchmarks.compression.bases import BASES, base_project, params_of
from benchmarks.compression.timing import BATCH, Figures, measure
from benchmarks.compression.variants import VARIANTS, make_variants
from benchmarks.results import Row, write_results
from imagemill.compress.bench import Bench, spread
from imagemill.errors import UnknownNameError
from imagemill.loading import open_split, to_input
from imagemill.records import ModelCard
from imagemill.runtimes import Predictor, open_variant, runtimes_of

# Compiling takes minutes for all variants, and its figures are known to lie behind.
_RUNTIMES = ("eager", "onnxruntime", "openvino")
_PEER_IMAGES = 256


def main(names: list[str]) -> None:
    """Measure the named bases, or all; with all their variants, or those named.

    Raises:
        UnknownNameError: a name is neither a base nor a variant.
    """
    bases = [name for name in names if name in BASES]
    chosen = [name for name in names if name not in BASES]
    known = {name for base in bases or BASES for name in VARIANTS[base]}
    for name in chosen:
        if name not in known:
            raise UnknownNameError("variant", name, known)
    rows = [row for base in bases or BASES for row in _measure(base, chosen)]
    write_results("-".join(["compression", *bases]), rows)


def _measure(base: str, chosen: list[str]) -> list[Row]:
    root = base_project(base)
    cards = {
        "base": ModelCard.read(root / "models/base/model.json"),
        **make_variants(base, root, chosen),
    }
    params = params_of(root)
    shape = cards["base"].input_shape
    test = open_split(root, "test", input_shape=shape, loading=params.loading)
    contestants = {
        f"{name} in {runtime}": open_variant(root / "models" / name, threads=1, runtime=runtime)
        for name, card in cards.items()
        for runtime in runtimes_of(card)
        if runtime in _RUNTIMES
    }
    with tempfile.TemporaryDirectory() as folder:
        contestants |= _peers(root, Bench(root, params, print, lambda share, words: None), folder)
        figures = measure(contestants, test)
    sizes = {
        name: (root / "models" / name / card.file).stat().st_size for name, card in cards.items()
    }
    rows = [_size_row(base, name, size, sizes["base"]) for name, size in sizes.items()]
    for name, card in cards.items():
        sys.stdout.write(f"{base} {name} ships in {card.runtime}\n")
    for name, figure in figures.items():
        rows += _rows(base, name, figure, figures)
    return rows + ceiling.rows(base, cards["base"].macs, figures["base in eager"].single_ms)


def _peers(root: Path, bench: Bench, folder: str) -> dict[str, Predictor]:
    val = bench.images("val")
    images_NCHW = to_input(val.take(spread(val.targets_N, _PEER_IMAGES)))
    graph = root / "models/base/model.onnx"
    found = {
        "plain ONNX Runtime static": peers.onnxruntime_static(graph, images_NCHW, Path(folder))
    }
    if find_spec("nncf") is None:
        sys.stdout.write("nncf is left out: pip install 'imagemill[compress-peers]' brings it\n")
    else:
        found["plain NNCF + OpenVINO"] = peers.nncf_openvino(graph, images_NCHW)
    return found


def _size_row(base: str, name: str, size: int, reference: int) -> Row:
    return Row(f"{base} {name}: file it loads", size / 1000, "kB").against("base", reference / 1000)


def _rows(base: str, name: str, figure: Figures, figures: dict[str, Figures]) -> list[Row]:
    """Accuracy, and time beside eager and the base in the same runtime."""
    eager = figures["base in eager"]
    _, _, runtime = name.partition(" in ")
    rows = [
        Row(f"{base} {name}: top-1 on test", figure.top1, "fraction").against("base", eager.top1)
    ]
    references = {"base in eager": eager}
    if f"base in {runtime}" in figures:
        references[f"base in {runtime}"] = figures[f"base in {runtime}"]
    single = Row(f"{base} {name}: one image", figure.single_ms, "ms")
    batch = Row(f"{base} {name}: {BATCH} images", figure.batch_ms, "ms")
    for told, reference in references.items():
        rows.append(single.against(told, reference.single_ms))
        rows.append(batch.against(told, reference.batch_ms))
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
