"""Which images of a batch are learned from: those the net found hardest when it last saw them.

Source: Jiang et al. 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers"; ours
spends no forward pass on choosing, since it goes by the loss each image had when it was last
learned from, and ends with all images, as Qin et al. 2024, "InfoBatch", do.

Shapes: N samples, G samples of a step over all ranks, K of them (here: of this rank's, or of all)
that are learned from.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagemill.loading.order import rank_range
from imagemill.loading.plan import Positions, Step
from imagemill.params import SelectionParams
from imagemill.train.ranks import Ranks


class Chosen(NamedTuple):
    """What of a step is learned from.

    num_own: How many of this rank's samples; 0 on a rank with none, whose row counts for nothing.
    num_all: How many over all ranks.
    fewest: How many on the rank with fewest.
    rows_K: This rank's rows, rising, never empty, as all ranks must step; None: all.
    places_G: Whether each sample of the global batch is; None: all are.
    """

    num_own: int
    num_all: int
    fewest: int
    rows_K: NDArray[np.intp] | None = None
    places_G: NDArray[np.bool_] | None = None

    def among(self, own_B: Positions) -> Positions:
        """Those of this rank's samples that are."""
        return own_B if self.rows_K is None else own_B[self.rows_K[: self.num_own]]


def all_of(step: Step, world: int) -> Chosen:
    """Everything is learned from.

    Args:
        step: Of the plan.
        world: How many ranks there are.
    """
    return Chosen(step.num_own, len(step.positions_G), len(step.positions_G) // world)


class Selection:
    """The last loss of every sample, the same on all ranks, and what follows from it.

    Args:
        params: How many of how many, and when.
        num_samples: N.
        total_steps: Of the run.
        ranks: This process among those that train together.
    """

    def __init__(
        self, params: SelectionParams, num_samples: int, total_steps: int, ranks: Ranks
    ) -> None:
        self._params, self._total, self._ranks = params, total_steps, ranks
        # Of those never learned from nobody knows whether they are hard.
        self.losses_N = np.full(num_samples, np.inf, dtype=np.float32)

    def chosen(self, step: Step) -> Chosen:
        """What of a step is learned from: a function of the losses, not of the ranks."""
        batch_G, world = step.positions_G, self._ranks.world
        if not self._params.start <= step.number / self._total < self._params.end:
            return all_of(step, world)
        keep, of = self._params.keep, self._params.of
        places_G = hardest(self.losses_N[batch_G], keep=keep, of=of)
        parts = [places_G[rank_range(len(batch_G), rank=r, world=world)] for r in range(world)]
        (rows_K,) = parts[self._ranks.rank].nonzero()
        return Chosen(
            num_own=len(rows_K),
            num_all=int(places_G.sum()),
            fewest=min(int(part.sum()) for part in parts),
            rows_K=rows_K if len(rows_K) else np.zeros(1, dtype=np.intp),
            places_G=places_G,
        )

    def learned(self, batch_G: Positions, chosen: Chosen, losses_K: Tensor) -> None:
        """Remember the losses of a step, on all ranks.

        Args:
            batch_G: The global batch.
            chosen: What was learned from.
            losses_K: Of this rank's rows, float32.
        """
        places_G = chosen.places_G
        if places_G is None:
            places_G = np.ones(len(batch_G), dtype=np.bool_)
        own = rank_range(len(batch_G), rank=self._ranks.rank, world=self._ranks.world)
        before = int(places_G[: own.start].sum())
        exchanged_K = torch.zeros(chosen.num_all, device=losses_K.device)
        exchanged_K[before : before + chosen.num_own] = losses_K[: chosen.num_own]
        self.losses_N[batch_G[places_G]] = self._ranks.summed(exchanged_K).cpu().numpy()


def hardest(losses_G: NDArray[np.float32], *, keep: int, of: int) -> NDArray[np.bool_]:
    """Whether each of some neighbours is among the hardest of its group.

    Small groups, not the whole batch: an easy image still comes in where its neighbours are easy
    too, and each process has nearly as much to do as the others.

    Args:
        losses_G: By which they are compared; of equal ones the first is the harder. Infinite is
            what is not known, and taken even where it makes more than `keep`.
        keep: Taken from each group.
        of: Size of a group; the last may be smaller, and its share is rounded up.
    """
    place_G = np.arange(len(losses_G))
    group_G = place_G // of
    size_G = np.minimum(len(losses_G) - group_G * of, of)
    hardest_first_G = np.lexsort((-losses_G, group_G))
    taken_G = np.empty(len(losses_G), dtype=np.bool_)
    taken_G[hardest_first_G] = place_G % of < -(-keep * size_G // of)
    return taken_G | np.isinf(losses_G)
