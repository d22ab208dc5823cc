"""Facts about sweeps: what is drawn, how trials end, and what is kept of them."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from made_shards import make_shards
from mlflow.entities import Run
from test_train import settings
from trained_project import Recorder

from imagemill.errors import ParamsError
from imagemill.params import Params, parse_params
from imagemill.sweep.result import command
from imagemill.sweep.space import settings_of, study_name, with_values
from imagemill.sweep.study import COMPLETE, FAILED, PRUNED, Outcome, Study
from pipelines.sweep import sweep

RATE = "train.learning_rate"
SPACE: dict[str, Any] = {RATE: {"choices": [0.1, 1e-9]}}
SWEEP = {
    "trials": 4,
    "epochs": 6,
    "seed": 6,
    "pruner": "median",
    "startup_trials": 1,
    "space": SPACE,
}


def params_with(space: Mapping[str, Any] = SPACE, **sweep: Any) -> Params:
    """A tiny training, and a sweep over it."""
    document = settings().model_dump(mode="json", by_alias=True, exclude_unset=True)
    return parse_params(document | {"sweep": {**SWEEP, "space": space, **sweep}}, where="test")


# The space -----------------------------------------------------------------------------------


def test_values_change_their_keys_and_the_epochs() -> None:
    """All else is as params.yaml has it."""
    params = params_with()
    changed = with_values(params, {RATE: 0.5, "train.batch_size": 8}).train
    expected = {"learning_rate": 0.5, "batch_size": 8, "epochs": 6}
    assert changed == params.train.model_copy(update=expected)


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"train.lerning_rate": {"choices": [1]}}, "did you mean 'learning_rate'"),
        ({"train.ema.decay.x": {"choices": [1]}}, "in no section of params.yaml"),
        ({RATE: {"low": -1.0, "high": 1.0}}, "greater than 0"),
        ({RATE: {"low": 1.0, "high": 0.1}}, "low .1.0. must be below high"),
        ({RATE: {"low": 0, "high": 1, "log": True}}, "log needs a low above 0"),
        ({"split.seed": {"choices": [1]}}, "only keys of the section train"),
    ],
)
def test_a_space_that_cannot_be_is_told_before_any_trial(space: dict[str, Any], told: str) -> None:
    """Unknown keys, values a key cannot have, and what no training changes."""
    with pytest.raises(ParamsError, match=told):
        settings_of(params_with(space))


def test_a_study_is_that_of_its_search() -> None:
    """More trials go on with it; another space is another study."""
    names = [
        study_name(params, "digest")
        for params in (params_with(), params_with(trials=9), params_with({RATE: {"choices": [1]}}))
    ]
    assert names[0] == names[1] != names[2]


def test_the_command_writes_values_as_yaml() -> None:
    """Quoted for the shell where they need it."""
    values = {RATE: 0.1, "train.channels_last": True, "train.dropout": None, "train.loss": "mse"}
    assert command(values) == (
        "dvc exp run -S train.learning_rate=0.1 -S train.channels_last=true "
        "-S train.dropout=null -S train.loss=mse"
    )


# Studies -------------------------------------------------------------------------------------


def drawn(root: Path, count: int, params: Params) -> list[dict[str, Any]]:
    """Draw and complete trials in a study that is opened anew for each."""
    values = []
    for _ in range(count):
        study = Study(root, "study", settings_of(params))
        draw = study.draw()
        study.tell(draw, Outcome(draw.number, COMPLETE, 0.5, 1, draw.values))
        values.append(draw.values)
    return values


def test_draws_keep_to_the_space(tmp_path: Path) -> None:
    """Whole numbers between whole ends, others between others; none twice when it goes on."""
    space = {
        "train.batch_size": {"low": 8, "high": 64},
        RATE: {"low": 0.001, "high": 1.0, "log": True},
    }
    values = drawn(tmp_path, 4, params_with(space))
    assert all(isinstance(one["train.batch_size"], int) for one in values)
    assert all(8 <= one["train.batch_size"] <= 64 and 0.001 <= one[RATE] <= 1 for one in values)
    assert len({one[RATE] for one in values}) == 4


def test_a_trial_that_was_cut_off_is_tried_again(tmp_path: Path) -> None:
    """It counts for nothing, and its values are the next ones."""
    params = params_with({RATE: {"low": 0.001, "high": 1.0}})
    cut_off = Study(tmp_path, "study", settings_of(params)).draw()
    again = Study(tmp_path, "study", settings_of(params))
    assert again.remaining == 4
    assert again.draw().values == cut_off.values


def test_a_trial_that_failed_counts(tmp_path: Path) -> None:
    """It would only fail again; why it did is kept."""
    study = Study(tmp_path, "study", settings_of(params_with()))
    draw = study.draw()
    failed = Outcome(draw.number, FAILED, None, 0, draw.values, "the loss is nan at step 3")
    study.tell(draw, failed)
    assert study.remaining == 3
    assert study.outcomes() == [failed]


# The flow ------------------------------------------------------------------------------------


class Swept:
    """A project after its sweep."""

    def __init__(self, root: Path, params: Params) -> None:
        self.root, self.tracker = root, Recorder()
        sweep(root, params, self.tracker)
        self.result = json.loads((root / "reports/sweep.json").read_text())

    def runs(self, kind: str) -> list[Run]:
        client = mlflow.MlflowClient(f"sqlite:///{self.root / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("imagemill")
        return list(client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Four trials, some at a rate that learns nothing."""
    root = tmp_path_factory.mktemp("swept")
    make_shards(root)
    return Swept(root, params_with())


