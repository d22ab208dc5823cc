"""Facts about ensembles of registered models."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from registered_project import NAME, Registered
from torch import nn
from trained_project import small_params

from imagemill.compress import compress
from imagemill.compress.ensemble import check_member
from imagemill.errors import IntegrityError, ParamsError, UnknownNameError
from imagemill.loading import open_split, to_input
from imagemill.metrics import softmax
from imagemill.models import load_model
from imagemill.models.ensemble import Ensemble
from imagemill.params import Params
from imagemill.records import ModelCard
from imagemill.runtimes import open_variant, runtimes_of
from imagemill.tracking.members import find_members

OTHER = f"models:/{NAME}/2"
_STUDENT = {
    "student": "fast_mnist",
    "width": 0.5,
    "epochs": 4,
    "learning_rate": 0.1,
    "temperature": 4,
    "alpha": 0.7,
}
CHAINS: dict[str, list[dict[str, Any]]] = {
    "other": [{"distil": _STUDENT}],
    "both": [{"ensemble": {"members": [OTHER]}}],
    "both-int8": [
        {"ensemble": {"members": [OTHER]}},
        {"quantize": {"mode": "static", "calibration_images": 16}},
    ],
    "pupil": [{"ensemble": {"members": [OTHER]}}, {"distil": _STUDENT}],
}


@pytest.fixture(scope="module")
def root(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained project with a student, and the ensemble of base and student in three forms."""
    root = tmp_path_factory.mktemp("ensembles")
    shutil.copytree(trained / "models", root / "models")
    (root / "data").symlink_to(trained / "data")
    members = {OTHER: (root / "models/other", 2)}
    for name in CHAINS:
        compress(
            root,
            small_params(**CHAINS),
            name,
            log=print,
            progress=lambda share, words: None,
            members=members,
        )
    return root


def val_of(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and class ids of val."""
    shape = card_of(root, "base").input_shape
    val = open_split(root, "val", input_shape=shape, loading=small_params().loading)
    return to_input(val.take(np.arange(len(val)))), val.targets_N


def card_of(root: Path, variant: str) -> ModelCard:
    """Its model.json."""
    return ModelCard.read(root / "models" / variant / "model.json")


def test_probabilities_are_the_mean_of_the_members() -> None:
    """Also where one is certain: no logarithm of zero."""
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(12, 3)) for _ in range(3)]
    images = 50 * torch.rand(4, 3, 2, 2)
    expected = torch.stack([member(images).softmax(1) for member in members]).mean(0)
    torch.testing.assert_close(Ensemble(members)(images).softmax(1), expected)


def test_an_ensemble_is_a_variant_of_its_own(root: Path) -> None:
    """It answers with the mean in every runtime, and says what it is made of."""
    images, _ = val_of(root)
    base, other = (
        softmax(open_variant(root / "models" / name, threads=1, runtime="eager")(images))
        for name in ("base", "other")
    )
    card = card_of(root, "both")
    assert set(runtimes_of(card)) >= {"eager", "onnxruntime", "openvino"}
    for runtime in ("eager", "onnxruntime", "openvino"):
        logits = open_variant(root / "models/both", threads=1, runtime=runtime)(images)
        np.testing.assert_allclose(softmax(logits), (base + other) / 2, atol=1e-5)
    weights = card_of(root, "other").files["model.safetensors"]
    told = [(member.name, member.version, member.sha256) for member in card.members]
    assert told == [(OTHER, 2, weights)]
    parts = [card_of(root, name).num_parameters or 0 for name in ("both", "other")]
    model, _ = load_model(root / "models/base")
    assert parts[0] == parts[1] + sum(values.numel() for values in model.parameters())


def test_an_ensemble_is_quantized_and_distilled_from_like_any_net(root: Path) -> None:
    """Its INT8 graph and its pupil tell three classes of different brightness apart."""
    images, targets = val_of(root)
    for name in ("both-int8", "pupil"):
        predict = open_variant(root / "models" / name, threads=1)
        assert (predict(images).argmax(1) == targets).mean() >= 0.9
    assert card_of(root, "both-int8").architecture.name == "ensemble"
    assert card_of(root, "pupil").architecture.name == "fast_mnist"


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"classes": ["a", "b", "c"]}, ParamsError, "expected classes"),
        ({"input_shape": (1, 9, 9)}, ParamsError, "expected images of shape"),
        ({"resize": "linear"}, ParamsError, "expected resize antialias, got linear"),
        ({"files": {"model.onnx": "0"}}, ParamsError, "has no float weights"),
        ({"data_digest": "e" * 64}, IntegrityError, "may know images of val and test"),
    ],
)
def test_a_member_that_does_not_fit_is_refused(
    changed: dict[str, Any], error: type[Exception], words: str, root: Path
) -> None:
    """The message says what was expected of which member."""
    card = card_of(root, "base")
    check_member("m", card, card)
    with pytest.raises(error, match=words):
        check_member("m", card, card.model_copy(update=changed))


def test_an_ensemble_comes_first(root: Path) -> None:
    """Nothing can be done to a net before others join it: they would be of another kind."""
    with pytest.raises(ParamsError, match="ensemble must come first"):
        small_params(wrong=[{"calibrate": {}}, {"ensemble": {"members": [OTHER]}}])
    with pytest.raises(ParamsError, match="models:/"):
        small_params(wrong=[{"ensemble": {"members": ["int8"]}}])


def test_an_ensemble_is_not_pruned(root: Path) -> None:
    """Its members' layers are not tied to each other; the message says what to do instead."""
    joined = {"ensemble": {"members": [OTHER]}}
    params = small_params(thin=[joined, {"prune": {"ratio": 0.5}}])
    members = {OTHER: (root / "models/other", 2)}
    with pytest.raises(ParamsError, match="distil from it, or prune its members"):
        compress(
            root, params, "thin", log=print, progress=lambda share, words: None, members=members
        )
    assert not (root / "models/thin").exists()


def test_members_are_found_in_the_registry(tmp_path: Path, empty_store: Path) -> None:
    """By number and by alias, as folders whose bytes were checked; others are refused by name."""
    project = Registered(tmp_path, empty_store)

    def found(*members: str) -> dict[str, tuple[Path, int]]:
        params: Params = small_params(both=[{"ensemble": {"members": list(members)}}])
        chain = params.compress.variants["both"]
        return find_members(project.root, project.params.register_, chain)

    champion = f"models:/{NAME}@champion"
    assert {name: version for name, (_, version) in found(OTHER, champion).items()} == {
        OTHER: 2,
        champion: 4,
    }
    folder, _ = found(OTHER)[OTHER]
    assert (folder / "model.json").is_file()
    with pytest.raises(UnknownNameError, match="champion"):
        found(f"models:/{NAME}@champoin")
    with pytest.raises(IntegrityError, match=r"ensemble.members: .* no version 9"):
        found(f"models:/{NAME}/9")
    with pytest.raises(ParamsError, match=r"ensemble.members: expected models:/NAME@ALIAS"):
        found(f"models:/{NAME}")
