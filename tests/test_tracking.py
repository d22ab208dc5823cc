"""The registry: real MLflow stores in SQLite files."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from finished_project import (
    CLASSES,
    DATA_DIGEST,
    band_image,
    make_project,
    project_params,
    write_evaluation,
    write_model,
)
from mlflow.entities import Run

from imagemill import records, tracking
from imagemill.errors import IntegrityError, ParamsError, ServiceError
from imagemill.params import Params
from imagemill.promote import Gain
from imagemill.records import Registration
from imagemill.tracking.address import resolve_uri, without_password
from imagemill.tracking.entries import Version
from imagemill.tracking.lineage import dvc_lock_digest, git_revision
from imagemill.tracking.standings import find_version, standing_of
from imagemill.tracking.store import Store
from pipelines.register import register as register_flow
from pipelines.tracker import Untracked

NAME = "imagemill-digits"
VARIANTS = ["base", "pruned", "distilled", "int8"]


class Project:
    """A project with a registry."""

    def __init__(self, root: Path, params: Params) -> None:
        self.root, self.params = root, params
        self.uri = f"sqlite:///{root / 'mlflow.db'}"
        self.lines: list[str] = []

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.uri, self.uri)

    def register(self, flow_run: str | None = None) -> Registration:
        return tracking.register(self.root, self.params, log=self.lines.append, flow_run=flow_run)

    def runs(self, kind: str) -> list[Run]:
        experiment = self.client.get_experiment_by_name("imagemill")
        return list(self.client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'"))

    def version_tags(self, number: int) -> dict[str, str]:
        return dict(self.client.get_model_version(NAME, str(number)).tags)

    def find(self, number: int) -> Version:
        return find_version(Store(self.root, self.params.register_), str(number))

    def run_of(self, number: int) -> Run:
        return self.client.get_run(self.client.get_model_version(NAME, str(number)).run_id)


@pytest.fixture
def project(tmp_path: Path, empty_store: Path) -> Project:
    """Models and reports, and an empty registry."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Project(tmp_path, make_project(tmp_path))


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Project:
    """A project that was registered once; tests only look at it."""
    root = tmp_path_factory.mktemp("registered")
    shutil.copy(empty_store, root / "mlflow.db")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    (root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  train: {cmd: train}\n")
    project = Project(root, make_project(root))
    curves = tracking.open_curves(root, project.params.register_, "train fast_mnist", {"a": "b"})
    curves.log(10, {"loss": 2.0})
    base = json.loads((root / "models/base/model.json").read_text())
    curves.close("FINISHED", sha256=base["sha256"])
    project.register(flow_run="flow-run-id")
    return project


# What a registration makes -------------------------------------------------------------------


def test_one_version_a_variant(registered: Project) -> None:
    """Each variant is a version of one registered model."""
    registration = Registration.read(registered.root / records.REGISTER)
    assert [entry.variant for entry in registration.versions] == VARIANTS
    assert [entry.version for entry in registration.versions] == [1, 2, 3, 4]


def test_nested_runs_under_one_parent(registered: Project) -> None:
    """The runs of the variants hang under the run of their content."""
    (parent,) = registered.runs("content")
    nested = {run.data.tags["mlflow.parentRunId"] for run in registered.runs("variant")}
    assert nested == {parent.info.run_id}


def test_all_runs_are_finished(registered: Project) -> None:
    """No run of a registration that ended is left open."""
    runs = registered.runs("content") + registered.runs("variant")
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_every_figure_is_a_metric(registered: Project) -> None:
    """Numbers of the evaluation are metrics, intervals two of them; null is left out."""
    metrics = registered.run_of(4).data.metrics
    assert metrics["val_top1_ci95_low"] == 0.96
    assert metrics["latency_ms_p50"] == 0.25
    assert metrics["recall/middle"] == 0.9
    assert "top5" not in metrics


def test_params_are_flat(registered: Project) -> None:
    """params.yaml is there as section.key, with the chain of this variant only."""
    params = registered.run_of(2).data.params
    assert params["train.model"] == "fast_mnist"
    assert json.loads(params["compress.steps"]) == [{"prune": {"ratio": 0.5}}]
    assert "compress.variants" not in params


def test_lineage_tags(registered: Project) -> None:
    """A version says its variant, parent, data, code, pipeline state, bytes and flow run."""
    tags = registered.version_tags(4)
    revision = git_revision(registered.root)
    assert revision is not None
    card = json.loads((registered.root / "models/int8/model.json").read_text())
    expected = {
        "variant": "int8",
        "parent": "base",
        "data_digest": DATA_DIGEST,
        "index_digest": "1" * 64,
        "sha256": card["sha256"],
        "runtime": "onnxruntime",
        "verdict": "accepted",
        "git_rev": revision.commit,
        "git_dirty": "false",
        "dvc_lock": dvc_lock_digest(registered.root),
        "prefect_flow_run": "flow-run-id",
    }
    assert expected.items() <= tags.items()


def test_run_and_version_agree(registered: Project) -> None:
    """The nested run carries the tags of its version."""
    version, run = registered.version_tags(2), registered.run_of(2).data.tags
    assert version.items() <= run.items()


def test_base_has_no_parent(registered: Project) -> None:
    """What does not exist is no tag."""
    assert "parent" not in registered.version_tags(1)


def test_run_is_tied_to_its_data(registered: Project) -> None:
    """The data set's digest stands on the run."""
    (entry,) = registered.run_of(3).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("digits", DATA_DIGEST[:36])


def test_metrics_link_model_and_data(registered: Project) -> None:
    """A metric of a logged model names the data set it was measured on."""
    (output,) = registered.run_of(3).outputs.model_outputs
    model = registered.client.get_logged_model(output.model_id)
    top1 = next(metric for metric in model.metrics if metric.key == "top1")
    assert (model.name, top1.value, top1.dataset_digest) == ("distilled", 0.975, DATA_DIGEST[:36])


def test_base_has_its_curves(registered: Project) -> None:
    """metrics.jsonl becomes curves of the base's run, beside its figures and not over them."""
    run = registered.run_of(1)
    losses = registered.client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in losses] == [(10, 2.0), (20, 1.0), (30, 0.5)]
    assert run.data.metrics["val_top1"] == 0.98


