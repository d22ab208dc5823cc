"""The flow `augment`: augmented copies of train's images, merged with the originals."""

from pathlib import Path

from imagemill.augment.offline import workplace, write_copies, write_index
from imagemill.augment.policy import compile_policy
from imagemill.params import Params
from pipelines.tracker import Tracker


def augment(root: Path, params: Params, tracker: Tracker) -> None:
    """Define the operations, write the augmented copies, merge them with the originals."""
    settings = params.augment
    policy = tracker.step(compile_policy, settings.offline, seed=settings.seed, online=False)
    with workplace(root) as place:
        num_copies = tracker.step(
            write_copies,
            place,
            settings.copies,
            policy,
            params.shard,
            seed=settings.seed,
            progress=lambda share: tracker.progress(share, "copies"),
        )
        num_originals = tracker.step(write_index, place)
    tracker.log(f"{num_originals:,} originals and {num_copies:,} copies of train's images")
    tracker.table("augmentation", [{"originals": num_originals, "copies": num_copies}])
