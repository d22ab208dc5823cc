"""Facts about the models, over every row of MODELS."""

import json
from pathlib import Path

import pytest
import torch

from imagemill.errors import InputSizeError, IntegrityError, ParamsError, UnknownNameError
from imagemill.models import (
    INITIALISATIONS,
    MODELS,
    Arguments,
    Shape,
    build_model,
    count_parameters,
    fit_to_shapes,
    load_model,
    save_weights,
    split_outputs,
)
from imagemill.models.fast import FastCifar
from imagemill.models.pin import PINNED, facts
from imagemill.records import Architecture, ModelCard, sha256_of_file

PINNED_FACTS = json.loads(PINNED.read_bytes())
# Worked out from the layer lists by hand: parameters and multiply-accumulates of an image.
BY_HAND = {
    "seed_minimal": (11_738, 126_720),
    "seed_mnist": (93_322, 2_794_240),
    "seed_cifar": (62_006, 651_720),
    "fast_mnist": (62_186, 2_872_064),
    "fast_cifar": (498_080, 33_066_272),
    "resnet20": (269_722, 40_551_040),
}
# One of each family that is small enough to be computed with; the others are built without data.
COMPUTED = [
    *BY_HAND,
    *("resnet56", "resnet18_small", "mobilenet_v3_small", "efficientnet_lite0", "inception_v3"),
]
WITH_WIDTH = [name for name, row in MODELS.items() if row.has_width]


def built(name: str, shape: tuple[int, int, int], **arguments: float) -> torch.nn.Sequential:
    architecture = Architecture(name=name, arguments={"width": 1.0, **arguments})
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


def standard_shape(name: str) -> tuple[int, int, int]:
    channels, side, _ = MODELS[name].standard
    return channels, side, side


def test_every_model_is_pinned() -> None:
    """pinned.json has the rows of MODELS and no others."""
    assert list(PINNED_FACTS) == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_facts_are_as_pinned(name: str) -> None:
    """Parameters, multiply-accumulates and source are those `imagemill.models.pin` wrote."""
    assert facts(name) == PINNED_FACTS[name]


@pytest.mark.parametrize("name", BY_HAND)
def test_pinned_costs_are_those_of_the_layer_lists(name: str) -> None:
    """What was worked out by hand is what is pinned."""
    pinned = PINNED_FACTS[name]
    assert (pinned["parameters"], pinned["macs"]) == BY_HAND[name]


@pytest.mark.parametrize("name", [name for name, row in MODELS.items() if row.weights])
def test_pinned_costs_are_those_torchvision_publishes(name: str) -> None:
    """The parameters beside torchvision's weights are ours, its GFLOPs within 2 % ours too."""
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    assert str(weights) == MODELS[name].weights.name
    pinned = PINNED_FACTS[name]
    assert weights.meta["num_params"] == pinned["parameters"]
    assert weights.meta["_ops"] == pytest.approx(pinned["macs"] / 1e9, rel=0.02)
    transforms = weights.transforms()
    if name != "inception_v3":  # whose transform_input, which we leave out, changes them
        assert (tuple(transforms.mean), tuple(transforms.std)) == MODELS[name].weights[1:]


@pytest.mark.parametrize("name", [name for name, row in MODELS.items() if row.published_parameters])
def test_sources_print_the_parameters_we_have(name: str) -> None:
    """A count the source prints, such as 0.27M, is ours when rounded as it is."""
    printed, count = MODELS[name].published_parameters, PINNED_FACTS[name]["parameters"]
    digits = len(printed.removesuffix("M").partition(".")[2])
    assert printed in (f"{count:,}", f"{count / 1e6:.{digits}f}M")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_smallest_input_works(name: str, channels: int) -> None:
    """A model takes images of its minimum size, grey or colour, in training and in evaluation."""
    size = MODELS[name].minimum_size
    with torch.device("cpu" if name in COMPUTED else "meta"):
        model, images = built(name, (channels, size, size)), torch.rand(2, channels, size, size)
        logits, _ = split_outputs(model(images))
        assert logits.shape == (2, 10)
        assert model.eval()(images).shape == (2, 10)


@pytest.mark.parametrize("name", [name for name, row in MODELS.items() if row.minimum_size > 1])
def test_a_smaller_input_is_refused(name: str) -> None:
    """One pixel less is an InputSizeError that names the model and both sizes."""
    size = MODELS[name].minimum_size
    with pytest.raises(InputSizeError, match=f"{name} needs images of at least {size} px"):
        built(name, (1, size - 1, size - 1))


