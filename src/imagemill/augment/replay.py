"""A record of what was drawn, done to an image again."""

from collections.abc import Sequence

import numpy as np

from imagemill.augment.automatic import blended
from imagemill.augment.geometric import Pixels
from imagemill.augment.layers import Drawn
from imagemill.augment.operations import OPERATIONS


def replayed(image_HWC: Pixels, drawn: Sequence[Drawn]) -> Pixels:
    """The image after the operations drawn for it: what `Policy.apply` gave, bit for bit.

    Args:
        image_HWC: uint8.
        drawn: As `Policy.drawn` or the record of a copy tells.
    """
    for one in drawn:
        if one.chains:
            chains = [replayed(image_HWC, chain) for chain in one.chains]
            image_HWC = blended([image_HWC, *chains], one.strengths)
        else:
            operation = OPERATIONS[one.operation]
            changed_HWC = np.empty_like(image_HWC)
            operation.apply(
                [image_HWC], np.array([one.strengths]), np.array([one.positions]), [changed_HWC]
            )
            image_HWC = changed_HWC
    return image_HWC
