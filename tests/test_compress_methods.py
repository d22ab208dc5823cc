"""Facts about every method of compression, and about the forms and runtimes of what they make."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from trained_project import small_params

from imagemill.compress import EXPORTS, METHODS, compress
from imagemill.compress.checking import Checker, fastest
from imagemill.compress.factorise import split_layers
from imagemill.compress.folding import fold_norms
from imagemill.compress.likeness import unlikeness
from imagemill.compress.masks import least_weights, masked, zeros_of
from imagemill.compress.prune_weights import count_zeros, rising_shares
from imagemill.compress.quantize import QUANTIZERS
from imagemill.compress.quantize_static import (
    divergence,
    quantize_statically,
    up_to_first_convolution,
)
from imagemill.compress.rounding import RoundedWeight, rounded
from imagemill.errors import IntegrityError, ParamsError, UnknownNameError
from imagemill.loading import open_split, to_input
from imagemill.metrics import fitted_temperature, softmax
from imagemill.models import build_model, count_parameters, fit_to_shapes, load_model
from imagemill.params import Params, QuantizeParams, parse_params
from imagemill.records import Architecture, ModelCard, RuntimeFigures
from imagemill.runtimes import check_export, export_onnx, open_variant, runtimes_of
from imagemill.runtimes.onnx_session import open_session

Chain = list[dict[str, Any]]
_TRAINED = {"epochs": 1, "learning_rate": 0.01}
_GUIDED = {"epochs": 4, "learning_rate": 0.05, "guide": {"temperature": 4, "alpha": 0.9}}
# Each method in each of its ways.
WAYS: dict[str, Chain] = {
    "prune": [{"prune": {"ratio": 0.5}}, {"finetune": _GUIDED}],
    "zeros": [{"prune": {"structure": "weights", "ratio": 0.3}}, {"finetune": _TRAINED}],
    "rising": [{"prune": {"structure": "weights", "ratio": 0.3, "gradual": _TRAINED}}],
    "distil": [
        {
            "distil": {
                "student": "fast_mnist",
                "width": 0.5,
                "epochs": 4,
                "learning_rate": 0.1,
                "temperature": 4,
                "alpha": 0.7,
                "features": 1.0,
            }
        }
    ],
    "static": [{"quantize": {"mode": "static", "calibration_images": 16}}],
    "dynamic": [{"quantize": {"mode": "dynamic"}}],
    "qat": [{"quantize": {"mode": "qat", "calibration_images": 16, **_TRAINED}}],
    "factorise": [{"factorise": {"ratio": 0.6}}, {"finetune": _TRAINED}],
    "bfloat16": [{"bfloat16": {}}],
    "calibrated": [{"calibrate": {}}],
    "static-calibrated": [
        {"quantize": {"mode": "static", "calibration_images": 16}},
        {"calibrate": {}},
    ],
}
EXPECTED_RUNTIMES = {
    name: ["onnxruntime", "openvino"]
    if name in ("static", "dynamic", "qat", "static-calibrated")
    else ["eager", "compiled", "onnxruntime", "openvino"]
    for name in WAYS
}


@pytest.fixture(scope="module")
def root(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained project in which each way has been gone once."""
    root = tmp_path_factory.mktemp("ways")
    shutil.copytree(trained / "models", root / "models")
    (root / "data").symlink_to(trained / "data")
    for name in WAYS:
        make(root, name, small_params(**WAYS))
    return root


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """A trained project whose models a test may add to."""
    shutil.copytree(trained / "models", tmp_path / "models")
    (tmp_path / "data").symlink_to(trained / "data")
    return tmp_path


def make(root: Path, name: str, params: Params) -> tuple[ModelCard, list[str]]:
    """A variant's model.json and the lines that were logged."""
    lines: list[str] = []
    card = compress(root, params, name, log=lines.append, progress=lambda share, words: None)
    return card, lines


def params_with(**compression: Any) -> Params:
    """What tests train with, and these keys of `compress`."""
    document = small_params().model_dump(mode="json", by_alias=True, exclude_unset=True)
    document["compress"] |= compression
    return parse_params(document, where="params.yaml")


