"""Facts about params.yaml: what is accepted, and what is said about mistakes."""

from pathlib import Path
from typing import Any

import pytest

from imagemill.errors import ParamsError
from imagemill.params import OwnTrainParams, Params, parse_params, read_params, read_yaml
from imagemill.params.reading import _innermost_model

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPES = sorted((REPOSITORY / "recipes").glob("*.yaml"))


def shipped() -> dict[str, Any]:
    return read_yaml(REPOSITORY / "params.yaml")


def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(ParamsError) as told:
        parse_params(document, where="params.yaml")
    return str(told.value)


def test_shipped_params_are_the_digits_recipe() -> None:
    """params.yaml as it comes is recipes/digits.yaml, to the byte."""
    recipe = REPOSITORY / "recipes/digits.yaml"
    assert (REPOSITORY / "params.yaml").read_bytes() == recipe.read_bytes()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_complete_and_introduced(recipe: Path) -> None:
    """Each recipe parses, and its head says command, cost and what to expect."""
    parse_params(read_yaml(recipe), where=recipe.name)
    head = recipe.read_text(encoding="utf-8").partition("\ningest:")[0]
    assert head.startswith("# make run")
    assert "Cost:" in head
    assert "xpect" in head


def test_every_knob_has_a_sentence() -> None:
    """Each field of each section has a description."""
    for section in Params.model_fields.values():
        fields = _innermost_model(section.annotation).model_fields
        assert [name for name, field in fields.items() if not field.description] == []


def test_an_unknown_key_names_the_nearest() -> None:
    """A misspelt key is told with its place and the right one."""
    document = shipped()
    document["train"]["epoch"] = 3
    assert refusal(document) == ("params.yaml: unknown key 'train.epoch'; did you mean 'epochs'?")


def test_an_unknown_key_deep_inside_names_the_nearest() -> None:
    """Steps of a variant are checked like everything else."""
    document = shipped()
    document["compress"]["variants"]["int8"] = [{"quantise": {"mode": "static"}}]
    assert "did you mean 'quantize'?" in refusal(document)


def test_a_missing_key_is_named() -> None:
    """A knob that is left out has no silent default."""
    document = shipped()
    del document["shard"]["max_images"]
    assert refusal(document) == "params.yaml: 'shard.max_images' is missing"


def test_a_wrong_type_says_what_came() -> None:
    """The message holds the place, what was expected and what came."""
    document = shipped()
    document["train"]["epochs"] = "many"
    message = refusal(document)
    assert "train.epochs: input should be a valid integer" in message
    assert "got 'many'" in message


def test_all_mistakes_are_told_at_once() -> None:
    """Two mistakes, two sentences."""
    document = shipped()
    document["train"]["epochs"] = 0
    document["split"]["val_ratio"] = 2
    message = refusal(document)
    assert "train.epochs" in message
    assert "split.val_ratio" in message


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("split", {"val_ratio": 0.6, "test_ratio": 0.5}, "nothing is left to train on"),
        ("train", {"batch_size": 33, "processes": 2}, "multiple of processes"),
        ("train", {"processes": 2}, "strategy single is one process"),
        ("train", {"asynchronous": {"max_staleness": 1}}, "belongs to strategy parameter_server"),
        (
            "train",
            {
                "strategy": "parameter_server",
                "asynchronous": {"max_staleness": None},
                "synchronise_norms": True,
            },
            "processes that wait for each other",
        ),
        ("train", {"strategy": "fsdp", "precision": "float16"}, "use bfloat16, or strategy ddp"),
        (
            "train",
            {"strategy": "parameter_server", "precision": "float16"},
            "use bfloat16, or strategy ddp",
        ),
        (
            "train",
            {
                "strategy": "ddp",
                "launcher": "ray",
                "nodes": {
                    "minimum": 1,
                    "maximum": 2,
                    "rendezvous": "first:29400",
                    "wait_seconds": 30,
                },
            },
            "leave nodes out",
        ),
        (
            "train",
            {
                "strategy": "ddp",
                "nodes": {
                    "minimum": 3,
                    "maximum": 2,
                    "rendezvous": "first:29400",
                    "wait_seconds": 30,
                },
            },
            "minimum (3) is above maximum (2)",
        ),
        ("train", {"loss": "mse"}, "label_smoothing belongs to cross_entropy"),
        ("augment", {"copies": 1, "offline": []}, "at least one operation"),
    ],
)
def test_rules_between_knobs(section: str, changes: dict[str, Any], words: str) -> None:
    """Values that do not fit together are refused with the rule."""
    document = shipped()
    document[section] |= changes
    assert words in refusal(document)


@pytest.mark.parametrize(
    ("name", "chain", "words"),
    [
        ("base", [{"quantize": {"mode": "static", "calibration_images": 8}}], "cannot be called"),
        ("empty", [], "has no step"),
        (
            "order",
            [
                {"quantize": {"mode": "static", "calibration_images": 8}},
                {"finetune": {"epochs": 1, "learning_rate": 0.1}},
            ],
            "quantize must be the last",
        ),
        (
            "kept",
            [{"prune": {"structure": "weights", "ratio": 0.5, "keep": ["*.head"]}}],
            "keep belongs to structure: channels",
        ),
        (
            "two",
            [{"prune": {"ratio": 0.5}, "finetune": {"epochs": 1, "learning_rate": 0.1}}],
            "one method",
        ),
    ],
)
def test_chains_must_make_sense(name: str, chain: list[Any], words: str) -> None:
    """A variant's chain follows the rules of its steps."""
    document = shipped()
    document["compress"]["variants"] = {name: chain}
    assert words in refusal(document)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"optimizer": "adagrad"}, "compress.variants.student.0.distil.train: optimizer"),
        ({"momentum": 1.5}, "momentum: input should be less than 1, got 1.5"),
        ({"schedule": "step"}, "milestones belong to schedule"),
        ({"epochs": 3}, "unknown key 'compress.variants.student.0.distil.train.epochs'"),
    ],
)
def test_what_a_step_trains_with_follows_the_rules_of_train(
    own: dict[str, Any], words: str
) -> None:
    """Keys that a step sets anew are checked as those of train, and the step is named."""
    document = shipped()
    step = {
        "student": "fast_mnist",
        "width": 0.5,
        "epochs": 1,
        "learning_rate": 0.1,
        "temperature": 4,
        "alpha": 0.5,
        "train": own,
    }
    document["compress"]["variants"] = {"student": [{"distil": step}]}
    assert words in refusal(document)


def test_a_step_changes_what_it_names_alone() -> None:
    """The rest stays as in train, and null takes a key away."""
    train = parse_params(shipped(), where="params.yaml").train
    train = train.model_copy(update={"clip_norm": 1.0})
    own = OwnTrainParams.model_validate({"optimizer": "muon", "clip_norm": None})
    changed = train.changed(own)
    assert (changed.optimizer, changed.clip_norm) == ("muon", None)
    assert changed.model_copy(update={"optimizer": train.optimizer, "clip_norm": 1.0}) == train
    assert train.changed(None) is train


def test_no_params_file_says_where_to_stand(tmp_path: Path) -> None:
    """Outside a project the error says so."""
    with pytest.raises(ParamsError, match="run from the project's root"):
        read_params(tmp_path)


@pytest.mark.parametrize("text", ["a: [1", "- just\n- a list", "\x00"])
def test_what_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    """Broken YAML and lists are one clear sentence."""
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=r"params\.yaml") as told:
        read_params(tmp_path)
    assert "\n" not in str(told.value)