def test_live_training_run_is_found(registered: Project) -> None:
    """The run a training showed its curves in hangs under the parent and is named by the base."""
    (training,) = registered.runs("training")
    (parent,) = registered.runs("content")
    assert training.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert registered.run_of(1).data.tags["training_run"] == training.info.run_id


def test_first_champion_and_challenger(registered: Project) -> None:
    """int8 ties with base on val and is faster; distilled is better and rejected."""
    assert registered.client.get_registered_model(NAME).aliases == {
        "champion": 4, "challenger": 1, "fastest-within-1pt": 4, "smallest-within-1pt": 4
    }  # fmt: skip


def test_record_of_the_registration(registered: Project) -> None:
    """register.json says the champion, the aliases and the address without a machine in it."""
    registration = Registration.read(registered.root / records.REGISTER)
    assert (registration.champion, registration.champion_version) == ("int8", 4)
    assert [entry.aliases for entry in registration.versions] == [
        ["challenger"],
        [],
        [],
        ["champion", "fastest-within-1pt", "smallest-within-1pt"],
    ]
    assert registration.tracking_uri == "sqlite:///mlflow.db"


def test_comparison_link(registered: Project) -> None:
    """The link is the one MLflow's page understands: name and runs as URL-encoded JSON."""
    registration = Registration.read(registered.root / records.REGISTER)
    link = tracking.compare_link("http://127.0.0.1:5000/", registration)
    start = (
        "http://127.0.0.1:5000/#/compare-model-versions?name=%22imagemill-digits%22&runs=%7B%221"
    )
    assert link.startswith(start)
    assert all(entry.run_id in link for entry in registration.versions)


