"""The end of a chain: the forms of a variant, the runtime it ships in, and its place in models/."""

import shutil
from pathlib import Path

from imagemill.compress.bench import CARD, GRAPH, WEIGHTS, Bench, save_card
from imagemill.compress.checking import Checker, believed_runtime, fastest, measure_runtimes
from imagemill.compress.export import write_graph
from imagemill.compress.exports import EXPORTS
from imagemill.errors import UnknownNameError
from imagemill.params import BASE, CompressParams, StepParams
from imagemill.records import MODELS, ExportCheck, ModelCard, RuntimeFigures, publishing_folder
from imagemill.runtimes import RUNTIMES, open_variant, runtimes_of

AUTO = "auto"
CANDIDATES = ("onnxruntime", "openvino", "eager")


def check_names(params: CompressParams) -> None:
    """Refuse runtimes and exports that do not exist.

    Raises:
        UnknownNameError: there is no such runtime or export.
    """
    known = [*RUNTIMES, AUTO]
    for name in (params.runtime, *(params.candidates or ())):
        if name not in known or (name == AUTO and name != params.runtime):
            raise UnknownNameError("runtime", name, known)
    for name in params.exports or ():
        if name not in EXPORTS:
            raise UnknownNameError("export", name, EXPORTS)


def publish(made: Path, variant: str, chain: tuple[StepParams, ...], bench: Bench) -> ModelCard:
    """Complete the last folder of a chain and put it in place.

    Raises:
        IntegrityError: an export or a runtime says something else than the net.
        DiskError: models/ cannot be written.
    """
    path = bench.root / MODELS / variant
    like = ModelCard.read(made / CARD).model_copy(
        update={
            "variant": variant,
            "parent": BASE,
            "steps": [link.model_dump(mode="json", exclude_unset=True) for link in chain],
        }
    )
    with publishing_folder(path) as folder:
        for name in like.files:
            shutil.copyfile(made / name, folder / name)
        if WEIGHTS in like.files and GRAPH not in like.files and _wants_graph(bench):
            write_graph(made, folder / GRAPH, bench)
        _save(folder, like, like.runtime if GRAPH in like.files else "eager")
        runtime, figures, exports = _judged(folder, bench)
        _save(folder, like.model_copy(update={"runtimes": figures, "exports": exports}), runtime)
    card = ModelCard.read(path / CARD)
    _tell(card, bench)
    return card


def _wants_graph(bench: Bench) -> bool:
    params = bench.params.compress
    wanted = (params.candidates or CANDIDATES) if params.runtime == AUTO else (params.runtime,)
    files = [RUNTIMES[name].file for name in wanted]
    files += [EXPORTS[name].made_from for name in params.exports or ()]
    return GRAPH in files


def _save(folder: Path, like: ModelCard, runtime: str) -> None:
    shipped = RUNTIMES[runtime].file
    others = sorted({file.name for file in folder.iterdir()} - {shipped, CARD})
    save_card(folder, like, [shipped, *others], runtime=runtime)


def _judged(
    folder: Path, bench: Bench
) -> tuple[str, dict[str, RuntimeFigures], dict[str, ExportCheck]]:
    """The runtime to ship in, what it was chosen by, and what the exports say."""
    card, params = ModelCard.read(folder / CARD), bench.params.compress
    openable = runtimes_of(card)
    named = params.runtime if params.runtime in openable else card.runtime
    exports = [name for name in params.exports or () if EXPORTS[name].made_from in card.files]
    if params.runtime != AUTO and not exports:
        return named, {}, {}
    threads, believed = bench.params.evaluate.threads, believed_runtime(card)
    exact = believed == "eager" and not card.bfloat16
    checker = Checker(bench, open_variant(folder, threads=threads, runtime=believed), exact=exact)
    checks = {name: _exported(name, folder, checker, bench) for name in exports}
    if params.runtime != AUTO:
        return named, {}, checks
    wanted = [name for name in params.candidates or CANDIDATES if name in openable]
    if not wanted:
        return named, {}, checks
    figures = measure_runtimes(folder, wanted, checker, threads=threads)
    for name, figure in figures.items():
        bench.log(
            f"runtime {name}: {figure.latency_ms_p50:.3f} ms for one image, val top-1 "
            f"{figure.val_top1:.2%}, logits differ by {figure.max_difference:.2g} at most"
        )
    return fastest(figures), figures, checks


def _exported(name: str, folder: Path, checker: Checker, bench: Bench) -> ExportCheck:
    export = EXPORTS[name]
    export.write(folder)
    check = checker.check(f"export {name}", export.open(folder))
    bench.log(
        f"export {name}: differs by {check.max_difference:.2g} at most on "
        f"{len(checker.targets_N)} images of val, top-1 {check.val_top1:.2%}"
    )
    return check


def _tell(card: ModelCard, bench: Bench) -> None:
    base = ModelCard.read(bench.base / CARD)
    before = (bench.base / base.file).stat().st_size
    after = (bench.root / MODELS / card.variant / card.file).stat().st_size
    bench.log(
        f"{card.variant}: {before / 1000:.1f} -> {after / 1000:.1f} kB ({after / before:.2f} x), "
        f"runs in {card.runtime}"
    )
    if after >= before and not card.architecture.is_ensemble:
        bench.log(f"{card.variant} is not smaller than the base: its verdict will be rejected")
