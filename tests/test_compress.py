"""Facts about compression: what each method makes, and that a chain is published whole."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trained_project import CHAINS, Recorder, small_params

from imagemill.compress import METHODS, compress
from imagemill.compress.bench import Bench, spread
from imagemill.compress.prune import remove_channels
from imagemill.decoding import has_compiled_part
from imagemill.errors import IntegrityError, ParamsError, UnknownNameError
from imagemill.models import (
    build_model,
    count_macs,
    count_parameters,
    fit_to_shapes,
    load_model,
    write_shortcuts,
)
from imagemill.params import StepParams
from imagemill.records import Architecture, ModelCard, sha256_of_file
from imagemill.runtimes import open_variant
from pipelines.compress import compress as compress_flow


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """A trained project whose models a test may add to; the data is shared."""
    shutil.copytree(trained / "models", tmp_path / "models")
    (tmp_path / "data").symlink_to(trained / "data")
    return tmp_path


# Our own nets, and one of each family that can lose channels.
PRUNED = [
    *("seed_minimal", "seed_mnist", "seed_cifar", "fast_mnist", "fast_cifar", "resnet20"),
    *("resnet18_small", "mobilenet_v3_small", "efficientnet_lite0"),
]


def make(root: Path, name: str, chain: list[dict[str, Any]]) -> tuple[ModelCard, list[str]]:
    """Compress by a chain; model.json and the lines that were logged."""
    lines: list[str] = []
    params = small_params(**{name: chain})
    card = compress(root, params, name, log=lines.append, progress=lambda share, words: None)
    return card, lines


# Wide nets that pool globally: what is tied to what is the same at a quarter of the pixels.
SIZES = {"resnet18_small": 16, "mobilenet_v3_small": 16}


def full_model(name: str) -> tuple[nn.Module, Tensor]:
    """A row of MODELS with used batch statistics, and images for it."""
    torch.manual_seed(0)
    size = SIZES.get(name, 32)
    images = torch.rand(8, 3, size, size)
    model = build_model(
        Architecture(name=name, arguments={"width": 1.0}),
        input_shape=(3, size, size),
        num_classes=10,
        mean=[0.5] * 3,
        std=[0.3] * 3,
    )
    model(images)
    return model.eval(), images


@cache
def halved(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A row of MODELS, the same with half the channels, and images; not to be changed."""
    model, images = full_model(name)
    return model, remove_channels(model, images, ratio=0.5), images


def test_there_is_a_method_for_each_kind_of_step() -> None:
    """What params.yaml may ask for is what the table has."""
    assert set(METHODS) == set(StepParams.model_fields)


# Pruning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRUNED)
def test_pruning_makes_every_model_smaller_and_keeps_its_classes(name: str) -> None:
    """Half the channels gone is at least 45 % of the parameters, and still ten logits."""
    model, pruned, images = halved(name)
    assert count_parameters(pruned) < 0.55 * count_parameters(model)
    assert pruned(images).shape == (8, 10)


@pytest.mark.parametrize("name", PRUNED)
def test_a_pruned_model_is_rebuilt_from_the_shapes_of_its_tensors(name: str) -> None:
    """A net built in full width and fitted to the stored shapes computes the same, bit by bit."""
    _, pruned, images = halved(name)
    stored = pruned.state_dict()
    rebuilt, _ = full_model(name)
    fit_to_shapes(rebuilt, {key: value.shape for key, value in stored.items()})
    rebuilt.load_state_dict(stored)
    assert torch.equal(rebuilt(images), pruned(images))


def test_pruning_leaves_the_original_alone() -> None:
    """The net that was given is not changed."""
    model, images = full_model("fast_mnist")
    before = model(images)
    remove_channels(model, images, ratio=0.5)
    assert torch.equal(model(images), before)


def test_pruning_takes_the_least_important_channels() -> None:
    """Channels of zero weight go first, and then nothing changes in what the net says."""
    model, images = full_model("seed_minimal")
    convolution, head = model[1].convolution, model[1].head
    with torch.no_grad():
        convolution.weight[[1, 4, 5, 7]] = 0
        convolution.bias[[1, 4, 5, 7]] = 0
        head.weight.view(10, 8, -1)[:, [1, 4, 5, 7]] = 0
    pruned = remove_channels(model, images, ratio=0.5)
    torch.testing.assert_close(pruned(images), model(images))


