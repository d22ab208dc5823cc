"""Facts about ensembles on their way through the registry and the other stages."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trained_project import Recorder, small_params

from imagemill.compress import compress
from imagemill.errors import ParamsError
from imagemill.evaluate import evaluate
from imagemill.models import load_model
from imagemill.models.parts import linear_head_of
from imagemill.params import Params, parse_params
from imagemill.records import ModelCard
from imagemill.runtimes import open_variant
from imagemill.tracking import register
from pipelines.compress import compress as compress_flow

PRUNE: list[dict[str, Any]] = [{"prune": {"ratio": 0.5}}]


def params_with(**variants: list[dict[str, Any]]) -> Params:
    """Small params with these variants and a registered model of our own."""
    document = small_params(**variants).model_dump(mode="json", by_alias=True, exclude_unset=True)
    document["register"]["model_name"] = "ours"
    return parse_params(document, where="params.yaml")


def with_ensemble(*steps: dict[str, Any], member: str = "models:/ours/2") -> Params:
    """The same, with an ensemble of the base and a registered model, and steps behind it."""
    return params_with(both=[{"ensemble": {"members": [member]}}, *steps])


@pytest.fixture(scope="module")
def registered(trained: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose base and pruned variant are versions 1 and 2 in a real MLflow store."""
    root = tmp_path_factory.mktemp("registered")
    shutil.copytree(trained / "models", root / "models")
    (root / "data").symlink_to(trained / "data")
    shutil.copy(empty_store, root / "mlflow.db")
    params = params_with(pruned=PRUNE)
    compress(root, params, "pruned", log=print, progress=lambda *told: None)
    evaluate(root, params, log=print)
    register(root, params, log=print)
    return root


@pytest.fixture(scope="module")
def joined(registered: Path) -> ModelCard:
    """The ensemble that the flow makes of the base and version 2."""
    compress_flow(registered, with_ensemble(), Recorder(), "both")
    return ModelCard.read(registered / "models/both/model.json")


def test_the_flow_takes_members_from_the_registry(registered: Path, joined: ModelCard) -> None:
    """What is on record is the version, and the weights that were registered."""
    pruned = ModelCard.read(registered / "models/pruned/model.json")
    (member,) = joined.members
    assert (member.name, member.version) == ("models:/ours/2", 2)
    assert member.sha256 == pruned.files["model.safetensors"]
    assert [list(step) for step in joined.steps] == [["ensemble"]]
    # Of two nets of one architecture the tensors tell which of them is narrower.
    model, _ = load_model(registered / "models/both")
    first, second = (model.get_submodule(f"0.members.{number}.1.convolution1") for number in (0, 1))
    assert (first.out_channels, second.out_channels) == (32, 16)


def test_an_ensemble_is_evaluated_and_registered(registered: Path, joined: ModelCard) -> None:
    """It becomes a version of its own, beside those it is made of."""
    params = with_ensemble()
    found = {
        evaluation.variant: evaluation for evaluation in evaluate(registered, params, log=print)
    }
    assert found["both"].num_parameters == joined.num_parameters
    assert found["both"].top1 >= 0.9
    register(registered, params, log=print)
    registration = (registered / "reports/register.json").read_text()
    assert f'"sha256": "{joined.sha256}"' in registration
    # Once registered, it can be a member itself.
    compress_flow(registered, with_ensemble(member="models:/ours@champion"), Recorder(), "both")
    nested = ModelCard.read(registered / "models/both/model.json")
    images = np.zeros((2, *nested.input_shape), np.float32)
    assert open_variant(registered / "models/both", threads=1)(images).shape == (2, 3)


def test_features_are_not_taken_from_one_member(registered: Path, joined: ModelCard) -> None:
    """An ensemble has a head a member: what asks for the head is told so."""
    model, _ = load_model(registered / "models/both")
    with pytest.raises(ParamsError, match="a head for each of its members"):
        linear_head_of(model)
    pupil = {"student": "fast_mnist", "width": 0.5, "epochs": 1, "learning_rate": 0.1}
    guide = {"temperature": 4, "alpha": 0.7, "features": 1.0}
    with pytest.raises(ParamsError, match="a head for each of its members"):
        compress_flow(registered, with_ensemble({"distil": pupil | guide}), Recorder(), "both")
