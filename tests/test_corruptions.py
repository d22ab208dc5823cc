"""Facts about the fifteen corruptions."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image

from imagemill.errors import UnknownNameError
from imagemill.evaluate.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from imagemill.evaluate.corruptions.filters import gaussian_blurred, plasma

# Those whose next severity turns or shears less, in the source as here.
_UNEVEN = {"elastic_transform", "glass_blur", "frost", "pixelate"}


@pytest.fixture(scope="module")
def photographs() -> NDArray[np.float32]:
    """Eight cuts of two photographs, float32 [8, 3, 64, 64]."""
    cuts = [
        load_sample_image(name)[row : row + 256 : 4, 100:356:4]
        for name in ("china.jpg", "flower.jpg")
        for row in (0, 50, 100, 150)
    ]
    return (np.stack(cuts).transpose(0, 3, 1, 2) / 255).astype(np.float32).copy()


def test_there_are_fifteen_in_five_severities() -> None:
    """As many as the source has, each with a strength for small and for large images."""
    assert len(CORRUPTIONS) == 15
    for corruption in CORRUPTIONS.values():
        assert len(corruption.small) == len(corruption.large) == len(SEVERITIES)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(
    ("channels", "size"), [(1, (28, 28)), (3, (32, 32)), (3, (96, 120)), (1, (8, 8))]
)
def test_any_image_comes_back_as_eight_bits(
    name: str, channels: int, size: tuple[int, int]
) -> None:
    """Shape and type stay, values are multiples of 1/255 in 0..1, at every severity."""
    images = np.random.default_rng(0).random((2, channels, *size), dtype=np.float32)
    for severity in SEVERITIES:
        worse = corrupt(images, name, severity, seed=1)
        assert (worse.shape, worse.dtype) == (images.shape, np.float32)
        assert worse.min() >= 0 and worse.max() <= 1
        np.testing.assert_allclose(worse * 255, np.round(worse * 255), atol=1e-4)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_gives_the_same_pixels(name: str, photographs: NDArray[np.float32]) -> None:
    """And what is given is not changed."""
    before = photographs.copy()
    once, again = (corrupt(photographs, name, 3, seed=7) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(photographs, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_severity_changes_images_and_the_last_more_than_the_first(
    name: str, photographs: NDArray[np.float32]
) -> None:
    """By the mean distance; where the source's own strengths are uneven, only the change counts."""
    distances = [
        float(np.abs(corrupt(photographs, name, severity, seed=1) - photographs).mean())
        for severity in SEVERITIES
    ]
    assert min(distances) > 0.002
    if name not in _UNEVEN:
        assert distances[-1] > 1.1 * distances[0]


def test_gaussian_noise_has_the_published_deviation() -> None:
    """0.08 at severity 3 of small images, on grey that no end of the range cuts off."""
    grey = np.full((16, 3, 32, 32), 0.5, np.float32)
    noise = corrupt(grey, "gaussian_noise", 3, seed=0) - grey
    assert noise.std() == pytest.approx(0.08, rel=0.02)


def test_impulse_noise_sets_the_published_share_to_black_or_white() -> None:
    """5 % at severity 4, half of them each."""
    grey = np.full((16, 3, 32, 32), 0.5, np.float32)
    worse = corrupt(grey, "impulse_noise", 4, seed=0)
    assert (worse == 0).mean() == pytest.approx(0.025, abs=0.003)
    assert (worse == 1).mean() == pytest.approx(0.025, abs=0.003)


def test_contrast_keeps_the_mean_and_the_published_share_of_the_spread(
    photographs: NDArray[np.float32],
) -> None:
    """0.4 of it at severity 3 of images below 85 pixels."""
    worse = corrupt(photographs, "contrast", 3, seed=0)
    np.testing.assert_allclose(worse.mean((2, 3)), photographs.mean((2, 3)), atol=0.003)
    np.testing.assert_allclose(worse.std((2, 3)), 0.4 * photographs.std((2, 3)), atol=0.005)


def test_brightness_adds_to_the_largest_channel_and_keeps_the_hue() -> None:
    """A pixel (0.2, 0.4, 0.1) with 0.15 more value is 1.375 times itself; black gets grey."""
    pixel = np.array([0.2, 0.4, 0.1], np.float32).reshape(1, 3, 1, 1).repeat(32, 2).repeat(32, 3)
    pixel[..., 0] = 0
    worse = corrupt(pixel, "brightness", 3, seed=0)
    np.testing.assert_allclose(worse[0, :, 5, 5], 1.375 * pixel[0, :, 5, 5], atol=0.004)
    np.testing.assert_allclose(worse[0, :, 5, 0], 0.15, atol=0.004)


def test_blur_of_a_constant_is_the_constant() -> None:
    """Weights sum to one at the edges, too, however wide the window."""
    import torch

    flat = torch.full((1, 1, 9, 7), 0.3)
    for sigma in (0.0, 0.4, 2.0, 30.0):
        torch.testing.assert_close(gaussian_blurred(flat, sigma), flat)


def test_blur_is_that_of_scipy() -> None:
    """The same Gaussian with mirrored edges, to the rounding of float32."""
    import torch
    from scipy.ndimage import gaussian_filter

    image = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    ours = gaussian_blurred(torch.from_numpy(image)[None, None], 2.0)[0, 0].numpy()
    np.testing.assert_allclose(ours, gaussian_filter(image, 2.0, truncate=3.0), atol=1e-5)


def test_clouds_fill_the_range() -> None:
    """Every picture from 0 to 1."""
    import torch

    clouds = plasma((3, 20, 24), 2.0, torch.Generator().manual_seed(0))
    assert clouds.shape == (3, 20, 24)
    assert clouds.amin((1, 2)).tolist() == [0.0] * 3
    torch.testing.assert_close(clouds.amax((1, 2)), torch.ones(3))


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    """The table is told."""
    with pytest.raises(UnknownNameError, match="gaussian_noise"):
        corrupt(np.zeros((1, 1, 8, 8), np.float32), "gausian_noise", 1, seed=0)