def test_streams_that_are_padded_on_their_way_lose_channels_too() -> None:
    """In resnet20 every convolution is halved on both sides, so a quarter of the work is left."""
    model, pruned, _ = halved("resnet20")
    blocks = pruned[1].blocks
    assert [block.convolution1.out_channels for block in blocks] == [8] * 3 + [16] * 3 + [32] * 3
    assert [block.convolution2.out_channels for block in blocks] == [8] * 3 + [16] * 3 + [32] * 3
    assert [pruned[1].convolution.out_channels, pruned[1].head.in_features] == [8, 32]
    assert count_macs(pruned, (3, 32, 32)) < 0.27 * count_macs(model, (3, 32, 32))


def test_a_layer_that_keeps_its_channels_keeps_its_stream_whole() -> None:
    """All that writes into the last stream stays 64 wide; the layers inside its blocks do not."""
    model, images = full_model("resnet20")
    pruned = remove_channels(model, images, ratio=0.5, keep={"1.blocks.8.convolution2"})
    blocks = pruned[1].blocks
    assert [block.convolution1.out_channels for block in blocks] == [8] * 3 + [16] * 3 + [32] * 3
    assert [block.convolution2.out_channels for block in blocks] == [8] * 3 + [16] * 3 + [64] * 3
    assert pruned[1].head.in_features == 64


def test_a_layer_to_keep_has_to_exist(root: Path) -> None:
    """A name or pattern that fits none is told before anything is made."""
    chain = [{"prune": {"ratio": 0.5, "keep": ["*.convolution2"]}}]
    make(root, "kept", chain)
    with pytest.raises(
        UnknownNameError, match=r"no layer that learns is called '\*\.convolutoin2'"
    ):
        make(root, "kept", [{"prune": {"ratio": 0.5, "keep": ["*.convolutoin2"]}}])


def test_a_shortcut_written_as_a_convolution_says_the_same() -> None:
    """Weights of zeros and ones select the same pixels and channels, bit by bit."""
    model, images = full_model("resnet20")
    expected = model(images)
    assert list(write_shortcuts(model)) == ["1.blocks.3.shortcut", "1.blocks.6.shortcut"]
    assert torch.equal(model(images), expected)


def test_a_shortcut_whose_channels_stay_gets_no_weights() -> None:
    """Where a ratio takes no channel, the net has the same parameters as before."""
    model, images = full_model("resnet20")
    pruned = remove_channels(model, images, ratio=0.05)
    assert pruned.state_dict().keys() == model.state_dict().keys()
    assert count_parameters(pruned) == count_parameters(model)


def test_a_pruned_net_can_be_pruned_again() -> None:
    """Shortcuts that have weights already are followed as any convolution."""
    _, once, images = halved("resnet20")
    twice = remove_channels(once, images, ratio=0.5)
    assert [once[1].convolution.out_channels, once[1].head.in_features] == [8, 32]
    assert [twice[1].convolution.out_channels, twice[1].head.in_features] == [4, 16]


def test_layers_that_do_not_learn_keep_their_channels() -> None:
    """The whitening filters of fast_cifar were set, not learned: magnitude says nothing of them."""
    model, pruned, _ = halved("fast_cifar")
    assert pruned[1].whitening.out_channels == model[1].whitening.out_channels


class Stream(nn.Module):
    """Two layers whose outputs are added: their channels are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.first(images))
        features = features + F.relu(self.second(features))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def test_tied_layers_are_narrowed_once_and_together() -> None:
    """Layers that are added lose the same channels, once."""
    pruned = remove_channels(Stream().eval(), torch.rand(4, 3, 8, 8), ratio=0.5)
    assert (pruned.first.out_channels, pruned.second.out_channels) == (16, 16)


class Loud(nn.Module):
    """A net in which a channel of zeros is heard: sigmoid(0) is a half."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.head = nn.Linear(32, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.sigmoid(self.first(images)).mean((2, 3)))
        return logits


def test_channels_whose_silence_is_heard_stay() -> None:
    """Where taking a channel out is not the same as setting it to zero, it stays."""
    pruned = remove_channels(Loud().eval(), torch.rand(4, 3, 8, 8), ratio=0.5)
    assert pruned.first.out_channels == 32


