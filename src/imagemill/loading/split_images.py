"""One split as arrays: from the decoded cache where it fits, else decoded on demand."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imagemill.decoding import decode_image
from imagemill.errors import IntegrityError
from imagemill.frames import Frames, MappedShards, read_frames
from imagemill.params import LoadingParams
from imagemill.randomness import U64, key_hashes
from imagemill.records import (
    AUGMENTED_INDEX,
    SHARD_INDEX,
    STATE,
    publishing,
    sha256_of_file,
)

Images = NDArray[np.uint8]


class _Pixels(Protocol):
    def take(self, positions_B: NDArray[np.intp]) -> Images: ...


class SplitImages:
    """The images of a split, sorted by key.

    keys: N keys.
    targets_N: Class ids, int64; -1 where there is none.
    hashes_N: `randomness.key_hashes` of the keys.
    input_shape: Channels, height, width.
    """

    def __init__(self, frames: Frames, pixels: _Pixels, input_shape: Sequence[int]) -> None:
        self.keys = frames.keys
        self.targets_N = frames.targets_N
        self.hashes_N: U64 = key_hashes(frames.keys)
        channels, height, width = input_shape
        self.input_shape = (channels, height, width)
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, positions_B: NDArray[np.intp]) -> Images:
        """Images at these positions, uint8 [B, H, W, C], safe to change."""
        return self._pixels.take(positions_B)


def open_split(
    root: Path, split: str, *, input_shape: Sequence[int], loading: LoadingParams
) -> SplitImages:
    """Open a split of data/augmented (train: originals and copies) or data/shards (the others).

    Args:
        root: The project's root.
        split: "train", "val", "test" or "unlabelled".
        input_shape: Channels, height, width every image is brought to.
        loading: Kernel and size of the cache.

    Raises:
        IntegrityError: index or shards are missing or damaged, an image cannot be decoded, or
            the split is empty.
    """
    index = root / (AUGMENTED_INDEX if split == "train" else SHARD_INDEX)
    frames = read_frames(index, split)
    if not frames.keys:
        raise IntegrityError(f"the {split} split in {index} is empty")
    size_bytes = len(frames) * int(np.prod(input_shape))
    if size_bytes > loading.cache_bytes:
        return SplitImages(frames, _OnDemand(root, frames, input_shape, loading), input_shape)
    cache = _cache_path(root, index, split, input_shape, loading)
    if not cache.is_file():
        _fill_cache(cache, root, frames, input_shape, loading)
    return SplitImages(frames, _Cached(cache), input_shape)


class _Cached:
    """Decoded pixels of the whole split, mapped into memory and shared by all processes."""

    def __init__(self, path: Path) -> None:
        self._pixels_NHWC: Images = np.load(path, mmap_mode="r", allow_pickle=False)

    def take(self, positions_B: NDArray[np.intp]) -> Images:
        # np.take on the plain array is several times faster than indexing the memmap subclass.
        return np.take(self._pixels_NHWC.view(np.ndarray), positions_B, axis=0)


class _OnDemand:
    """Decodes what is asked for; nothing is kept."""

    def __init__(
        self, root: Path, frames: Frames, input_shape: Sequence[int], loading: LoadingParams
    ) -> None:
        self._shards = MappedShards(root, frames)
        self._keys = frames.keys
        self._input_shape = input_shape
        self._resize = loading.resize

    def take(self, positions_B: NDArray[np.intp]) -> Images:
        return np.stack([self._decoded(int(position)) for position in positions_B])

    def _decoded(self, position: int) -> Images:
        data = self._shards.read(position)
        return _decoded(data, self._keys[position], self._input_shape, self._resize)


def _decoded(data: bytes, key: str, input_shape: Sequence[int], resize: str) -> Images:
    try:
        return decode_image(data, input_shape=input_shape, resize=resize)
    except IntegrityError as error:
        raise IntegrityError(f"image {key!r} {error}") from None


def _cache_path(
    root: Path, index: Path, split: str, input_shape: Sequence[int], loading: LoadingParams
) -> Path:
    """A name that changes whenever the pixels would: the index holds every image's sha256."""
    said = f"{sha256_of_file(index)} {split} {list(input_shape)} {loading.resize}"
    name = hashlib.sha256(said.encode()).hexdigest()[:24]
    return root / STATE / "decoded" / f"{split}-{name}.npy"


def _fill_cache(
    path: Path, root: Path, frames: Frames, input_shape: Sequence[int], loading: LoadingParams
) -> None:
    channels, height, width = input_shape
    with publishing(path) as temporary, MappedShards(root, frames) as shards:
        pixels = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.uint8, shape=(len(frames), height, width, channels)
        )
        for position, data in shards.read_all():
            key = frames.keys[position]
            pixels[position] = _decoded(data, key, input_shape, loading.resize)
        pixels.flush()
