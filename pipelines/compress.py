"""The flow `compress`: one child of the base, each step of its chain a task."""

from pathlib import Path

from imagemill.compress import compress as make_variant
from imagemill.params import BASE, Params
from imagemill.records import MODELS, ModelCard
from imagemill.tracking.members import find_members
from pipelines.tracker import Tracker


def compress(root: Path, params: Params, tracker: Tracker, variant: str) -> None:
    """Make models/<variant>/ and show what became smaller."""
    members = find_members(root, params.register_, params.compress.variants.get(variant, ()))
    made = make_variant(
        root,
        params,
        variant,
        log=tracker.log,
        progress=tracker.progress,
        step=tracker.step,
        members=members,
    )
    cards = [ModelCard.read(root / MODELS / BASE / "model.json"), made]
    tracker.table(
        f"compressed-{variant.replace('_', '-')}",
        [
            {
                "variant": card.variant,
                "runtime": card.runtime,
                "size, bytes": (root / MODELS / card.variant / card.file).stat().st_size,
                "sha256": card.sha256[:12],
            }
            for card in cards
        ],
    )