def test_wide_layers_keep_whole_blocks_of_channels() -> None:
    """At a ratio of 0.3, 23 of 32 channels would stay; 24 run faster."""
    pruned = remove_channels(Stream().eval(), torch.rand(4, 3, 8, 8), ratio=0.3)
    assert pruned.first.out_channels == 24


def test_a_ratio_that_removes_nothing_is_refused(root: Path) -> None:
    """A chain that would give the base again says so, and leaves nothing behind."""
    with pytest.raises(ParamsError, match=r"ratio 0\.001"):
        make(root, "same", [{"prune": {"ratio": 0.001}}])
    assert sorted(path.name for path in (root / "models").iterdir()) == ["base"]


# Chains --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pruned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelCard]:
    """A project with the variant `pruned`, and its model.json."""
    root = tmp_path_factory.mktemp("pruned")
    shutil.copytree(trained / "models", root / "models")
    (root / "data").symlink_to(trained / "data")
    return root, make(root, "pruned", CHAINS["pruned"])[0]


def test_a_variant_says_where_it_comes_from(pruned: tuple[Path, ModelCard]) -> None:
    """Parent, steps and the digest of the data are in model.json."""
    root, card = pruned
    base = ModelCard.read(root / "models/base/model.json")
    assert (card.variant, card.parent) == ("pruned", "base")
    assert card.steps == CHAINS["pruned"]
    assert card.data_digest == base.data_digest


