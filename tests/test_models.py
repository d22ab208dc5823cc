"""Facts about the models, over every row of MODELS."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer, convnext, get_model_weights
from torchvision.models.inception import InceptionAux
from torchvision.ops import StochasticDepth

from imagemill.errors import InputSizeError, IntegrityError, ParamsError, UnknownNameError
from imagemill.models import (
    INITIALISATIONS,
    MODELS,
    Arguments,
    Outputs,
    Shape,
    build_model,
    check_architecture,
    count_parameters,
    fit_to_shapes,
    load_model,
    save_weights,
    split_outputs,
)
from imagemill.models.fast import _STEEPNESS, FastCifar
from imagemill.models.inception import AUXILIARY_WEIGHT, _Auxiliary
from imagemill.models.layers import BranchNorm
from imagemill.models.pin import Cost, cost_of, read_pinned
from imagemill.models.shortcut import PaddedShortcut
from imagemill.records import Architecture, ModelCard, sha256_of_file

PINNED = read_pinned()
# Run for real, one of each family that is cheap; the others only on the meta device.
SMALL = [
    "seed_minimal",
    "seed_mnist",
    "seed_cifar",
    "fast_mnist",
    "fast_cifar",
    "resnet20",
    "mobilenet_v3_small",
]
WIDE = [name for name, model in MODELS.items() if model.has_width]
DEEP = [name for name, model in MODELS.items() if model.has_stochastic_depth]
PUBLISHED = [name for name, model in MODELS.items() if model.weights is not None]


def built(name: str, shape: tuple[int, int, int], **arguments: float) -> torch.nn.Sequential:
    channels = shape[0]
    return build_model(
        Architecture(name=name, arguments={"width": 1.0} | arguments),
        input_shape=shape,
        num_classes=10,
        mean=[0.5] * channels,
        std=[0.25] * channels,
    )


def outlined(name: str, channels: int = 3, size: int = 0, **arguments: float) -> nn.Sequential:
    """A net without numbers, at its smallest size unless said: quick to build and to run."""
    size = size or MODELS[name].minimum_size
    with torch.device("meta"):
        return built(name, (channels, size, size), **arguments)


def standard_shape(name: str) -> tuple[int, int, int]:
    channels, size, _ = MODELS[name].standard
    # torchvision's nets are made for 224 px and more; small ones do to compare outputs.
    return (channels, min(size, 32), min(size, 32))


def saved(
    folder: Path,
    model: torch.nn.Module,
    name: str,
    shape: tuple[int, int, int],
    **arguments: float,
) -> None:
    save_weights(folder / "model.safetensors", model)
    digest = sha256_of_file(folder / "model.safetensors")
    ModelCard(
        variant="base",
        parent=None,
        steps=[],
        architecture=Architecture(name=name, arguments={"width": 1.0} | arguments),
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


# What they cost ------------------------------------------------------------------------------


def test_costs_cover_every_model() -> None:
    """pinned.json has a row for each of MODELS and no other."""
    assert set(PINNED) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_costs_are_as_pinned(name: str) -> None:
    """Parameters, multiply-accumulates and what is published of them are those of pinned.json."""
    assert cost_of(name) == PINNED[name]


@pytest.mark.parametrize("name", MODELS)
def test_costs_are_those_of_the_source(name: str) -> None:
    """What is counted is what the source prints, to the digits it prints."""
    row = PINNED[name]
    counted = {f"{row.parameters:,}", *(f"{row.parameters / 1e6:.{n}f}M" for n in (1, 2))}
    assert row.published_parameters is None or row.published_parameters in counted
    assert row.published_giga_macs in {None, f"{row.macs / 1e9:.3f}"}


def test_the_table_in_the_docs_is_the_pinned_one() -> None:
    """docs/models.md prints each row of pinned.json."""
    docs = (Path(__file__).resolve().parent.parent / "docs/models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) M \| (.+) \| (.+) \| (.+) \|$", docs, re.M)
    assert rows == [(name, *as_documented(PINNED[name])) for name in MODELS]


def as_documented(row: Cost) -> tuple[str, ...]:
    channels, size, _ = row.input_shape
    shape, classes = f"{size}x{size}x{channels}", f"{row.num_classes:,}"
    return f"{row.parameters:,}", f"{row.macs / 1e6:,.1f}", shape, classes, row.source


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_are_torchvisions_best(name: str) -> None:
    """Each row names the weights torchvision recommends, and the normalisation they expect."""
    weights, given = get_model_weights(name).DEFAULT, MODELS[name].weights
    assert given is not None
    assert given.name == str(weights)
    transforms = weights.transforms()
    if name != "inception_v3":
        assert (list(given.mean), list(given.std)) == (transforms.mean, transforms.std)


def test_inceptions_weights_expect_halves() -> None:
    """torchvision's usual normalisation and then its transform_input are mean and std of 0.5."""
    given, usual = MODELS["inception_v3"].weights, get_model_weights("inception_v3").DEFAULT
    assert given is not None
    network = outlined("inception_v3")[1]
    network.transform_input = True
    images = torch.rand(2, 3, 4, 4)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (given.mean, given.std))
    twice = network._transform_input(normalised(images, usual.transforms()))
    torch.testing.assert_close((images - mean) / std, twice, atol=1e-6, rtol=0)


