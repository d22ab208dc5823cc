"""Operations against torchvision v2's, which are the reference."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from imagemill.augment import OPERATIONS, compile_policy
from imagemill.augment.automatic import AUGMIX, RAND, TRIVIAL_WIDE
from imagemill.params import OperationParams
from imagemill.randomness import key_hashes

BILINEAR = v2.InterpolationMode.BILINEAR
Reference = Callable[[torch.Tensor], torch.Tensor]


def pictures() -> np.ndarray:
    """Noise, and soft shapes of full range, uint8 [6, 40, 50, 3]."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 40, 50, 3), np.uint8)
    for image in noise[3:]:
        soft = cv2.GaussianBlur(image, (0, 0), 4).astype(float)
        image[:] = np.clip((soft - 128) * 6 + 128, 0, 255)
    return noise


def gap(name: str, strengths: list[float], reference: Reference, *, border: int = 0) -> np.ndarray:
    """Absolute differences; `border` pixels are left out, where they fill and we mirror."""
    before, ours = pictures(), np.empty_like(pictures())
    strengths_BS = np.tile(np.array(strengths).reshape(1, -1), (len(before), 1))
    OPERATIONS[name].apply(before, strengths_BS, np.empty((len(before), 0)), ours)
    planes = torch.from_numpy(before).permute(0, 3, 1, 2)
    theirs = torch.stack([reference(image) for image in planes]).permute(0, 2, 3, 1).numpy()
    inside = slice(border, 40 - border), slice(border, 50 - border)
    return np.abs(ours.astype(int) - theirs)[:, *inside]


def affine(**changes: object) -> Reference:
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    return lambda image: F.affine(image, **still | {"interpolation": BILINEAR} | changes)


@pytest.mark.parametrize(
    ("name", "strengths", "reference"),
    [
        ("posterize", [3], lambda image: F.posterize(image, 3)),
        ("solarize", [100], lambda image: F.solarize(image, 100)),
        ("equalize", [], F.equalize),
        ("flip_horizontal", [], F.horizontal_flip),
        ("flip_vertical", [], F.vertical_flip),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whole_numbers_agree_exactly(
    name: str, strengths: list[float], reference: Reference
) -> None:
    """Where nothing is rounded, every pixel is the same."""
    assert gap(name, strengths, reference).max() == 0


@pytest.mark.parametrize("factor", [0.3, 1.6])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness"])
def test_enhancements_agree(name: str, factor: float) -> None:
    """Within 2 levels: torchvision cuts decimals off, once or twice, where we round."""
    adjust = getattr(F, f"adjust_{name}")
    assert gap(name, [factor], lambda image: adjust(image, factor)).max() <= 2


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("autocontrast", F.autocontrast),
        ("grayscale", lambda image: F.rgb_to_grayscale(image, num_output_channels=3)),
    ],
    ids=["autocontrast", "grayscale"],
)
def test_rounding_is_all_that_differs(name: str, reference: Reference) -> None:
    """Within 1 level: torchvision cuts decimals off where we round."""
    assert gap(name, [], reference).max() <= 1


@pytest.mark.parametrize("turn", [-0.4, -0.1, 0.05, 0.3, 0.5])
def test_hue_agrees(turn: float) -> None:
    """Within 12 levels and 1 on average: ours holds hue and saturation in 8 bits."""
    found = gap("hue", [turn], lambda image: F.adjust_hue(image, turn))
    assert found.max() <= 12
    assert found.mean() <= 1


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_blur_agrees(sigma: float) -> None:
    """Within 1 level, with a kernel of the same size."""
    side = 2 * int(np.ceil(3 * sigma)) + 1
    found = gap("blur", [sigma], lambda image: F.gaussian_blur(image, [side] * 2, [sigma] * 2))
    assert found.max() <= 1


@pytest.mark.parametrize(
    ("name", "strengths", "reference", "border"),
    [
        ("rotate", [20], lambda image: F.rotate(image, 20, BILINEAR), 14),
        ("scale", [1.7], affine(scale=1.7), 1),
        ("shear", [15, -10], affine(shear=[15.0, -10.0]), 14),
        ("translate", [0.1, -0.2], affine(translate=[-10, 4]), 10),
    ],
    ids=["rotate", "scale", "shear", "translate"],
)
def test_moves_agree(name: str, strengths: list[float], reference: Reference, border: int) -> None:
    """Within 1 level of bilinear interpolation, noise included."""
    assert gap(name, strengths, reference, border=border).max() <= 1