def test_pyfunc_opens_the_champion(registered: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow itself loads and runs a version, with pickle forbidden."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(registered.uri)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    images = np.stack([band_image(name) for name in CLASSES])[:, None].astype(np.float32) / 255
    assert model.predict(images).argmax(1).tolist() == [0, 1, 2]


def test_pyfunc_refuses_another_shape(registered: Project) -> None:
    """The signature names the input, so a wrong one is refused before it runs."""
    mlflow.set_tracking_uri(registered.uri)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    with pytest.raises(mlflow.MlflowException, match="shape"):
        model.predict(np.zeros((2, 3, 8, 8), dtype=np.float32))


@pytest.mark.parametrize("name", ["model.onnx", "model.json"])
def test_pyfunc_refuses_a_swapped_file(project: Project, name: str) -> None:
    """MLflow itself, and so its server, opens no bytes but those that were registered."""
    project.register()
    mlflow.set_tracking_uri(project.uri)
    folder = "models/*/artifacts/data"
    (swapped,) = (project.root / "mlartifacts").glob(f"{folder}/int8/{name}")
    (other,) = (project.root / "mlartifacts").glob(f"{folder}/base/{name}")
    shutil.copy(other, swapped)
    with pytest.raises(IntegrityError, match=r"not (what was registered|the file)"):
        mlflow.pyfunc.load_model(f"models:/{NAME}@champion")


def test_pyfunc_refuses_a_consistent_swap(project: Project) -> None:
    """Another model with its own model.json is refused too, by the digest in the registry."""
    project.register()
    mlflow.set_tracking_uri(project.uri)
    (swapped,) = (project.root / "mlartifacts").glob("models/*/artifacts/data/int8")
    shutil.copytree(project.root / "models/base", swapped, dirs_exist_ok=True)
    with pytest.raises(IntegrityError, match="is not what was registered"):
        mlflow.pyfunc.load_model(f"models:/{NAME}@champion")


def test_description_is_a_model_card(registered: Project) -> None:
    """Use, data, metrics, limits and energy in markdown; what is unknown is said to be."""
    text = registered.client.get_model_version(NAME, "4").description
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "Handwritten digits: int8", "Intended use", "Data", "Metrics", "Limits", "Energy and cost"
    ]  # fmt: skip
    assert "top-1 on test 97.50% (95 % interval 95.00% to 99.00%), on val 98.00%" in text
    assert "energy: not measured on this machine" in text


def test_parent_version_is_named(registered: Project) -> None:
    """A variant names the version it was made from; the base has none."""
    assert registered.version_tags(4)["parent_version"] == "1"
    assert "parent_version" not in registered.version_tags(1)


def test_no_pickle_in_the_store(registered: Project) -> None:
    """Nothing that is stored is a pickle."""
    files = (registered.root / "mlartifacts").rglob("*")
    assert {path.suffix for path in files if path.is_file()} <= {
        "", ".json", ".jsonl", ".onnx", ".txt", ".yaml"
    }  # fmt: skip


# Registering again ---------------------------------------------------------------------------


def test_same_content_adds_nothing(project: Project) -> None:
    """A second registration makes no run, no version, moves no alias and writes the same record."""
    first = project.register()
    runs = {run.info.run_id for run in project.runs("content") + project.runs("variant")}
    assert project.register() == first
    assert {run.info.run_id for run in project.runs("content") + project.runs("variant")} == runs
    assert len(project.client.search_model_versions(f"name = '{NAME}'")) == 4


def test_one_changed_variant_adds_one_version(project: Project) -> None:
    """Only what changed is registered; it hangs under the same parent, champions stay."""
    project.register()
    write_model(project.root, "pruned", sharpness=9.0)
    write_evaluation(
        project.root, "pruned", val_top1_ci95=[0.99, 1.0], latency_ms_p50=0.1, verdict="accepted"
    )
    registration = project.register()
    assert {entry.variant: entry.version for entry in registration.versions} == {
        "base": 1, "pruned": 5, "distilled": 3, "int8": 4
    }  # fmt: skip
    assert len(project.runs("content")) == 1
    assert project.client.get_registered_model(NAME).aliases == {
        "champion": 4, "challenger": 5, "fastest-within-1pt": 5, "smallest-within-1pt": 4
    }  # fmt: skip


