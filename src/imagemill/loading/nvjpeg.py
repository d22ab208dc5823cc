"""JPEGs decoded on a CUDA device by nvJPEG, through torchvision; the CPU path is the reference.

nvJPEG has its own inverse transform and chroma upsampling, so pixels differ from libjpeg's by a few
levels. Images it does not take (other formats, turned or damaged ones) are decoded on the CPU.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from imagemill.decoding import Box, Decoder, centre_box, read_header
from imagemill.frames import Pieces

_MODES = {1: ImageReadMode.GRAY, 3: ImageReadMode.RGB}


class DeviceDecoder:
    """Decodes batches to a CUDA device.

    Args:
        input_shape: Channels, height, width.
        resize: A name in decoding.RESIZES.
        device: Of type cuda.
    """

    def __init__(self, input_shape: Sequence[int], resize: str, device: torch.device) -> None:
        self._channels, self._height, self._width = input_shape
        self._antialias = resize == "antialias"
        self._device = device
        self._reference = Decoder(input_shape, resize)

    def batch(
        self,
        datas: Pieces,
        *,
        name: Callable[[int], str],
        boxes_B4: NDArray[np.integer] | None = None,
    ) -> Tensor:
        """Decode a batch; the arguments are those of `decoding.Decoder.batch`.

        Returns:
            uint8 [B, C, H, W] on the device, channels last in memory.

        Raises:
            IntegrityError: an image cannot be decoded.
        """
        shape = (len(datas), self._channels, self._height, self._width)
        out_BCHW = torch.empty(
            shape, dtype=torch.uint8, device=self._device, memory_format=torch.channels_last
        )
        headers = [read_header(data) for data in datas]
        here = [
            number
            for number, header in enumerate(headers)
            if header.kind == "jpeg" and header.orientation == 1
        ]
        # Copied, because torch wants memory it may write to.
        encoded = [torch.frombuffer(bytearray(datas[number]), dtype=torch.uint8) for number in here]
        try:
            decoded = decode_jpeg(encoded, mode=_MODES[self._channels], device=self._device)
        except RuntimeError:  # one damaged file spoils the whole call
            here, decoded = [], []
        for number, pixels_CHW in zip(here, decoded, strict=True):
            header = headers[number]
            box = (
                centre_box(header.upright, (self._height, self._width))
                if boxes_B4 is None
                else Box(*boxes_B4[number].tolist())
            )
            out_BCHW[number] = functional.resized_crop(
                pixels_CHW, *box, [self._height, self._width], antialias=self._antialias
            )
        self._fill_rest(datas, out_BCHW, set(here), name, boxes_B4)
        return out_BCHW

    def _fill_rest(
        self,
        datas: Pieces,
        out_BCHW: Tensor,
        done: set[int],
        name: Callable[[int], str],
        boxes_B4: NDArray[np.integer] | None,
    ) -> None:
        """What the device did not decode, from the CPU."""
        rest = [number for number in range(len(datas)) if number not in done]
        if not rest:
            return
        out_RHWC = np.empty((len(rest), self._height, self._width, self._channels), np.uint8)
        self._reference.batch(
            Pieces.of([datas[number] for number in rest]),
            out_RHWC,
            name=lambda position: name(rest[position]),
            boxes_B4=None if boxes_B4 is None else boxes_B4[rest],
        )
        planes_RCHW = torch.from_numpy(out_RHWC).permute(0, 3, 1, 2)
        out_BCHW[torch.tensor(rest, device=self._device)] = planes_RCHW.to(self._device)