def normalised(images: torch.Tensor, transforms: Any) -> torch.Tensor:
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (transforms.mean, transforms.std))
    return (images - mean) / std


# What they take and give ---------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_the_smallest_input_trains(name: str) -> None:
    """A model in training takes two grey images of its minimum size."""
    size = MODELS[name].minimum_size
    outputs = outlined(name, channels=1)(torch.rand(2, 1, size, size, device="meta"))
    assert split_outputs(outputs)[0].shape == (2, 10)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_smallest_input_is_classified(name: str, channels: int) -> None:
    """In evaluation a model gives finite logits for one image of its minimum size."""
    size = MODELS[name].minimum_size
    model = built(name, (channels, size, size)).eval()
    assert model(torch.rand(1, channels, size, size)).isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_a_smaller_input_is_refused(name: str) -> None:
    """One pixel less is an InputSizeError that names the model and both sizes."""
    size = MODELS[name].minimum_size
    with pytest.raises(InputSizeError, match=f"{name} needs images of at least {size} px"):
        built(name, (1, size - 1, size - 1))


def test_patches_must_fill_the_image() -> None:
    """A ViT refuses a size that is no multiple of its patches and names the nearest that are."""
    with pytest.raises(InputSizeError, match="multiple of 16, such as 48 or 64"):
        outlined("vit_b_16", size=50)


def test_the_size_of_the_data_reaches_the_position_embeddings() -> None:
    """A ViT for 48 px has 3 x 3 places and one for the class token."""
    assert outlined("vit_b_16", size=48)[1].encoder.pos_embedding.shape == (1, 10, 768)


@pytest.mark.parametrize("name", MODELS)
def test_evidence_is_a_layer(name: str) -> None:
    """The layer a row wants explanations of exists."""
    evidence = MODELS[name].evidence
    if evidence is not None:
        outlined(name)[1].get_submodule(evidence)


def test_a_small_images_stem_keeps_their_size() -> None:
    """resnet18_small pools nothing away: 32 px reach the last stage as 4."""
    model = outlined("resnet18_small", size=32)
    model[1].avgpool = nn.Identity()
    model[1].fc = nn.Identity()
    assert model(torch.rand(2, 3, 32, 32, device="meta")).shape == (2, 512 * 4 * 4)


# Auxiliary heads -----------------------------------------------------------------------------


def test_inception_has_an_auxiliary_head_while_it_trains() -> None:
    """Training gives two sets of logits and the weight of the second, evaluation one set."""
    model = outlined("inception_v3")
    images = torch.rand(2, 3, 75, 75, device="meta")
    outputs = model(images)
    assert isinstance(outputs, Outputs)
    logits, ((weight, auxiliary),) = split_outputs(outputs)
    assert (logits.shape, auxiliary.shape, weight) == ((2, 10), (2, 10), AUXILIARY_WEIGHT)
    assert isinstance(model.eval()(images), torch.Tensor)


def test_plain_logits_have_nothing_beside_them() -> None:
    """A tensor is its own logits."""
    logits = torch.rand(2, 3)
    assert split_outputs(logits) == (logits, [])


def test_the_auxiliary_head_is_torchvisions_at_full_size() -> None:
    """Maps of 17 px, as at an input of 299, are read exactly as torchvision reads them."""
    ours, theirs = _Auxiliary(16, 5).eval(), InceptionAux(16, 5).eval()
    ours.load_state_dict(theirs.state_dict())
    maps = torch.rand(2, 16, 17, 17)
    assert torch.equal(ours(maps), theirs(maps))


# Arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WIDE)
def test_width_makes_smaller_models(name: str) -> None:
    """Half the width has less than 60 % of the parameters."""
    _, size, _ = MODELS[name].standard
    half, full = (count_parameters(outlined(name, size=size, width=width)) for width in (0.5, 1))
    assert half < 0.6 * full


def test_a_model_of_one_width_says_so() -> None:
    """Another width is a ParamsError that names models with a choice."""
    with pytest.raises(ParamsError, match=r"alexnet has one width, got 0\.5.*mobilenet_v3_small"):
        outlined("alexnet", width=0.5)


def test_a_model_without_branches_says_so() -> None:
    """Stochastic depth where nothing can be skipped is a ParamsError that names models that can."""
    with pytest.raises(ParamsError, match=r"vgg11 cannot skip residual branches.*resnet20"):
        outlined("vgg11", stochastic_depth=0.1)


def test_an_unknown_argument_is_refused() -> None:
    """An argument no model has is answered with the nearest."""
    with pytest.raises(UnknownNameError, match="did you mean 'dropout'"):
        check_architecture(Architecture(name="resnet20", arguments={"drop_out": 0.5}), 32)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_dropped_does_not_change_the_weights_names(name: str) -> None:
    """Weights of a net that drops fit one that does not."""
    depth = {"stochastic_depth": 0.5} if name in DEEP else {}
    plain, dropping = outlined(name), outlined(name, dropout=0.5, **depth)
    assert shapes(plain) == shapes(dropping)


def shapes(model: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, value.shape) for name, value in model.state_dict().items()]


@pytest.mark.parametrize("name", SMALL)
def test_dropout_acts_while_training_only(name: str) -> None:
    """With dropout two passes in training differ, in evaluation and without dropout they do not."""
    shape = standard_shape(name)
    images = torch.rand(4, *shape)
    plain, dropping = built(name, shape), built(name, shape, dropout=0.5)
    assert torch.equal(plain(images), plain(images))
    assert not torch.equal(dropping(images), dropping(images))
    dropping.eval()
    assert torch.equal(dropping(images), dropping(images))


@pytest.mark.parametrize("name", [name for name in MODELS if name not in SMALL])
def test_dropout_reaches_a_layer(name: str) -> None:
    """The share that was asked for is that of some layer which drops features."""
    parts = outlined(name, dropout=0.25).modules()
    shares = {
        part.p if isinstance(part, nn.Dropout) else getattr(part, "dropout", 0) for part in parts
    }
    assert 0.25 in shares


@pytest.mark.parametrize("name", DEEP)
def test_branches_are_skipped_more_with_depth(name: str) -> None:
    """The last block is skipped by the whole share, each earlier one by no more than the next."""
    skipped = [
        part.skipped if isinstance(part, BranchNorm) else part.p
        for part in outlined(name, stochastic_depth=0.4).modules()
        if isinstance(part, BranchNorm | StochasticDepth)
    ]
    skipped = [share for share in skipped if share]  # of blocks with a shortcut
    assert skipped == sorted(skipped)
    assert skipped[0] < 0.1
    assert skipped[-1] == pytest.approx(0.4)


def test_blocks_survive_by_the_linear_rule() -> None:
    """Of nine blocks, the l-th is skipped by l / 9 of the share of the last."""
    blocks = outlined("resnet20", stochastic_depth=0.9)[1].blocks
    assert [block.norm2.skipped for block in blocks] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    )


def test_a_branch_is_dropped_whole_or_counts_more() -> None:
    """In training each image loses its branch or has it scaled by 1 / (1 - share)."""
    torch.manual_seed(0)
    images = torch.rand(400, 2, 3, 3)
    branch, norm = nn.BatchNorm2d(2)(images), BranchNorm(2, skipped=0.25)(images)
    gone = (norm == 0).all((1, 2, 3))
    torch.testing.assert_close(norm[~gone], branch[~gone] / 0.75)
    assert 0.15 < gone.float().mean() < 0.35  # 4.6 standard deviations


def test_cards_without_shares_open(tmp_path: Path) -> None:
    """A model.json that knows only a width has nothing dropped, and weights that were trained
    with dropout open in it to the same outputs.
    """
    shape = (3, 32, 32)
    model = built("resnet20", shape, dropout=0.5, stochastic_depth=0.5).eval()
    saved(tmp_path, model, "resnet20", shape)
    images = torch.rand(3, *shape)
    opened = load_model(tmp_path)[0]
    assert opened[1].head.dropout == 0
    assert torch.equal(opened(images), model(images))