def test_new_figures_make_no_version(project: Project) -> None:
    """Measured again, a known version gets a further step of its metrics and a new verdict."""
    project.register()
    write_evaluation(
        project.root, "int8", val_top1_ci95=[0.9, 0.95], latency_ms_p50=0.3, verdict="rejected"
    )
    registration = project.register()
    assert [entry.version for entry in registration.versions] == [1, 2, 3, 4]
    history = project.client.get_metric_history(registration.versions[3].run_id, "latency_ms_p50")
    assert [(point.step, point.value) for point in history] == [(0, 0.25), (1, 0.3)]
    assert project.version_tags(4)["verdict"] == "rejected"
    assert registration.champion == "int8"


def test_place_on_the_front_is_a_tag(project: Project) -> None:
    """What dominates a variant is named; where nobody looked it is unknown."""
    write_evaluation(project.root, "base", val_top1_ci95=[0.9, 0.95], latency_ms_p50=1.0,
                     verdict="base", on_pareto_front=True)  # fmt: skip
    write_evaluation(project.root, "pruned", val_top1_ci95=[0.9, 0.95], latency_ms_p50=1.0,
                     verdict="dominated", on_pareto_front=False, dominated_by=["int8"])  # fmt: skip
    project.register()
    places = [project.version_tags(number)["pareto"] for number in (1, 2, 3)]
    assert places == ["front", "dominated by int8", "unknown"]


def test_figures_inside_mappings_are_metrics(project: Project) -> None:
    """The worst class and the paired comparison, by `<name>_<key>`."""
    paired = {"parent": "base", "delta_top1": 0.01, "delta_ci95": [0.0, 0.02]}
    worst = {"name": "top", "recall": 0.8, "num_images": 40}
    write_evaluation(project.root, "int8", val_top1_ci95=[0.9, 0.95], latency_ms_p50=1.0,
                     verdict="accepted", val_paired=paired, val_worst_class=worst)  # fmt: skip
    project.register()
    standing = standing_of(Store(project.root, project.params.register_), project.find(4))
    assert (standing.worst_class_recall, standing.parent_version) == (0.8, 1)
    assert standing.gain_over_parent == Gain(0.01, 0.0, 0.02)


def test_other_data_is_other_content(project: Project) -> None:
    """The same bytes trained on other data are another version, under another parent."""
    project.register()
    for variant in VARIANTS:
        path = project.root / records.MODELS / variant / "model.json"
        card = json.loads(path.read_text())
        path.write_text(json.dumps(card | {"data_digest": "e" * 64}))
    assert [entry.version for entry in project.register().versions] == [5, 6, 7, 8]
    assert len(project.runs("content")) == 2


def test_killed_registration_is_finished(project: Project) -> None:
    """A run whose version was never made is replaced, not doubled."""
    project.register()
    version = project.client.get_model_version(NAME, "2")
    project.client.delete_model_version(NAME, "2")
    registration = project.register()
    assert [entry.version for entry in registration.versions] == [1, 5, 3, 4]
    assert len(project.runs("variant")) == 4
    assert version.run_id not in {run.info.run_id for run in project.runs("variant")}


# A registry that was lost --------------------------------------------------------------------


def test_lost_database_is_noticed_and_filled(project: Project, empty_store: Path) -> None:
    """With the database gone, or empty, every version is missing; registering brings them back."""
    project.register()
    assert not tracking.is_missing_versions(project.root, project.params)
    # Another file: this process' MLflow would go on with the open file of a deleted one.
    project.params = project_params(project.root, tracking_uri="sqlite:///again.db")
    assert tracking.is_missing_versions(project.root, project.params)
    shutil.copy(empty_store, project.root / "again.db")
    assert tracking.is_missing_versions(project.root, project.params)
    registration = project.register()
    assert [entry.version for entry in registration.versions] == [1, 2, 3, 4]
    assert not tracking.is_missing_versions(project.root, project.params)