def val_of(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and class ids of val."""
    shape = ModelCard.read(root / "models/base/model.json").input_shape
    val = open_split(root, "val", input_shape=shape, loading=small_params().loading)
    return to_input(val.take(np.arange(len(val)))), val.targets_N


def resnet(seed: int = 0) -> nn.Module:
    """An untrained resnet20 for 32 px with used batch statistics."""
    torch.manual_seed(seed)
    model = build_model(
        Architecture(name="resnet20", arguments={"width": 1.0}),
        input_shape=(3, 32, 32),
        num_classes=10,
        mean=[0.5] * 3,
        std=[0.3] * 3,
    )
    model(torch.rand(8, 3, 32, 32))
    return model.eval()


# Every method --------------------------------------------------------------------------------


def test_every_method_and_mode_is_gone_through_here() -> None:
    """The ways above use all of METHODS and QUANTIZERS."""
    steps = [step for chain in WAYS.values() for step in chain]
    elsewhere = {"ensemble"}  # tests/test_ensemble.py
    assert {name for step in steps for name in step} | elsewhere == set(METHODS)
    assert {step["quantize"]["mode"] for step in steps if "quantize" in step} == set(QUANTIZERS)


@pytest.mark.parametrize("way", WAYS)
def test_a_variant_still_tells_easy_classes_apart(way: str, root: Path) -> None:
    """Whatever was done, three classes of different brightness are told apart on val."""
    images, targets = val_of(root)
    predict = open_variant(root / "models" / way, threads=1)
    assert (predict(images).argmax(1) == targets).mean() >= 0.9


@pytest.mark.parametrize("way", WAYS)
def test_a_variant_says_the_same_in_each_of_its_runtimes(way: str, root: Path) -> None:
    """Runtimes agree on the class of every image of val, in batches and one by one."""
    images, _ = val_of(root)
    card = ModelCard.read(root / "models" / way / "model.json")
    assert runtimes_of(card) == EXPECTED_RUNTIMES[way]
    names = [name for name in runtimes_of(card) if name != "compiled"]  # tens of seconds each
    chosen = {
        name: open_variant(root / "models" / way, threads=1, runtime=name)(images).argmax(1)
        for name in names
    }
    first = chosen.pop(names[0])
    assert {name: (first == other).mean() for name, other in chosen.items()} == dict.fromkeys(
        chosen, 1.0
    )
    predict = open_variant(root / "models" / way, threads=1)
    assert predict(images[:1]).argmax(1) == first[:1]


@pytest.mark.parametrize("way", [way for way in WAYS if "eager" in EXPECTED_RUNTIMES[way]])
def test_a_float_variant_is_rebuilt_from_its_folder(way: str, root: Path) -> None:
    """model.json and tensor shapes are all it takes; parameters are those on record."""
    model, card = load_model(root / "models" / way)
    assert count_parameters(model) == card.num_parameters


# Single weights ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["zeros", "rising"])
def test_pruned_weights_are_zero_and_stay_zero_in_training(way: str, root: Path) -> None:
    """After fine-tuning the share of zeros is still the one asked for."""
    zeros, total = count_zeros(load_model(root / "models" / way)[0])
    assert zeros == pytest.approx(0.3 * total, abs=1)


def test_the_smallest_weights_of_all_layers_go() -> None:
    """Every weight that goes is smaller than every one that stays."""
    model = resnet()
    masks = least_weights(model, 0.4)
    gone, kept = [], []
    for name, mask in masks.items():
        weight = model.get_submodule(name).weight.detach().abs()
        gone.append(weight[mask == 0])
        kept.append(weight[mask == 1])
    assert torch.cat(gone).max() <= torch.cat(kept).min()


def test_a_gradual_share_rises_to_the_one_asked_for() -> None:
    """By the cubic law most goes early, and the last epoch has all of it."""
    assert rising_shares(0.8, 4) == pytest.approx([0.4625, 0.7, 0.7875, 0.8])


def test_a_net_without_zeros_is_not_masked() -> None:
    """Fine-tuning a dense net is left as it was."""
    assert zeros_of(resnet()) == {}


def test_masks_leave_a_plain_net_behind() -> None:
    """Names and shapes of the stored tensors are the same before and after."""
    model = resnet()
    before = {name: value.shape for name, value in model.state_dict().items()}
    with masked(model, least_weights(model, 0.5)):
        assert model.state_dict().keys() != before.keys()
    assert {name: value.shape for name, value in model.state_dict().items()} == before


# Rounding ------------------------------------------------------------------------------------


def test_rounding_a_weight_moves_it_by_half_a_step_at_most() -> None:
    """A step is a 127th of the largest weight of its output channel."""
    weight = torch.randn(4, 3, 3, 3) * torch.tensor([1.0, 10.0, 0.1, 5.0]).view(4, 1, 1, 1)
    steps = weight.abs().flatten(1).amax(1) / 127
    moved = (RoundedWeight()(weight) - weight).abs().flatten(1).amax(1)
    assert bool((moved <= steps / 2 * 1.0001).all())


def test_rounding_lets_gradients_through() -> None:
    """The net learns as if nothing had been rounded."""
    model = resnet().train()
    with rounded(model):
        model(torch.rand(2, 3, 32, 32)).sum().backward()
        first = model[1].convolution.parametrizations.weight.original
        assert first.grad is not None and bool(first.grad.abs().sum() > 0)


def test_rounding_leaves_a_float_net_behind() -> None:
    """Without training the net is the same afterwards, bit by bit."""
    model, images = resnet(), torch.rand(2, 3, 32, 32)
    before = model(images)
    with rounded(model):
        assert not torch.equal(model(images), before)
    assert torch.equal(model(images), before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "static"},
        {"mode": "dynamic", "calibration_images": 8},
        {"mode": "static", "calibration_images": 8, "epochs": 1},
        {"mode": "qat", "calibration_images": 8},
    ],
)
def test_a_mode_takes_its_own_keys(wrong: dict[str, Any]) -> None:
    """What a mode does not use is refused, and so is what it misses."""
    with pytest.raises(ValidationError, match="takes"):
        QuantizeParams.model_validate(wrong)


# Low rank, bfloat16, features ----------------------------------------------------------------


def test_a_split_net_is_rebuilt_from_the_shapes_of_its_tensors() -> None:
    """A net built whole and fitted to the stored shapes computes the same, bit by bit."""
    model, images = resnet(), torch.rand(2, 3, 32, 32)
    assert split_layers(model, ratio=0.5) > 0
    stored = model.state_dict()
    rebuilt = resnet(1)
    fit_to_shapes(rebuilt, {name: value.shape for name, value in stored.items()})
    rebuilt.load_state_dict(stored)
    assert torch.equal(rebuilt(images), model(images))


def test_a_layer_of_low_rank_is_split_without_loss() -> None:
    """Where the singular vectors left out are none, the two layers say what the one said."""
    layer = nn.Conv2d(16, 32, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_((torch.randn(32, 4) @ torch.randn(4, 144)).view(32, 16, 3, 3))
    model, images = (
        nn.Sequential(layer, nn.Flatten(), nn.Linear(32 * 64, 3)),
        torch.rand(2, 16, 8, 8),
    )
    expected = model(images)
    assert split_layers(model, ratio=0.5) == 1
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_halves_both_files(root: Path) -> None:
    """Weights and graph have little more than half the bytes of the base's."""
    for file in ("model.safetensors", "model.onnx"):
        before, after = (
            (root / "models" / name / file).stat().st_size for name in ("base", "bfloat16")
        )
        assert after < 0.65 * before


def test_bfloat16_is_on_record(root: Path) -> None:
    """model.json tells runtimes to compute in it."""
    assert ModelCard.read(root / "models/bfloat16/model.json").bfloat16


def test_likeness_does_not_depend_on_width_or_scale() -> None:
    """Features that tell images apart in the same way are equal to it, others are not."""
    features = torch.randn(6, 8)
    turned = 3 * features @ torch.linalg.qr(torch.randn(16, 8))[0].T
    torch.testing.assert_close(unlikeness(turned, features), torch.zeros(6), atol=1e-5, rtol=0)
    assert bool((unlikeness(torch.randn(6, 8), features) > 0.01).all())


# Exports -------------------------------------------------------------------------------------


def test_every_export_is_checked_and_on_record(project: Path) -> None:
    """A float variant has all forms, each with its difference and accuracy, and their digests."""
    params = params_with(exports=list(EXPORTS), variants={"prune": WAYS["prune"][:1]})
    card, lines = make(project, "prune", params)
    assert card.exports.keys() == EXPORTS.keys()
    assert all(check.max_difference < 1e-3 for check in card.exports.values())
    assert {file for export in EXPORTS.values() for file in export.files} <= card.files.keys()
    assert all(any(line.startswith(f"export {name}:") for line in lines) for name in EXPORTS)


def test_an_int8_variant_has_the_exports_that_can_hold_it(project: Path) -> None:
    """torch.export starts from the eager net, which an INT8 graph is not."""
    params = params_with(exports=list(EXPORTS), variants={"int8": WAYS["static"]})
    card, _ = make(project, "int8", params)
    assert card.exports.keys() == {"openvino"}


def test_an_export_that_says_something_else_is_refused(project: Path) -> None:
    """A form that differs by more than float32 explains is not published."""
    from imagemill.compress.bench import Bench

    bench = Bench(project, small_params(), lambda line: None, lambda *told: None)
    believed = open_variant(project / "models/base", threads=1)
    checker = Checker(bench, believed, exact=True)
    with pytest.raises(IntegrityError, match="export other differs"):
        checker.check("export other", lambda images: believed(images) * 1.01)


# Runtimes ------------------------------------------------------------------------------------


def figures(**told: tuple[float, float]) -> dict[str, RuntimeFigures]:
    """Runtime -> (latency in ms, top-1)."""
    return {
        name: RuntimeFigures(latency_ms_p50=latency, val_top1=top1, max_difference=0.0)
        for name, (latency, top1) in told.items()
    }


def test_the_fastest_runtime_is_chosen() -> None:
    """The one with the least latency ships."""
    assert (
        fastest(figures(eager=(3.0, 0.9), onnxruntime=(0.5, 0.9), openvino=(0.4, 0.9)))
        == "openvino"
    )


def test_a_tie_goes_to_the_runtime_named_first() -> None:
    """Less than five percent apart is noise: the choice stays the same from run to run."""
    assert fastest(figures(onnxruntime=(0.41, 0.9), openvino=(0.40, 0.9))) == "onnxruntime"


def test_a_fast_runtime_that_loses_accuracy_is_not_chosen() -> None:
    """Half a point of val is more than rounding may cost."""
    assert fastest(figures(onnxruntime=(0.5, 0.9), openvino=(0.1, 0.89))) == "onnxruntime"


def test_auto_measures_the_candidates_and_keeps_the_table(project: Path) -> None:
    """model.json has latency and accuracy of each, and the variant ships in the one chosen."""
    names = ["openvino", "onnxruntime", "eager"]
    params = params_with(runtime="auto", candidates=names, variants={"prune": WAYS["prune"][:1]})
    card, lines = make(project, "prune", params)
    assert card.runtimes.keys() == set(names)
    assert card.runtime == fastest({name: card.runtimes[name] for name in names})
    assert all(any(line.startswith(f"runtime {name}:") for line in lines) for name in names)


def test_auto_leaves_out_runtimes_that_cannot_open_a_variant(project: Path) -> None:
    """An INT8 graph has no eager form."""
    params = params_with(runtime="auto", variants={"int8": WAYS["static"]})
    card, _ = make(project, "int8", params)
    assert card.runtimes.keys() == {"onnxruntime", "openvino"}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"runtime": "openvno"}, "openvino"),
        ({"candidates": ["eagre"]}, "eager"),
        ({"exports": ["openvin"]}, "openvino"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(
    wrong: dict[str, Any], right: str, project: Path
) -> None:
    """Runtimes, candidates and exports are checked before anything is made."""
    with pytest.raises(UnknownNameError, match=f"did you mean '{right}'"):
        make(project, "int8", params_with(**wrong, variants={"int8": WAYS["static"]}))


def test_openvino_opens_no_connection(root: Path) -> None:
    """Its import reports to its vendor; opening, running and exporting a variant does not."""
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "def look(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'):\n"
        "        print('CONNECTS', args); raise OSError('refused')\n"
        "sys.addaudithook(look)\n"
        "from imagemill.compress.exports import EXPORTS\n"
        "from imagemill.runtimes import open_variant\n"
        "predict = open_variant(Path(sys.argv[1]), threads=1, runtime='openvino')\n"
        "predict(np.zeros((1, 1, 12, 12), np.float32))\n"
        "EXPORTS['openvino'].write(Path(sys.argv[1]))\n"
    )
    folder = shutil.copytree(root / "models/static", root / "copy")
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True
    )
    assert "CONNECTS" not in done.stdout


