"""One split as arrays: from the decoded cache where it fits, else decoded on demand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from imagemill.decoding import Decoder, Header, Resize, has_compiled_part, read_headers
from imagemill.errors import IntegrityError
from imagemill.frames import FrameReader, Frames, Pieces, read_frames
from imagemill.loading.decoded_cache import DecodedCache
from imagemill.loading.digests import Beat
from imagemill.loading.open_shards import open_shards
from imagemill.loading.shards import Shards
from imagemill.params import LoadingParams
from imagemill.records import AUGMENTED_INDEX, DATA, SHARD_INDEX

if TYPE_CHECKING:
    from imagemill.augment import RandomResizedCrop

Images = NDArray[np.uint8]
Positions = NDArray[np.integer]


class _Decoder(Protocol):
    def batch(
        self,
        datas: Pieces,
        out_BHWC: Images,
        *,
        name: Callable[[int], str],
        boxes_B4: NDArray[np.integer] | None,
        headers: Sequence[Header] | None,
    ) -> None: ...


class _Pixels(Protocol):
    def take(self, positions_B: Positions, *, epoch: int | None, out_BHWC: Images) -> None: ...


class SplitImages:
    """The images of a split, sorted by key. `open_split` makes one.

    root, split, loading, crop, device: Where it was opened, and how.
    frames: Where the encoded images are.
    shards: What they are read from.
    keys: N keys, made into strings when asked for.
    targets_N: Class ids, int64; -1 where there is none.
    hashes_N: `randomness.key_hashes` of the keys.
    input_shape: Channels, height, width.
    is_cached: Whether pixels come from the decoded cache.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        frames: Frames,
        shards: Shards,
        *,
        input_shape: Sequence[int],
        loading: LoadingParams,
        crop: "RandomResizedCrop | None",
        device: str | None,
    ) -> None:
        self.root, self.split, self.loading = root, split, loading
        self.crop = crop
        self.frames, self.shards = frames, shards
        self.keys, self.targets_N, self.hashes_N = frames.keys, frames.targets_N, frames.hashes_N
        channels, height, width = input_shape
        self.input_shape = (channels, height, width)
        size_bytes = len(frames) * channels * height * width
        # A random box is another one in each epoch: there is nothing to keep.
        self.is_cached = crop is None and size_bytes <= loading.cache_bytes
        # What is kept holds the same pixels on any machine.
        self.device = None if self.is_cached else device
        decoded = _OnDemand(self)
        self._pixels: _Pixels = decoded
        if self.is_cached:
            self._pixels = DecodedCache.opened(
                root,
                split,
                frames,
                input_shape=self.input_shape,
                resize=loading.resize,
                source=decoded,
                beat=shards.beat,
            )

    def __len__(self) -> int:
        return len(self.keys)

    def take(
        self, positions_B: Positions, *, epoch: int | None = None, out: Images | None = None
    ) -> Images:
        """Images at these positions.

        Args:
            positions_B: B positions, in any order.
            epoch: Whose random boxes to take, if the split was opened with a `crop`; None: the
                largest centred box.
            out: Where to put them, uint8 [B, H, W, C], contiguous.

        Returns:
            `out` or a new array, safe to change.

        Raises:
            IntegrityError: a shard is missing or damaged, or an image cannot be decoded.
        """
        channels, height, width = self.input_shape
        if out is None:
            out = np.empty((len(positions_B), height, width, channels), np.uint8)
        self._pixels.take(positions_B, epoch=epoch, out_BHWC=out)
        return out

    def describe(self, position: int) -> str:
        """An image's key and shard, for messages."""
        shard = self.frames.shards[int(self.frames.shard_N[position])]
        return f"{self.keys[position]!r} in {DATA / shard}"


def open_split(
    root: Path,
    split: str,
    *,
    input_shape: Sequence[int],
    loading: LoadingParams,
    crop: "RandomResizedCrop | None" = None,
    device: str | None = None,
    beat: Beat = lambda: None,
) -> SplitImages:
    """Open a split of data/augmented (train: originals and copies) or data/shards (the others).

    Args:
        root: The project's root.
        split: "train", "val", "test" or "unlabelled".
        input_shape: Channels, height, width every image is brought to.
        loading: Kernel, size of the cache, and where shards come from.
        crop: Draws the box of each image that is decoded in an epoch.
        device: Where torchvision decodes JPEGs, such as "cuda:0"; None: on the CPU, as all else.
        beat: Called while work goes on, so that nobody takes it for a hang.

    Raises:
        IntegrityError: index or shards are missing or damaged, an image cannot be decoded, or
            the split is empty.
    """
    index = root / (AUGMENTED_INDEX if split == "train" else SHARD_INDEX)
    frames = read_frames(index, split)
    if not len(frames):
        raise IntegrityError(f"the {split} split in {index} is empty")
    shards = open_shards(root, loading, beat=beat)
    return SplitImages(
        root,
        split,
        frames,
        shards,
        input_shape=input_shape,
        loading=loading,
        crop=crop,
        device=device,
    )


class _OnDemand:
    """Decodes what is asked for; nothing is kept."""

    def __init__(self, images: SplitImages) -> None:
        self._frames, self._crop = images.frames, images.crop
        self._reader = FrameReader(images.frames, images.shards.mapped)
        self._decoder = _decoder(images)

    def take(self, positions_B: Positions, *, epoch: int | None, out_BHWC: Images) -> None:
        def name(number: int) -> str:
            return self._frames.keys[int(positions_B[number])]

        datas = self._reader.pieces(positions_B)
        headers = boxes_B4 = None
        if self._crop is not None and epoch is not None:
            headers = read_headers(datas, name=name)
            sizes_B2 = np.array([header.upright for header in headers])
            hashes_B = self._frames.hashes_N[positions_B]
            boxes_B4 = self._crop.boxes(sizes_B2[:, 0], sizes_B2[:, 1], hashes_B, epoch=epoch)
        self._decoder.batch(datas, out_BHWC, name=name, boxes_B4=boxes_B4, headers=headers)


def _decoder(images: SplitImages) -> _Decoder:
    resize = images.loading.resize
    if images.device is None:
        return Decoder(images.input_shape, resize, kernel=_kernel(resize))
    import torch

    from imagemill.loading.nvjpeg import DeviceDecoder

    return DeviceDecoder(images.input_shape, resize, torch.device(images.device))


def _kernel(resize: str) -> Resize | None:
    """Without the compiled part torch is the fastest to antialias; stages that load have it."""
    if resize != "antialias" or has_compiled_part():
        return None
    from imagemill.loading.torch_kernel import antialias_by_torch

    return antialias_by_torch