def test_a_crop_is_a_scale_and_a_shift() -> None:
    """A window of 0.8 of the sides agrees with the same affine map within 1 level."""
    before, ours = pictures(), np.empty_like(pictures())
    OPERATIONS["crop"].apply(before, np.full((6, 1), 0.8), np.tile([0.5, 0.5], (6, 1)), ours)
    theirs = affine(scale=1 / 0.8)(torch.from_numpy(before).permute(0, 3, 1, 2))
    found = np.abs(ours.astype(int) - theirs.permute(0, 2, 3, 1).numpy())[:, 1:-1, 1:-1]
    assert found.max() <= 1


# Spaces of the automatic policies ---------------------------------------------------------------

THEIR_NAMES = {
    "ShearX": "shear across",
    "ShearY": "shear along",
    "TranslateX": "translate right",
    "TranslateY": "translate down",
    "Rotate": "rotate",
    "Brightness": "brightness",
    "Color": "saturation",
    "Contrast": "contrast",
    "Sharpness": "sharpness",
    "Posterize": "posterize",
    "Solarize": "solarize",
    "AutoContrast": "autocontrast",
    "Equalize": "equalize",
}
SPACES = {
    "trivial": (TRIVIAL_WIDE, v2.TrivialAugmentWide(), 31, 1),
    "rand": (RAND, v2.RandAugment(), 31, 1),
    # Their default adds the enhancements the paper leaves out.
    "augmix": (AUGMIX, v2.AugMix(all_ops=False), 10, 0),
}


def their_strength(name: str, magnitude: float, side: int) -> float:
    """What torchvision does at a magnitude, in our units."""
    if name.startswith("Shear"):
        return float(np.degrees(np.arctan(magnitude)))
    if name.startswith("Translate"):
        return magnitude / side
    if name == "Posterize":
        return max(magnitude, 1)  # no bits at all would be a black picture
    if name == "Solarize":
        return magnitude * 255
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return 1 + magnitude
    return magnitude


@pytest.mark.parametrize("which", SPACES)
def test_spaces_hold_what_theirs_hold(which: str) -> None:
    """The same operations with the same strengths at every level, for an image of 48 x 96."""
    ours, reference, bins, identity = SPACES[which]
    theirs = getattr(reference, f"_{'PARTIAL_' * (which == 'augmix')}AUGMENTATION_SPACE")
    assert len(theirs) == len(ours) + identity
    height, width = 48, 96
    for their_name, (magnitudes, _) in theirs.items():
        if their_name == "Identity":
            continue
        name = THEIR_NAMES[their_name]
        found = magnitudes(bins, height, width)
        if found is None:
            continue
        levels = np.arange(bins) / (bins - 1)
        first, second = ours[name][1](levels, np.ones(bins), (height, width))
        mine = second if name in ("shear along", "translate right") else first
        side = width if their_name == "TranslateX" else height
        expected = [their_strength(their_name, float(one), side) for one in found]
        assert np.allclose(mine, expected, atol=1e-4), their_name


# What works on batches and in the loader --------------------------------------------------------


def test_mixup_agrees() -> None:
    """With the same share, pixels are theirs within half a level: ours are rounded to 8 bits."""
    entry = OperationParams(operation="mixup", probability=1, alpha=1)
    mixing = compile_policy([entry], seed=0, online=True).mixing
    own, other = pictures()[:3], pictures()[3:]
    ours, shares = mixing.mix(own, other, key_hashes("abc"), epoch=0)
    for number, share in enumerate(shares):
        pair = torch.from_numpy(np.stack([own[number], other[number]])).float()
        mixed = v2.MixUp(num_classes=2).transform(
            pair, {"labels": None, "batch_size": 2, "lam": float(share)}
        )
        assert np.abs(mixed[0].numpy() - ours[number]).max() <= 0.5 + 1e-3


def test_windows_are_drawn_as_theirs_are() -> None:
    """Mean area and mean log ratio of 3,000 windows agree within 5 standard errors."""
    limits = {"range": (0.2, 1.0), "ratio": (0.75, 1.5)}
    entry = OperationParams(operation="random_resized_crop", probability=1, **limits)
    crop = compile_policy([entry], seed=0, online=True).crop
    hashes = key_hashes(str(number) for number in range(3000))
    size = np.full(3000, 300), np.full(3000, 400)
    ours = crop.boxes(*size, hashes, epoch=0)[:, 2:]
    theirs = v2.RandomResizedCrop(10, limits["range"], limits["ratio"])
    image = torch.empty(3, 300, 400)
    torch.manual_seed(0)
    drawn = [theirs.make_params([image]) for _ in range(3000)]
    reference = np.array([[one["height"], one["width"]] for one in drawn])
    for measure in (lambda hw: hw.prod(1) / 120_000, lambda hw: np.log(hw[:, 1] / hw[:, 0])):
        one, other = measure(ours), measure(reference)
        error = (one.var() / 3000 + other.var() / 3000) ** 0.5
        assert abs(one.mean() - other.mean()) < 5 * error