# Calibration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "before"), [("calibrated", "base"), ("static-calibrated", "static")]
)
def test_calibration_divides_all_logits_by_one_number(way: str, before: str, root: Path) -> None:
    """Classes stay, the number is on record, and nothing on val fits better."""
    images, targets = val_of(root)
    plain, scaled = (
        open_variant(root / "models" / name, threads=1)(images) for name in (before, way)
    )
    card = ModelCard.read(root / "models" / way / "model.json")
    assert card.temperature is not None
    np.testing.assert_allclose(scaled * card.temperature, plain, rtol=1e-3, atol=1e-3)
    again = fitted_temperature(softmax(scaled), targets)
    # At the ends of its range (1/20, where val is told apart entirely) it would go further.
    assert again == pytest.approx(1.0, rel=1e-2) or card.temperature < 0.051


def test_one_odd_image_does_not_stretch_the_ranges(root: Path, tmp_path: Path) -> None:
    """A flash that is a hundred times too bright would leave all others few steps of 256."""
    images, _ = val_of(root)
    calibration = np.concatenate([images] * 40)
    calibration[0] *= 100
    (tmp_path / "work").mkdir()
    graph = shutil.copy(root / "models/base/model.onnx", tmp_path / "work/model.onnx")
    told = quantize_statically(graph, tmp_path / "int8.onnx", calibration, images)
    assert told.startswith("ranges by mean extremes")
    wanted, answers = (
        softmax(open_session(path.read_bytes(), threads=1)(images))
        for path in (graph, tmp_path / "int8.onnx")
    )
    stretched = open_session((tmp_path / "work/extremes.onnx").read_bytes(), threads=1)(images)
    assert divergence(wanted, answers) < divergence(wanted, softmax(stretched)) / 2