def test_patches_must_fill_the_image() -> None:
    """A transformer that cuts patches of 16 px names the sizes around 40 px that fit."""
    with pytest.raises(InputSizeError, match="a multiple of 16, such as 32 or 48"):
        built("vit_b_16", (3, 40, 40))


@pytest.mark.parametrize("name", WITH_WIDTH)
def test_width_makes_smaller_models(name: str) -> None:
    """Half the width has less than 60 % of the parameters; where the top keeps its width, 75 %."""
    shape, most = standard_shape(name), 0.6 if name in (*BY_HAND, "resnet32") else 0.75
    with torch.device("meta"):
        half = count_parameters(built(name, shape, width=0.5))
        assert half < most * count_parameters(built(name, shape))


def test_a_model_of_one_width_says_so() -> None:
    """Another width is refused with the models that have one."""
    with pytest.raises(ParamsError, match=r"resnet18 has one width, got 0\.5: .*resnet20"):
        built("resnet18", (3, 32, 32), width=0.5)


@pytest.mark.parametrize("name", COMPUTED)
def test_saved_models_open_to_the_same_outputs(name: str, tmp_path: Path) -> None:
    """Saved and loaded, a model gives the same bits."""
    shape = (3, 75, 75) if name == "inception_v3" else standard_shape(name)
    model = built(name, shape).eval()
    saved(tmp_path, model, name, shape)
    images = torch.rand(3, *shape)
    assert torch.equal(load_model(tmp_path)[0](images), model(images))


# Dropping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_dropping_changes_no_name(name: str) -> None:
    """Weights of a net with dropout and skipped blocks fit one without, and the other way round."""
    shares = {"dropout": 0.3} | (
        {"stochastic_depth": 0.2} if MODELS[name].has_stochastic_depth else {}
    )
    shape = standard_shape(name)
    with torch.device("meta"):
        plain, dropping = built(name, shape), built(name, shape, **shares)
    assert {key: value.shape for key, value in plain.state_dict().items()} == {
        key: value.shape for key, value in dropping.state_dict().items()
    }


@pytest.mark.parametrize("name", [name for name in COMPUTED if name != "inception_v3"])
def test_dropping_is_for_training_alone(name: str) -> None:
    """With dropout two training passes differ; in evaluation the net is the one without it."""
    shape = (MODELS[name].standard.channels, 32, 32)
    torch.manual_seed(0)
    plain, dropping = built(name, shape).eval(), built(name, shape, dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    images = torch.rand(4, *shape)
    assert torch.equal(dropping.eval()(images), plain(images))
    dropping[1].train()
    for part in dropping.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()
    assert not torch.equal(dropping(images), dropping(images))


def test_a_skipped_branch_leaves_its_shortcut() -> None:
    """With all but certain skipping, a residual block passes its input on."""
    network = built("resnet20", (3, 32, 32), stochastic_depth=0.999999)[1]
    features = torch.rand(64, 64, 8, 8)
    torch.manual_seed(0)
    passed = network.blocks[-1].train()(features)
    assert torch.equal(passed, features)


def test_a_model_without_branches_says_so() -> None:
    """Stochastic depth in a plain net is refused with the models that can have it."""
    with pytest.raises(ParamsError, match=r"vgg11 cannot skip residual branches.*resnet56"):
        built("vgg11", (3, 32, 32), stochastic_depth=0.1)


def test_the_auxiliary_head_counts_in_training_only() -> None:
    """Inception v3 gives its second head's logits with their weight while it trains."""
    model, images = built("inception_v3", (3, 75, 75)), torch.rand(2, 3, 75, 75)
    logits, auxiliaries = split_outputs(model(images))
    assert [(weight, logits.shape) for weight, logits in auxiliaries] == [(0.3, (2, 10))]
    loss = logits.sum() + sum(weight * other.sum() for weight, other in auxiliaries)
    loss.backward()
    assert model[1].AuxLogits.fc.weight.grad is not None
    assert split_outputs(model.eval()(images))[1] == []


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
        built("resnet20x", (3, 32, 32))


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
    network = FastCifar(Shape(3, 32, 10), Arguments(1.0, 0.0, 0.0))
    images = torch.nn.functional.avg_pool2d(torch.randn(200, 3, 34, 34), 3, stride=1)
    network.whiten(images)
    responses = network.whitening(images)[:, :12].movedim(1, 3).reshape(-1, 12)
    covariance = responses.T @ responses / len(responses)
    # The floor added to each variance (5e-4 against about 0.05 here) leaves a few per cent.
    assert torch.allclose(covariance, torch.eye(12), atol=0.1)