def test_a_variant_lists_its_files(pruned: tuple[Path, ModelCard]) -> None:
    """Every file is on record with its sha256, the one that ships first among equals."""
    root, card = pruned
    folder = root / "models/pruned"
    assert sorted(card.files) == ["model.onnx", "model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*card.files, "model.json"])
    assert all(sha256_of_file(folder / name) == digest for name, digest in card.files.items())
    assert (card.file, card.sha256) == ("model.onnx", card.files["model.onnx"])


def test_a_pruned_variant_is_smaller(pruned: tuple[Path, ModelCard]) -> None:
    """Its file is less than half the base's, and model.json counts its own parameters."""
    root, card = pruned
    sizes = [(root / "models" / name / "model.onnx").stat().st_size for name in ("base", "pruned")]
    assert sizes[1] < sizes[0] / 2
    assert card.num_parameters == count_parameters(load_model(root / "models/pruned")[0])


def test_a_float_variant_runs_the_same_in_both_runtimes(pruned: tuple[Path, ModelCard]) -> None:
    """The ONNX file and the weights it was made from give the same logits."""
    root, _ = pruned
    images = np.random.default_rng(0).random((4, 1, 12, 12), dtype=np.float32)
    eager, shipped = (
        open_variant(root / "models/pruned", threads=1, runtime=runtime)(images)
        for runtime in ("eager", None)
    )
    np.testing.assert_allclose(shipped, eager, atol=1e-4)


def test_a_chain_leaves_no_scratch(pruned: tuple[Path, ModelCard]) -> None:
    """Half-way models are gone when the variant is there."""
    root, _ = pruned
    assert not any((root / ".imagemill/compress").iterdir())
    assert sorted(path.name for path in (root / "models").iterdir()) == ["base", "pruned"]


def test_the_flow_makes_each_link_of_the_chain_a_step(root: Path) -> None:
    """Prune, fine-tune and publish are steps; the table shows base and variant."""
    recorder = Recorder()
    compress_flow(root, small_params(), recorder, variant="pruned")
    assert recorder.steps == ["prune", "finetune", "publish"]
    assert [row["variant"] for row in recorder.tables["compressed-pruned"]] == ["base", "pruned"]


def test_a_student_has_the_width_it_was_given(root: Path) -> None:
    """Distillation trains the model that params.yaml names and records its architecture."""
    step = {
        "student": "fast_mnist",
        "width": 0.25,
        "epochs": 1,
        "learning_rate": 0.05,
        "temperature": 4.0,
        "alpha": 0.7,
    }
    card, lines = make(root, "student", [{"distil": step}])
    model, _ = load_model(root / "models/student")
    assert card.architecture.arguments == {"width": 0.25}
    assert model[1].convolution1.out_channels == 8
    assert any(line.startswith("distil: epoch 1 of 1") for line in lines)


def test_an_int8_variant_holds_int8_weights_per_channel(root: Path) -> None:
    """Weights are signed bytes with a scale for each channel, activations unsigned bytes."""
    make(root, "int8", CHAINS["int8"])
    graph = onnx.load(root / "models/int8/model.onnx").graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    quantized = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    scales = [
        stored[node.input[1]]
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in stored
        and stored[node.input[0]].data_type == onnx.TensorProto.INT8
    ]
    assert {stored[node.input[2]].data_type for node in quantized} == {onnx.TensorProto.UINT8}
    assert max(scale.dims[0] for scale in scales if scale.dims) == 64


def test_an_int8_variant_agrees_with_its_parent(root: Path) -> None:
    """On easy images nearly every class is the same as before."""
    _, lines = make(root, "int8", CHAINS["int8"])
    told = next(line for line in lines if line.startswith("quantize:"))
    assert "same class as float32 for 100.0 % of 14 images of val" in told


def test_quantizing_twice_gives_the_same_file(root: Path) -> None:
    """The choice of calibration images and the graph are the same every time."""
    first, _ = make(root, "int8", CHAINS["int8"])
    second, _ = make(root, "int8", CHAINS["int8"])
    assert first.sha256 == second.sha256


def test_a_pruned_net_can_be_quantized(root: Path) -> None:
    """A longer chain carries on from what the step before made, its count of parameters too."""
    card, _ = make(root, "both", [{"prune": {"ratio": 0.5}}, *CHAINS["int8"]])
    base, _ = load_model(root / "models/base")
    assert card.files.keys() == {"model.onnx"}
    assert card.num_parameters is not None
    assert card.num_parameters < count_parameters(base) / 2


@pytest.mark.skipif(not has_compiled_part(), reason="torch resizes without the compiled part")
def test_quantizing_the_base_needs_no_torch(root: Path) -> None:
    """The base's own graph is used: a process for it starts in a third of the time."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from imagemill.compress import compress\n"
        "from imagemill.params import parse_params, read_yaml\n"
        "params = read_yaml(Path(sys.argv[3]))\n"
        "params['compress']['variants'] = "
        "{'int8': [{'quantize': {'mode': 'static', 'calibration_images': 16}}]}\n"
        "compress(Path(sys.argv[1]), parse_params(params, where='here'), 'int8', log=print, "
        "progress=print)\n"
        "sys.exit('torch' in sys.modules)"
    )
    here = Path(__file__).resolve().parent
    command = [sys.executable, "-c", code, str(root), str(here), str(here.parent / "params.yaml")]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_a_failing_chain_leaves_the_old_variant(root: Path) -> None:
    """A wrong name in a later chain is told before anything is replaced."""
    old, _ = make(root, "int8", CHAINS["int8"])
    step = {
        "student": "fast_minst",
        "width": 0.5,
        "epochs": 1,
        "learning_rate": 0.05,
        "temperature": 4.0,
        "alpha": 0.7,
    }
    with pytest.raises(UnknownNameError, match="did you mean 'fast_mnist'"):
        make(root, "int8", [{"distil": step}])
    assert ModelCard.read(root / "models/int8/model.json").sha256 == old.sha256
    assert not any((root / ".imagemill/compress").iterdir())


def test_a_damaged_base_is_refused(root: Path) -> None:
    """A base whose bytes are not those on record is not compressed."""
    (root / "models/base/model.onnx").write_bytes(b"something else")
    with pytest.raises(IntegrityError, match="sha256"):
        make(root, "int8", CHAINS["int8"])


def test_an_unknown_variant_is_answered_with_the_nearest(root: Path) -> None:
    """A wrong name gets the right one as a suggestion."""
    with pytest.raises(UnknownNameError, match="did you mean 'pruned'"):
        compress(
            root, small_params(), "prunned", log=lambda line: None, progress=lambda *told: None
        )


def test_compression_cannot_read_test(root: Path) -> None:
    """The workbench refuses the test split."""
    bench = Bench(root, small_params(), lambda line: None, lambda *told: None)
    with pytest.raises(AssertionError, match="only ever reported"):
        bench.images("test")


def test_calibration_images_are_in_proportion_to_the_classes() -> None:
    """Of classes of 30, 10 and 50 images, nine chosen ones are three, one and five."""
    targets = np.repeat([2, 0, 1], [50, 30, 10])
    assert np.bincount(targets[spread(targets, 9)]).tolist() == [3, 1, 5]


def test_fewer_images_than_asked_for_are_all_taken() -> None:
    """No image is used twice."""
    assert spread(np.array([0, 1, 0]), 10).tolist() == [0, 1, 2]
