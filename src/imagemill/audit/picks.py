"""A few images of each class for the contact sheet: those with the smallest digests."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imagemill.audit.pictures import Place

_NAMES = ("sha256", "uri", "offset", "size_bytes")


class Picks:
    """Remembers only as many images as could be chosen."""

    def __init__(self, num_images: int) -> None:
        self._num_images = num_images
        self._share = num_images  # of one class
        self._found: dict[str, list[tuple[str, Place]]] = {}

    def add(self, rows: pa.Table) -> None:
        """Look at kept rows."""
        digests = rows["sha256"].combine_chunks()
        classes = rows["target"].combine_chunks().dictionary_encode()
        codes = classes.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        for code, name in enumerate(classes.dictionary.to_pylist()):
            if name not in self._found:
                self._make_room_for(name)
            members = np.flatnonzero(codes == code)
            found = self._found[name]
            if len(found) >= self._share:
                smaller = pc.less(digests.take(members), found[-1][0])
                members = members[np.asarray(smaller)]
            if len(members):
                self._take(found, rows.take(members))

    def _take(self, found: list[tuple[str, Place]], rows: pa.Table) -> None:
        best = rows.select(_NAMES).sort_by("sha256").slice(0, self._share)
        columns = (best[name].to_pylist() for name in _NAMES)
        for sha256, uri, offset, size_bytes in zip(*columns, strict=True):
            found.append((sha256, (uri, offset, size_bytes)))
        found.sort()
        del found[self._share :]

    def _make_room_for(self, target: str) -> None:
        self._found[target] = []
        self._share = max(1, self._num_images // len(self._found))
        for found in self._found.values():
            del found[self._share :]

    def chosen(self) -> dict[str, list[Place]]:
        """Class name -> places, as evenly over the classes as the number allows."""
        classes = sorted(self._found)[: self._num_images]
        return {name: [place for _, place in self._found[name]] for name in classes}
