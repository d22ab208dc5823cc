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

from imagemill.decoding import Box, Decoder, Header, Pixels, centre_box, read_headers
from imagemill.frames import Pieces

_MODES = {1: ImageReadMode.GRAY, 3: ImageReadMode.RGB}


class DeviceDecoder:
    """Decodes batches on a device.

    Args:
        input_shape: Channels, height, width.
        resize: A name in decoding.RESIZES.
        device: A CUDA device; on the CPU torchvision decodes in the same calls, for tests.
    """

    def __init__(self, input_shape: Sequence[int], resize: str, device: torch.device) -> None:
        self._channels, self._height, self._width = input_shape
        self._antialias = resize == "antialias"
        self._device = device
        self._reference = Decoder(input_shape, resize)

    def batch(
        self,
        datas: Pieces,
        out_BHWC: Pixels,
        *,
        name: Callable[[int], str],
        boxes_B4: NDArray[np.integer] | None = None,
        headers: Sequence[Header] | None = None,
    ) -> None:
        """`decoding.Decoder.batch` with the same arguments and errors.

        Pixels come back from the device, since online augmentation works on the CPU.
        """
        headers = headers or read_headers(datas, name=name)
        here = [
            number
            for number, header in enumerate(headers)
            if header.kind == "jpeg" and header.orientation == 1
        ]
        # Copied, because torch wants memory it may write to.
        encoded = [torch.frombuffer(bytearray(datas[number]), dtype=torch.uint8) for number in here]
        try:
            decoded = self._decoded(encoded)
        except RuntimeError:  # one damaged file spoils the whole call
            here, decoded = [], []
        boxes = [
            centre_box(headers[number].upright, (self._height, self._width))
            if boxes_B4 is None
            else Box(*boxes_B4[number].tolist())
            for number in here
        ]
        if here:
            out_BHWC[here] = self._resized(decoded, boxes)
        self._rest(datas, out_BHWC, sorted(set(range(len(datas))) - set(here)), name, boxes_B4)

    def _decoded(self, encoded: list[Tensor]) -> list[Tensor]:
        if not encoded:  # which torchvision refuses
            return []
        decoded: list[Tensor] = decode_jpeg(
            encoded, mode=_MODES[self._channels], device=self._device
        )
        return decoded

    def _resized(self, decoded: Sequence[Tensor], boxes: Sequence[Box]) -> Pixels:
        """Boxes of pictures at the output's size, uint8 [B, H, W, C] on the CPU."""
        size = [self._height, self._width]
        images_BCHW = torch.stack(
            [
                functional.resized_crop(pixels_CHW, *box, size, antialias=self._antialias)
                for pixels_CHW, box in zip(decoded, boxes, strict=True)
            ]
        )
        images_BHWC: Pixels = images_BCHW.permute(0, 2, 3, 1).cpu().numpy()
        return images_BHWC

    def _rest(
        self,
        datas: Pieces,
        out_BHWC: Pixels,
        rest: list[int],
        name: Callable[[int], str],
        boxes_B4: NDArray[np.integer] | None,
    ) -> None:
        """What the device did not decode, from the CPU."""
        if not rest:
            return
        out_RHWC = np.empty((len(rest), *out_BHWC.shape[1:]), np.uint8)
        self._reference.batch(
            Pieces.of([datas[number] for number in rest]),
            out_RHWC,
            name=lambda position: name(rest[position]),
            boxes_B4=None if boxes_B4 is None else boxes_B4[rest],
        )
        out_BHWC[rest] = out_RHWC
