"""The flow `augment`: augmented copies of train's images, merged with the originals."""

from pathlib import Path

from imagemill.augment.offline import write_copies, write_index
from imagemill.augment.policy import compile_policy
from imagemill.params import Params
from pipelines.tracker import Tracker


def augment(root: Path, params: Params, tracker: Tracker) -> None:
    """Define the operations, write the augmented copies, merge them with the originals."""
    seed = params.augment.seed
    policy = tracker.step(compile_policy, params.augment.offline, seed=seed)
    copies = tracker.step(
        write_copies, root, params.augment.copies, policy, params.shard, seed=seed
    )
    num_originals = tracker.step(write_index, root, copies)
    tracker.log(f"{num_originals:,} originals and {copies.num_rows:,} copies of train's images")
    tracker.table(
        "augmentation",
        [
            {
                "originals": num_originals,
                "copies": copies.num_rows,
                "copies each": params.augment.copies,
            }
        ],
    )