def test_lost_artifacts_are_noticed_and_filled(project: Project) -> None:
    """A version without its files counts for nothing: not for predicting, not as champion."""
    project.register()
    shutil.rmtree(project.root / "mlartifacts")
    assert tracking.is_missing_versions(project.root, project.params)
    registration = project.register()
    assert [entry.version for entry in registration.versions] == [5, 6, 7, 8]
    assert registration.champion_version == 8
    assert not tracking.is_missing_versions(project.root, project.params)


def test_deleted_version_is_noticed(project: Project) -> None:
    """A version deleted by hand is missing too."""
    project.register()
    project.client.delete_model_version(NAME, "3")
    assert tracking.is_missing_versions(project.root, project.params)


def test_nothing_is_missing_before_the_first_time(project: Project) -> None:
    """Without a register.json nobody promised anything."""
    assert not tracking.is_missing_versions(project.root, project.params)


def test_two_that_start_together_share_a_store(tmp_path: Path) -> None:
    """Whoever finds no database makes it, alone: schema and experiment are there once."""
    params = make_project(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: tracking.prepare_store(tmp_path, params.register_), range(2)))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("imagemill")
    assert experiment.artifact_location == str(tmp_path / "mlartifacts")
    assert not list(tmp_path.glob(".mlflow.db*"))


def test_deleted_experiment_is_restored(project: Project) -> None:
    """An experiment somebody put into the bin is used again, with the runs in it."""
    first = project.register()
    experiment = project.client.get_experiment_by_name("imagemill")
    project.client.delete_experiment(experiment.experiment_id)
    assert project.register() == first


# What is refused -----------------------------------------------------------------------------


def test_swapped_model_is_refused(project: Project) -> None:
    """A file that is not the one in model.json is not registered."""
    (project.root / "models/int8/model.onnx").write_bytes(b"other bytes")
    with pytest.raises(IntegrityError, match=r"int8/model\.onnx is not the file"):
        project.register()


def test_evaluation_of_other_bytes_is_refused(project: Project) -> None:
    """Figures of another model are not registered."""
    write_model(project.root, "int8", sharpness=99.0)
    with pytest.raises(IntegrityError, match="measured other bytes"):
        project.register()


def test_missing_evaluation_is_refused(project: Project) -> None:
    """A variant that was not evaluated is named, and nothing is registered."""
    (project.root / "reports/evaluate/pruned.json").unlink()
    with pytest.raises(IntegrityError, match=r"pruned\.json does not exist"):
        project.register()
    assert not (project.root / records.REGISTER).exists()


def test_file_that_is_no_database_is_refused(project: Project) -> None:
    """A damaged mlflow.db is named at once, not after minutes of retries."""
    (project.root / "mlflow.db").write_text("not a database at all")
    with pytest.raises(ServiceError, match="not an SQLite database"):
        project.register()


