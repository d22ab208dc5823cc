"""Facts about decoding on a device; without CUDA torchvision does the same on the CPU."""

import numpy as np
import pytest
import torch
from encoded_images import jpeg, oriented, photograph

from imagemill.decoding import Decoder, encode_png
from imagemill.errors import IntegrityError
from imagemill.frames import Pieces
from imagemill.loading.nvjpeg import DeviceDecoder

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=CUDA)])


@DEVICES
@pytest.mark.parametrize("resize", ["antialias", "linear"])
@pytest.mark.parametrize("boxed", [False, True], ids=["centre", "boxes"])
def test_the_device_sees_what_the_cpu_sees(device: str, resize: str, boxed: bool) -> None:
    """JPEGs, PNGs and turned images: within 3 levels of the CPU path on average."""
    pictures = [photograph(90, 120, seed=seed) for seed in range(6)]
    datas = Pieces.of([jpeg(pictures[0]), encode_png(pictures[1]), oriented(pictures[2], 6)])
    boxes = np.array([[5, 7, 60, 50]] * 3) if boxed else None
    expected, found = np.empty((2, 3, 64, 64, 3), np.uint8)
    Decoder((3, 64, 64), resize).batch(datas, expected, name=str, boxes_B4=boxes)
    decoder = DeviceDecoder((3, 64, 64), resize, torch.device(device))
    decoder.batch(datas, found, name=str, boxes_B4=boxes)
    off = np.abs(found.astype(int) - expected)
    assert off.mean(axis=(1, 2, 3)).max() <= 3


@DEVICES
def test_a_damaged_image_among_sound_ones_is_named(device: str) -> None:
    """Decoding on a device refuses what the CPU path refuses, with its words."""
    datas = Pieces.of([jpeg(photograph(90, 120, seed=0)), b"\xff\xd8\xff nothing"])
    decoder = DeviceDecoder((3, 64, 64), "antialias", torch.device(device))
    with pytest.raises(IntegrityError, match="image '1' cannot be decoded"):
        decoder.batch(datas, np.empty((2, 64, 64, 3), np.uint8), name=str)
