"""The stage: from the base through a chain of steps to one variant."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from imagemill.compress.bench import Bench, Method
from imagemill.compress.bfloat16 import bfloat16
from imagemill.compress.calibrate import calibrate
from imagemill.compress.distil import distil
from imagemill.compress.ensemble import ensemble
from imagemill.compress.factorise import factorise
from imagemill.compress.finetune import finetune
from imagemill.compress.prune import prune
from imagemill.compress.publish import check_names, publish
from imagemill.compress.quantize import quantize
from imagemill.errors import UnknownNameError
from imagemill.params import Params, StepParams
from imagemill.records import STATE, ModelCard
from imagemill.steps import Step, directly

METHODS: dict[str, Method] = {
    "prune": prune,
    "finetune": finetune,
    "distil": distil,
    "quantize": quantize,
    "factorise": factorise,
    "bfloat16": bfloat16,
    "calibrate": calibrate,
    "ensemble": ensemble,
}


def compress(
    root: Path,
    params: Params,
    variant: str,
    *,
    log: Callable[[str], None],
    progress: Callable[[float, str], None],
    step: Step = directly,
    members: Mapping[str, tuple[Path, int]] | None = None,
) -> ModelCard:
    """Make models/<variant>/ from models/base/.

    Args:
        root: The project's root.
        params: All sections.
        variant: A name in `compress.variants`.
        log: Gets a line for what was done.
        progress: Gets the share of the running step, 0..1, and the step's name.
        step: Calls each step of the chain.
        members: What `ensemble.members` names -> its folder and its version.

    Returns:
        model.json of the variant.

    Raises:
        UnknownNameError: no such variant, runtime, export or model.
        IntegrityError: models/base or the data is missing or damaged.
        DiskError: models/ cannot be written.
    """
    if variant not in params.compress.variants:
        raise UnknownNameError("variant", variant, params.compress.variants)
    check_names(params.compress)
    chain = params.compress.variants[variant]
    bench = Bench(root, params, log, progress, members or {})
    scratch = root / STATE / "compress" / variant
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        made = _run(chain, bench, scratch, step)
        return step(publish, made, variant, chain, bench)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(chain: tuple[StepParams, ...], bench: Bench, scratch: Path, step: Step) -> Path:
    """Each step in turn; returns the last one's folder."""
    source = bench.base
    for number, link in enumerate(chain, 1):
        target = scratch / f"{number}-{link.method}"
        target.mkdir(parents=True)
        step(METHODS[link.method], source, target, getattr(link, link.method), bench)
        source = target
    return source
