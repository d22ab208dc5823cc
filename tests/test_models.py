"""Facts about the models, over every row of MODELS."""

from pathlib import Path

import pytest
import torch

from imagemill.errors import InputSizeError, IntegrityError, UnknownNameError
from imagemill.models import (
    INITIALISATIONS,
    MODELS,
    build_model,
    count_macs,
    count_parameters,
    fit_to_shapes,
    load_model,
    save_weights,
)
from imagemill.models.fast import FastCifar
from imagemill.records import Architecture, ModelCard, sha256_of_file

# Name -> (input shape, parameters, multiply-accumulates an image), worked out from the layer lists.
COSTS = {
    "seed_minimal": ((1, 28, 28), 11_738, 126_720),
    "seed_mnist": ((1, 28, 28), 93_322, 2_794_240),
    "seed_cifar": ((3, 32, 32), 62_006, 651_720),
    "fast_mnist": ((1, 28, 28), 62_186, 2_872_064),
    "fast_cifar": ((3, 32, 32), 498_080, 33_066_272),
    "resnet20": ((3, 32, 32), 269_722, 40_551_040),
    "efficientnet_lite0": ((3, 224, 224), 3_383_818, 383_920_352),
}


def built(name: str, shape: tuple[int, int, int], width: float = 1.0) -> torch.nn.Sequential:
    architecture = Architecture(name=name, arguments={"width": width})
    channels = shape[0]
    return build_model(
        architecture,
        input_shape=shape,
        num_classes=10,
        mean=[0.5] * channels,
        std=[0.25] * channels,
    )


def saved(folder: Path, model: torch.nn.Module, name: str, shape: tuple[int, int, int]) -> None:
    save_weights(folder / "model.safetensors", model)
    digest = sha256_of_file(folder / "model.safetensors")
    ModelCard(
        variant="base",
        parent=None,
        steps=[],
        architecture=Architecture(name=name, arguments={"width": 1.0}),
        input_shape=shape,
        classes=[str(number) for number in range(10)],
        files={"model.safetensors": digest},
        file="model.safetensors",
        sha256=digest,
        data_digest="",
        index_digest="",
        runtime="eager",
        resize="antialias",
    ).write(folder / "model.json")


def test_costs_cover_every_model() -> None:
    """Each row of MODELS has its cost pinned here."""
    assert set(COSTS) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_costs_are_as_pinned(name: str) -> None:
    """Parameters and multiply-accumulates are those of the layer lists."""
    shape, parameters, macs = COSTS[name]
    model = built(name, shape)
    assert (count_parameters(model), count_macs(model, shape)) == (parameters, macs)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_smallest_input_works(name: str, channels: int) -> None:
    """A model takes images of its minimum size, grey or colour."""
    size = MODELS[name].minimum_size
    assert built(name, (channels, size, size))(torch.rand(2, channels, size, size)).shape == (2, 10)


@pytest.mark.parametrize("name", MODELS)
def test_a_smaller_input_is_refused(name: str) -> None:
    """One pixel less is an InputSizeError that names the model and both sizes."""
    size = MODELS[name].minimum_size
    with pytest.raises(InputSizeError, match=f"{name} needs images of at least {size} px"):
        built(name, (1, size - 1, size - 1))


@pytest.mark.parametrize("name", MODELS)
def test_width_makes_smaller_models(name: str) -> None:
    """Half the width has less than 60 % of the parameters."""
    shape = COSTS[name][0]
    assert count_parameters(built(name, shape, 0.5)) < 0.6 * count_parameters(built(name, shape))


@pytest.mark.parametrize("name", MODELS)
def test_saved_models_open_to_the_same_outputs(name: str, tmp_path: Path) -> None:
    """Saved and loaded, a model gives the same bits."""
    shape = COSTS[name][0]
    model = built(name, shape).eval()
    saved(tmp_path, model, name, shape)
    images = torch.rand(3, *shape)
    assert torch.equal(load_model(tmp_path)[0](images), model(images))


def test_removed_channels_are_recognised_by_shape(tmp_path: Path) -> None:
    """A net with fewer channels than its architecture opens from its tensors' shapes."""
    shape = (1, 28, 28)
    model = built("fast_mnist", shape)
    narrow = built("fast_mnist", shape, width=0.5).eval()
    fit_to_shapes(model, {name: value.shape for name, value in narrow.state_dict().items()})
    model.load_state_dict(narrow.state_dict())
    saved(tmp_path, model, "fast_mnist", shape)
    images = torch.rand(3, *shape)
    assert torch.equal(load_model(tmp_path)[0](images), narrow(images))


def test_same_weights_same_bytes(tmp_path: Path) -> None:
    """Weights saved twice give identical files."""
    model = built("seed_minimal", (1, 28, 28))
    save_weights(tmp_path / "a", model)
    save_weights(tmp_path / "b", model)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    """Weights whose bytes are not those on record are not opened."""
    shape = (1, 28, 28)
    saved(tmp_path, built("seed_minimal", shape), "seed_minimal", shape)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="refused"):
        load_model(tmp_path)


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    """An unknown model's error names the nearest known one."""
    with pytest.raises(UnknownNameError, match="did you mean 'resnet20'"):
        built("resnet2", (3, 32, 32))


@pytest.mark.parametrize(("name", "variance"), [("he", 2 / 400), ("xavier", 2 / 600)])
def test_initialisations_have_their_variance(name: str, variance: float) -> None:
    """He draws with variance 2 / fan-in, Xavier with 2 / (fan-in + fan-out), within 5 %."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(400, 200)
    INITIALISATIONS[name](layer)
    assert float(layer.weight.detach().var()) == pytest.approx(variance, rel=0.05)


def test_normalisation_centres_and_scales() -> None:
    """The first layer turns mean into 0 and one standard deviation into 1."""
    normalise = built("seed_minimal", (1, 28, 28))[0]
    assert normalise(torch.tensor([0.5, 0.75]).view(1, 1, 1, 2)).flatten().tolist() == [0, 1]


def test_whitening_makes_patches_uncorrelated() -> None:
    """After `whiten`, the responses to 2x2 patches have the identity as covariance."""
    torch.manual_seed(0)
    network = FastCifar(3, 32, 10, 1.0)
    images = torch.nn.functional.avg_pool2d(torch.randn(200, 3, 34, 34), 3, stride=1)
    network.whiten(images)
    responses = network.whitening(images)[:, :12].movedim(1, 3).reshape(-1, 12)
    covariance = responses.T @ responses / len(responses)
    # The floor added to each variance (5e-4 against about 0.05 here) leaves a few per cent.
    assert torch.allclose(covariance, torch.eye(12), atol=0.1)