def test_silent_server_is_refused(project: Project) -> None:
    """A server that does not answer is named at once, not after minutes of retries."""
    project.params = project_params(project.root, tracking_uri="http://127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"no MLflow server answers at http://127\.0\.0\.1:9"):
        project.register()


def test_copied_project_is_told_apart(project: Project, tmp_path: Path) -> None:
    """A registry made elsewhere would write into the other project: it is refused."""
    project.register()
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("params.yaml", "mlflow.db"):
        shutil.copy(project.root / name, copy / name)
    with pytest.raises(ServiceError, match="moved or copied"):
        tracking.prepare_store(copy, project.params.register_)


def test_unknown_kind_of_store_is_refused(tmp_path: Path) -> None:
    """Addresses MLflow has no store for are a mistake in params.yaml."""
    with pytest.raises(ParamsError, match=r"tracking_uri.*ftp://somewhere"):
        resolve_uri(tmp_path, "ftp://somewhere")


# The flow ------------------------------------------------------------------------------------


class Watched(Untracked):
    """A tracker that keeps what it is shown."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.links: dict[str, str] = {}

    def table(self, key: str, rows: Sequence[dict[str, Any]]) -> None:
        self.rows += rows

    def link(self, key: str, url: str, text: str) -> None:
        self.links[key] = url


def test_flow_shows_versions_and_comparison(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flow registers, names the flow run it belongs to, and shows a table and a link."""
    monkeypatch.setenv("IMAGEMILL_PARENT_FLOW_RUN", "the-repro-run")
    watched = Watched()
    register_flow(project.root, project.params, watched)
    assert [row["variant"] for row in watched.rows] == VARIANTS
    assert [row["aliases"] for row in watched.rows] == [
        *("challenger", "", ""),
        "champion, fastest-within-1pt, smallest-within-1pt",
    ]
    assert watched.links["mlflow-comparison"].startswith("http://127.0.0.1:5000/#/compare-model-")
    assert project.version_tags(1)["prefect_flow_run"] == "the-repro-run"


# Small parts ---------------------------------------------------------------------------------


def test_sqlite_starts_at_the_root(tmp_path: Path) -> None:
    """A relative database file is in the project, wherever the command was called."""
    assert resolve_uri(tmp_path, "sqlite:///mlflow.db") == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_passwords_are_not_written() -> None:
    """What is shown and stored of an address has no password."""
    shown = without_password("postgresql://me:secret@host:5432/db")
    assert shown == "postgresql://me:***@host:5432/db"


def test_lock_digest_ignores_what_comes_after(tmp_path: Path) -> None:
    """The entries of register, report and explain do not count."""
    lock = tmp_path / "dvc.lock"
    lock.write_text("stages:\n  train: {cmd: a}\n")
    digest = dvc_lock_digest(tmp_path)
    lock.write_text("stages:\n  train: {cmd: a}\n  register: {cmd: b}\n  report: {cmd: c}\n")
    assert dvc_lock_digest(tmp_path) == digest
    lock.write_text("stages:\n  train: {cmd: other}\n")
    assert dvc_lock_digest(tmp_path) != digest


def test_outside_git_there_is_no_revision(tmp_path: Path) -> None:
    """A folder that is no checkout has no revision; neither has it a lock."""
    assert git_revision(tmp_path) is None
    assert dvc_lock_digest(tmp_path) is None


def test_changed_files_make_the_revision_dirty(tmp_path: Path) -> None:
    """Tracked files that differ from the commit are told."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("one")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    (tmp_path / "file").write_text("two")
    revision = git_revision(tmp_path)
    assert revision is not None
    assert revision.is_dirty


def test_killed_training_is_closed(project: Project) -> None:
    """A training that begins again ends the run its killed predecessor left open."""
    settings = project.params.register_
    tracking.open_curves(project.root, settings, "train", {"training": "key"})
    tracking.open_curves(project.root, settings, "train", {"training": "key"}).close("FINISHED")
    statuses = sorted(run.info.status for run in project.runs("training"))
    assert statuses == ["FINISHED", "KILLED"]


def test_curves_arrive_at_the_latest_when_closed(project: Project) -> None:
    """Points that wait are sent on closing."""
    curves = tracking.open_curves(project.root, project.params.register_, "train", {})
    for step in range(1500):
        curves.log(step, {"loss": 1.0 / (step + 1), "val_top1": 0.5})
    curves.close("FAILED")
    history = project.client.get_metric_history(curves.run_id, "train/loss")
    assert len(history) == 1500
    assert project.client.get_run(curves.run_id).info.status == "FAILED"


def test_importing_the_room_imports_no_mlflow() -> None:
    """Links and checks are free of mlflow's import; telemetry is off before it comes."""
    code = (
        "import sys, os, imagemill.tracking; "
        "print('mlflow' in sys.modules, 'torch' in sys.modules, "
        "os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    )
    environment = {key: value for key, value in os.environ.items() if "MLFLOW" not in key}
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert answer.stdout.split() == ["False", "False", "true"]