@pytest.mark.parametrize(("sign", "norms"), [(1.0, 0), (-1.0, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_behind_a_pool_becomes_part_of_the_convolution(
    sign: float, norms: int, bias: bool, tmp_path: Path
) -> None:
    """Unless it turns the sign of a channel: then the least value would be the largest."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=bias),
        nn.MaxPool2d(2),
        norm,
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(36, 5),
    )
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 2.0, 1.0, sign]))
        for values in (norm.bias, norm.running_mean):
            values.normal_()
        norm.running_var.uniform_(0.5, 2)
    path = tmp_path / "model.onnx"
    export_onnx(net.eval(), (3, 8, 8), path)
    model = onnx.load(path)
    graph = model.graph
    assert fold_norms(graph) == 1 - norms
    onnx.save(model, path)
    assert [node.op_type for node in graph.node].count("BatchNormalization") == norms
    read = {name for node in graph.node for name in node.input}
    assert {stored.name for stored in graph.initializer} <= read
    images = np.random.default_rng(0).random((6, 3, 8, 8), dtype=np.float32)
    assert check_export(net, path, [images]) < 1e-5


def test_what_looks_at_the_image_may_stay_in_float32(root: Path, tmp_path: Path) -> None:
    """All up to the first convolution and itself; a net that has no other keeps nothing back."""
    graph = onnx.load(root / "models/base/model.onnx")
    kinds = {node.name: node.op_type for node in graph.graph.node}
    first = up_to_first_convolution(root / "models/base/model.onnx")
    assert [kinds[name] for name in first].count("Conv") == 1
    assert kinds[first[-1]] == "Conv"
    export_onnx(nn.Sequential(nn.Conv2d(1, 2, 3)).eval(), (1, 8, 8), tmp_path / "one.onnx")
    assert up_to_first_convolution(tmp_path / "one.onnx") == []


@pytest.mark.parametrize(("near", "ways"), [(1e9, 2), (0.0, 4)])
def test_a_slower_first_layer_is_tried_where_int8_is_not_near_enough(
    near: float, ways: int, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near enough is near enough; otherwise the nearest of all stays."""
    monkeypatch.setattr("imagemill.compress.quantize_static._NEAR", near)
    images, _ = val_of(root)
    graph = shutil.copy(root / "models/base/model.onnx", tmp_path / "model.onnx")
    told = quantize_statically(graph, tmp_path / "int8.onnx", images, images)
    best, _, rest = told.removeprefix("ranges by ").partition(" (divergence from float32: ")
    made = dict(way.rsplit(" ", 1) for way in rest.removesuffix(")").split("; "))
    assert len(made) == ways
    assert float(made[best]) == min(map(float, made.values()))


def test_divergence_is_that_of_kullback_and_leibler() -> None:
    """Nothing between equals, ln 2 from a coin to one side, and finite where nothing is left."""
    coin, side = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    assert divergence(coin, coin) == 0
    assert divergence(side, coin) == pytest.approx(np.log(2))
    assert np.isfinite(divergence(coin, side))


def test_calibration_may_follow_quantization_alone() -> None:
    """Other steps after an INT8 graph have no weights to work on."""
    with pytest.raises(ParamsError, match="quantize must be the last step"):
        small_params(
            wrong=[
                {"quantize": {"mode": "dynamic"}},
                {"finetune": {"epochs": 1, "learning_rate": 0.01}},
            ]
        )


# Training in another way than the base ------------------------------------------------------


def test_a_step_trains_with_its_own_optimiser(project: Path) -> None:
    """Other settings of a step give another net; those that change nothing give the same one."""
    same = {**_TRAINED, "train": {"optimizer": small_params().train.optimizer}}
    other = {**_TRAINED, "train": {"optimizer": "muon", "batch_size": 16}}
    params = small_params(
        plain=[{"finetune": _TRAINED}], same=[{"finetune": same}], other=[{"finetune": other}]
    )
    plain, again, changed = (
        make(project, name, params)[0].files["model.safetensors"] for name in params.variants[1:]
    )
    assert plain == again != changed


# What chains share ---------------------------------------------------------------------------

_TUNED: Chain = [{"prune": {"ratio": 0.5}}, {"finetune": _TRAINED}]
_SHARING = {
    "first": _TUNED,
    "second": [*_TUNED, {"quantize": {"mode": "static", "calibration_images": 16}}],
}


def steps_run(root: Path, name: str, params: Params) -> list[str]:
    """Names of the steps that were really gone."""
    run: list[str] = []

    def noted(function: Any, /, *args: Any, **kwargs: Any) -> Any:
        run.append(function.__name__)
        return function(*args, **kwargs)

    compress(root, params, name, log=print, progress=lambda share, words: None, step=noted)
    return run


def test_what_two_chains_begin_with_is_gone_once(project: Path) -> None:
    """The second variant starts where the first one's float net ended, and is the same as ever."""
    params = small_params(**_SHARING)
    assert steps_run(project, "second", small_params(second=_SHARING["second"])) == [
        "prune",
        "finetune",
        "quantize",
        "publish",
    ]
    alone = ModelCard.read(project / "models/second/model.json").sha256
    assert steps_run(project, "first", params) == ["prune", "finetune", "publish"]
    assert steps_run(project, "second", params) == ["quantize", "publish"]
    assert ModelCard.read(project / "models/second/model.json").sha256 == alone


def test_shared_steps_are_of_this_base_and_these_settings(project: Path) -> None:
    """Another learning rate of training, or damage, and they are gone again; leftovers go."""
    params = small_params(**_SHARING)
    steps_run(project, "first", params)
    kept = project / ".imagemill/compress-shared"
    assert len(list(kept.iterdir())) == 2
    for folder in kept.iterdir():
        (folder / "model.safetensors").write_bytes(b"damage")
    assert steps_run(project, "second", params) == ["prune", "finetune", "quantize", "publish"]
    train = params.train.model_copy(update={"momentum": 0.5})
    changed = params.model_copy(update={"train": train})
    assert steps_run(project, "second", changed)[:2] == ["prune", "finetune"]
    assert len(list(kept.iterdir())) == 2
