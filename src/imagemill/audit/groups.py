"""Near duplicates of a whole data set: which images nearly equal which."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imagemill.audit.gather import Gathered
from imagemill.audit.near import Components, connect_near
from imagemill.audit.relations import NO_TWIN, Relations, keys_of
from imagemill.audit.spool import Spool
from imagemill.audit.verdicts import Actions
from imagemill.params import NearDuplicateParams

I64 = NDArray[np.int64]
_COLOURS = 48  # the first numbers of a descriptor


class Groups(NamedTuple):
    """Rows of the manifest that belong together, G of them in groups of two or more."""

    rows_G: I64  # ascending
    heads_G: pa.Array  # key of the first image of each one's group: what the group is called
    sizes: I64  # of the groups

    def names(self, start: int, stop: int) -> pa.Array:
        """What to write as `near_group` of the rows from `start` up to `stop`."""
        first, last = np.searchsorted(self.rows_G, [start, stop])
        places = np.full(stop - start, -1)
        places[self.rows_G[first:last] - start] = np.arange(first, last)
        return self.heads_G.take(pa.array(places, mask=places < 0))


class Alike:
    """Rows that may have near duplicates, and what connects them."""

    def __init__(self, gathered: Gathered, spool: Spool, limits: NearDuplicateParams) -> None:
        self._rows_M = np.frombuffer(gathered.rows, np.int64)
        self._components = Components(len(self._rows_M))
        self._spool = spool
        self._most = limits.max_colour * 255
        connect_near(
            np.frombuffer(gathered.hashes, np.uint64),
            self._components,
            max_distance=limits.max_distance,
            confirm=self._same_colours,
        )

    def _same_colours(self, one_P: I64, other_P: I64) -> NDArray[np.bool_]:
        """A hash knows brightness only; what it confuses differs in colour."""
        colours = (
            self._spool.at(self._rows_M[places])["descriptor"][:, :_COLOURS].astype(np.float32)
            for places in (one_P, other_P)
        )
        difference = np.abs(next(colours) - next(colours)).mean(axis=1)
        alike: NDArray[np.bool_] = difference <= self._most
        return alike

    def groups(self) -> Iterator[I64]:
        """Rows of the manifest of each group of near duplicates, ascending."""
        for members in self._components.groups():
            yield self._rows_M[members]


def grouped(manifest: Path, near: list[I64], exact: Relations, actions: Actions) -> Groups:
    """Near duplicates, and copies that stay, under one name each.

    Args:
        manifest: data/ingest/manifest.parquet.
        near: Rows of each group of near duplicates.
        exact: Copies; those that stay have to be on one side of a split as well.
        actions: Say which stay.
    """
    edges = [np.stack([np.full(len(rows) - 1, rows[0]), rows[1:]]) for rows in near]
    edges += [
        np.array([[related.twin], [related.row]])
        for related in exact.within(0, np.iinfo(np.int64).max)
        if not actions.leaves(related.check) and related.twin != NO_TWIN
    ]
    if not edges:
        return Groups(np.zeros(0, np.int64), pa.array([], pa.string()), np.zeros(0, np.int64))
    pairs = np.concatenate(edges, axis=1)
    rows_G, places = np.unique(pairs, return_inverse=True)
    components = Components(len(rows_G))
    components.connect(*places.reshape(pairs.shape))
    roots = components.of(np.arange(len(rows_G)))
    return Groups(rows_G, keys_of(manifest, rows_G[roots]), np.unique(roots, return_counts=True)[1])
