"""Who is compared: the base, its variants, and the base once more in each of their runtimes."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from imagemill.energy import POWERCAP, EnergyMeter
from imagemill.errors import IntegrityError
from imagemill.evaluate.cost import Cost, Stopwatch, measure_cost
from imagemill.evaluate.views import with_views
from imagemill.loading import SplitImages, to_input
from imagemill.params import BASE, EvaluateParams
from imagemill.records import MODELS, SHARD_MANIFEST, ModelCard, ShardManifest
from imagemill.runtimes import Predictor, open_variant, runtimes_of
from imagemill.runtimes.footprint import Footprint, measure_footprint

Cards = Mapping[str, ModelCard]


def read_cards(root: Path, variants: Sequence[str]) -> dict[str, ModelCard]:
    """model.json of each variant, in the order given.

    Raises:
        IntegrityError: one is missing, damaged or of a net that was trained on other data.
    """
    cards = {name: ModelCard.read(root / MODELS / name / "model.json") for name in variants}
    digest = ShardManifest.read(root / SHARD_MANIFEST).digest
    for name, card in cards.items():
        if card.data_digest != digest:
            raise IntegrityError(
                f"models/{name} was made from data {card.data_digest[:12]}, data/shards holds "
                f"{digest[:12]}; `dvc repro` brings them together"
            )
    return cards


def open_shipped(root: Path, cards: Cards, *, threads: int) -> dict[str, Predictor]:
    """Each variant in the runtime it ships in.

    Raises:
        IntegrityError: a file is missing or not the one on record.
    """
    return {name: open_variant(root / MODELS / name, threads=threads) for name in cards}


def time_all(
    root: Path,
    cards: Cards,
    shipped: Mapping[str, Predictor],
    images: SplitImages,
    params: EvaluateParams,
) -> dict[str, Cost]:
    """Time each variant in its own runtime, and the base in each of theirs.

    Args:
        root: The project's root.
        cards: Variant -> model.json.
        shipped: Variant -> predictor, from `open_shipped`.
        images: Real images to time with.
        params: Views, rounds, threads.

    Returns:
        Costs by variant, and by `base_in(runtime)`.
    """
    contestants = {**shipped, **_base_elsewhere(root, cards, threads=params.threads)}
    shown = {name: with_views(predict, params.views) for name, predict in contestants.items()}
    some = np.arange(min(len(images), params.throughput_batch))
    stopwatch = Stopwatch(time.perf_counter_ns, EnergyMeter(POWERCAP))
    return measure_cost(shown, to_input(images.take(some)), params, stopwatch)


def measure_footprints(root: Path, cards: Cards, params: EvaluateParams) -> dict[str, Footprint]:
    """Memory and loading of each variant in its own runtime, one process after the other."""
    return {
        name: measure_footprint(
            root / MODELS / name,
            card.runtime,
            threads=params.threads,
            batch=params.throughput_batch,
        )
        for name, card in cards.items()
    }


def base_in(runtime: str, cards: Cards) -> str:
    """Name under which the base is timed in a runtime; no variant has an @ in its name."""
    return BASE if runtime == cards[BASE].runtime else f"{BASE}@{runtime}"


def _base_elsewhere(root: Path, cards: Cards, *, threads: int) -> dict[str, Predictor]:
    wanted = {card.runtime for card in cards.values()} - {cards[BASE].runtime}
    return {
        base_in(runtime, cards): open_variant(
            root / MODELS / BASE, threads=threads, runtime=runtime
        )
        for runtime in sorted(wanted.intersection(runtimes_of(cards[BASE])))
    }
