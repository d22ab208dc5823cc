"""Facts about decoding on a CUDA device; nothing here runs without one."""

import numpy as np
import pytest
import torch
from encoded_images import jpeg, oriented, photograph

from imagemill.decoding import Decoder, encode_png
from imagemill.frames import Pieces
from imagemill.loading.nvjpeg import DeviceDecoder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("resize", ["antialias", "linear"])
@pytest.mark.parametrize("boxed", [False, True], ids=["centre", "boxes"])
def test_the_device_sees_what_the_cpu_sees(resize: str, boxed: bool) -> None:
    """JPEGs, PNGs and turned images: within 3 levels of the CPU path on average."""
    pictures = [photograph(90, 120, seed=seed) for seed in range(6)]
    datas = Pieces.of([jpeg(pictures[0]), encode_png(pictures[1]), oriented(pictures[2], 6)])
    boxes = np.array([[5, 7, 60, 50]] * 3) if boxed else None
    expected = np.empty((3, 64, 64, 3), np.uint8)
    Decoder((3, 64, 64), resize).batch(datas, expected, name=str, boxes_B4=boxes)
    found = DeviceDecoder((3, 64, 64), resize, torch.device("cuda")).batch(
        datas, name=str, boxes_B4=boxes
    )
    off = np.abs(found.cpu().permute(0, 2, 3, 1).numpy().astype(int) - expected)
    assert off.mean(axis=(1, 2, 3)).max() <= 3
