"""From shards to batches: decoded images, the order of training and the ledger that proves it.

`loader` has the batches of training; what only reads a split does without it.
"""

from imagemill.decoding import decode_image
from imagemill.loading.batches import images_at_once, to_input
from imagemill.loading.ledger import Ledger
from imagemill.loading.order import epoch_order, rank_slice
from imagemill.loading.split_images import SplitImages, open_split

__all__ = [
    "Ledger",
    "SplitImages",
    "decode_image",
    "epoch_order",
    "images_at_once",
    "open_split",
    "rank_slice",
    "to_input",
]