def test_hopeless_trials_are_pruned(swept: Swept) -> None:
    """Those at the terrible rate end before their last epoch, the others do not."""
    states = {(trial["values"][RATE], trial["state"]) for trial in swept.result["trials"]}
    assert states == {(0.1, COMPLETE), (1e-9, PRUNED)}
    assert all(
        (trial["epochs"] == 6) == (trial["state"] == COMPLETE) for trial in swept.result["trials"]
    )


def test_the_best_trial_is_told_with_its_command(swept: Swept) -> None:
    """In the report and as the last line."""
    assert swept.result["best"]["values"] == {RATE: 0.1}
    assert swept.result["apply"] == "dvc exp run -S train.learning_rate=0.1"
    assert swept.tracker.lines[-1] == f"to train with it: {swept.result['apply']}"


def test_every_trial_is_a_run_below_the_studys(swept: Swept) -> None:
    """With its values, its state and its curves."""
    (study,), trials = swept.runs("sweep"), swept.runs("trial")
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {study.info.run_id}
    told = {run.data.tags["trial"]: run.data.tags["state"] for run in trials}
    assert told == {str(trial["number"]): trial["state"] for trial in swept.result["trials"]}
    assert all(RATE in run.data.params for run in trials)
    assert all({"train/loss", "train/val_top1"} <= set(run.data.metrics) for run in trials)


def test_nothing_is_left_behind(swept: Swept) -> None:
    """No process, no job, and no model: a sweep does not touch models/."""
    assert not [
        child
        for child in psutil.Process().children(recursive=True)
        if "imagemill.train.worker" in child.cmdline()
    ]
    assert not list((swept.root / ".imagemill/sweep").rglob("job.json"))
    assert not (swept.root / "models").exists()


def test_a_sweep_that_is_over_makes_no_trial(swept: Swept) -> None:
    """The study is in the project: asked again, it only tells."""
    before = swept.result
    again = Swept(swept.root, params_with())
    assert again.tracker.steps == []
    assert again.result == before
    assert len(swept.runs("sweep")) == 1


def test_without_a_section_the_verb_says_so(tmp_path: Path) -> None:
    """One sentence, status 2."""
    shipped = Path(__file__).resolve().parent.parent / "params.yaml"
    (tmp_path / "params.yaml").write_text(shipped.read_text())
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.sweep"],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        2,
        "params.yaml has no section sweep; docs/sweeps.md shows one\n",
    )