# On disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_saved_models_open_to_the_same_outputs(name: str, tmp_path: Path) -> None:
    """Saved and loaded, a model gives the same bits."""
    shape = standard_shape(name)
    model = built(name, shape, dropout=0.5).eval()
    saved(tmp_path, model, name, shape, dropout=0.5)
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


# Names and numbers ---------------------------------------------------------------------------


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


@pytest.mark.parametrize(("name", "variance"), [("he", 2 / 64), ("xavier", 2 / 128)])
def test_attention_is_initialised_as_three_layers(name: str, variance: float) -> None:
    """Queries, keys and values are square layers of their own, whatever tensor they lie in."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(64, 4)
    INITIALISATIONS[name](attention)
    for part in attention.in_proj_weight.detach().chunk(3):
        assert float(part.var()) == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize("name", ["he", "xavier"])
def test_initialisations_leave_what_is_no_layers_weight(name: str) -> None:
    """Class tokens, position embeddings, norms and scales of branches stay."""
    vit = VisionTransformer(
        image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    model = nn.ModuleList([vit, convnext.CNBlock(8, 1e-6, 0.0)])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    INITIALISATIONS[name](model)
    weights = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    kept = set(before) - weights
    assert {
        "0.class_token",
        "0.encoder.pos_embedding",
        "0.encoder.ln.weight",
        "1.layer_scale",
    } < kept
    assert {"0.conv_proj.weight", "0.heads.head.weight", "1.block.0.weight"} < weights


def test_normalisation_centres_and_scales() -> None:
    """The first layer turns mean into 0 and one standard deviation into 1."""
    normalise = built("seed_minimal", (1, 28, 28))[0]
    assert normalise(torch.tensor([0.5, 0.75]).view(1, 1, 1, 2)).flatten().tolist() == [0, 1]


def test_whitening_makes_patches_uncorrelated() -> None:
    """After `whiten`, responses to 2x2 patches, but for SiLU's factor, are of covariance one."""
    torch.manual_seed(0)
    network = FastCifar(Shape(3, 32, 10), Arguments(1.0, 0.0, 0.0))
    images = torch.nn.functional.avg_pool2d(torch.randn(200, 3, 34, 34), 3, stride=1)
    network.whiten(images)
    kept = network.DIRECTIONS
    responses = network.whitening(images)[:, :kept].movedim(1, 3).reshape(-1, kept) / _STEEPNESS
    covariance = responses.T @ responses / len(responses)
    # The floor added to each variance (5e-4 against about 0.05 here) leaves a few per cent.
    assert torch.allclose(covariance, torch.eye(kept), atol=0.1)


def test_whitening_leaves_out_what_varies_least() -> None:
    """Filters look in the directions of the largest variances; patches of grey have four in all."""
    torch.manual_seed(0)
    network = FastCifar(Shape(3, 32, 10), Arguments(1.0, 0.0, 0.0))
    images = torch.randn(50, 3, 32, 32) + 3 * torch.randn(50, 1, 32, 32)
    network.whiten(images)
    patches = torch.nn.functional.unfold(images, 2).movedim(1, 2).reshape(-1, 12)
    variances, _ = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = network.whitening.weight.flatten(1)[: network.DIRECTIONS]
    looked_at = patches @ torch.nn.functional.normalize(filters).T
    assert looked_at.square().mean(0).sum() == pytest.approx(
        variances[-network.DIRECTIONS :].sum().item(), rel=1e-3
    )
    assert FastCifar(Shape(1, 32, 10), Arguments(1.0, 0.0, 0.0)).whitening.out_channels == 2 * 4


def test_a_padded_shortcut_keeps_the_layout_forwards_and_backwards() -> None:
    """The same numbers in both layouts, and gradients that lie as the features do."""
    torch.manual_seed(0)
    given = torch.randn(2, 4, 6, 6)
    wanted = torch.randn(2, 8, 3, 3)
    found: list[list[torch.Tensor]] = []
    for layout in (torch.contiguous_format, torch.channels_last):
        features = given.to(memory_format=layout).requires_grad_().clone()
        gradients: list[torch.Tensor] = []
        features.register_hook(gradients.append)  # as it comes; a leaf's is laid out anew
        output = PaddedShortcut(4, 8, stride=2)(features)
        output.backward(wanted.to(memory_format=layout))
        found.append([output, *gradients])
        assert all(value.is_contiguous(memory_format=layout) for value in found[-1])
    for plain, channels_last in zip(*found, strict=True):
        assert torch.equal(plain, channels_last)
