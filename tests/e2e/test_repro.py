"""The whole path on the built-in digits: a real Prefect server, a real MLflow store, DVC."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from sklearn.datasets import load_digits
from toy_project import (
    ask,
    call,
    flow_runs,
    interrupt,
    log_lines,
    output_of,
    processes_of,
    running,
    wait_for,
)

from imagemill.decoding import encode_png
from imagemill.params import read_params
from imagemill.records import REGISTER, Evaluation, ModelCard, Registration, ShardManifest
from imagemill.table import read_evaluations

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).resolve().parents[2]
WATCH = Path(__file__).resolve().parent / "watch"
SHIPPED = ("src", "pipelines", "recipes", "labels", ".dvc", "dvc.yaml", "params.yaml")
DOTFILES = (".gitignore", ".dvcignore", "prefect.yaml", "pyproject.toml")
SWEEP = """
sweep:
  trials: 2
  epochs: 1
  seed: 0
  pruner: null
  startup_trials: 1
  space:
    train.learning_rate: {low: 0.05, high: 0.2, log: true}
"""
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "tmp", "cache")


def make_clone(root: Path) -> None:
    """What a user has after `git clone`, committed, so that git knows a revision."""
    for name in (*SHIPPED, *DOTFILES):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=LEFT_OUT)
        else:
            shutil.copy(source, root / name)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "clone")


def git(root: Path, *words: str) -> str:
    """What git says."""
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every process of the run notes the machines it talks to."""
    return tmp_path_factory.mktemp("talk") / "talk.txt"


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, talk: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A clone after its first `imagemill run`, and what that said."""
    root = tmp_path_factory.mktemp("clone")
    make_clone(root)
    done = call(root, "imagemill", "run", PYTHONPATH=str(WATCH), IMAGEMILL_TALK=str(talk))
    assert done.returncode == 0, done.stdout + done.stderr
    return root, done


@pytest.fixture
def clone(run: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """The clone after its first run."""
    return run[0]


@pytest.fixture(scope="module")
def pages(run: tuple[Path, subprocess.CompletedProcess[str]]) -> Iterator[dict[str, str]]:
    """Addresses of `imagemill up` on the clone's own state: {prefect, mlflow}."""
    root, _done = run
    note = root / ".imagemill/pages.json"
    with running(root, "imagemill", "up") as up:
        wait_for(note.exists, "the pages")
        yield json.loads(note.read_text())
        assert interrupt(up) == 0
        assert processes_of(root) == []


def test_the_run_ends_with_the_table(
    run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """A line a variant of params.yaml, and one champion."""
    root, done = run
    rows = [
        line
        for line in done.stdout.splitlines()
        if re.search(r"\d x(  [a-z0-9, -]+)?$", line)  # aliases stand behind the figures
    ]
    assert sorted(row.split()[0] for row in rows) == sorted(read_params(root).variants)
    assert sum("champion" in row for row in rows) == 1


def test_the_models_are_good(clone: Path) -> None:
    """The base reads digits, and no variant fell apart (one seed; benchmarks/ has the mean)."""
    top1 = {entry.variant: entry.top1 for entry in read_evaluations(clone)}
    assert top1["base"] > 0.97
    assert min(top1.values()) > 0.95


def test_each_variant_is_smaller_or_faster(clone: Path) -> None:
    """What compression is for."""
    base, *variants = read_evaluations(clone)
    assert all(
        entry.size_bytes < base.size_bytes or entry.speedup_over_base > 1 for entry in variants
    )


def test_nothing_left_the_machine(clone: Path, talk: Path) -> None:
    """No process of the run looked up or called another machine."""
    assert not talk.exists(), talk.read_text()


def test_no_process_is_left(clone: Path) -> None:
    """What the run started has ended."""
    assert processes_of(clone) == []


def test_git_sees_the_lock_file_alone(clone: Path) -> None:
    """Every output is ignored; dvc.lock is what there is to commit."""
    assert git(clone, "status", "--porcelain").split() == ["??", "dvc.lock"]


def test_the_lineage_is_unbroken(clone: Path) -> None:
    """Every model names the data of the shards, and every evaluation the bytes of its model."""
    digest = ShardManifest.read(clone / "data/shards/manifest.json").digest
    for variant in read_params(clone).variants:
        card = ModelCard.read(clone / "models" / variant / "model.json")
        evaluation = Evaluation.read(clone / "reports/evaluate" / f"{variant}.json")
        assert (card.data_digest, evaluation.sha256) == (digest, card.sha256)


def test_mlflow_agrees_with_the_reports(clone: Path) -> None:
    """Registered versions carry the digests on disk, and their runs the same figures."""
    from mlflow import MlflowClient

    address = f"sqlite:///{clone / 'mlflow.db'}"
    client = MlflowClient(address, registry_uri=address)  # whatever earlier tests have set
    registration = Registration.read(clone / REGISTER)
    revision = git(clone, "rev-parse", "HEAD").strip()
    for entry in registration.versions:
        version = client.get_model_version(registration.registered_model, str(entry.version))
        evaluation = Evaluation.read(clone / "reports/evaluate" / f"{entry.variant}.json")
        assert version.tags["sha256"] == entry.sha256 == evaluation.sha256
        assert version.tags["git_rev"] == revision
        assert client.get_run(version.run_id).data.metrics["top1"] == evaluation.top1


def test_every_flow_stage_is_a_subflow(clone: Path, pages: dict[str, str]) -> None:
    """The parent `repro` completed, with one completed subflow a flow stage and variant."""
    api_url = f"{pages['prefect']}/api"
    parent = flow_runs(api_url, "repro")[-1]
    question = {"flow_runs": {"parent_flow_run_id": {"any_": [parent["id"]]}}, "limit": 50}
    below = ask(api_url, "flow_runs/filter", question)
    flows = ["augment", "train", "evaluate", "explain", "register"]
    variants = [f"compress {name}" for name in read_params(clone).compress.variants]
    assert parent["state_type"] == "COMPLETED"
    assert sorted(run["name"] for run in below) == sorted(flows + variants)
    assert {run["state_type"] for run in below} == {"COMPLETED"}


def test_the_parents_log_holds_the_plain_stages(clone: Path, pages: dict[str, str]) -> None:
    """What `ingest` to `shard` say is in the log of the run."""
    api_url = f"{pages['prefect']}/api"
    lines = log_lines(api_url, flow_runs(api_url, "repro")[-1]["id"])
    assert {"ingest", "audit", "split", "shard"} <= {line.split(":")[0] for line in lines}


def test_artifacts_show_table_pictures_progress_and_link(
    clone: Path, pages: dict[str, str]
) -> None:
    """A person watching the run sees the variants, pictures, progress and the comparison."""
    found = ask(f"{pages['prefect']}/api", "artifacts/filter", {"limit": 200})
    assert {"table", "image", "progress", "markdown"} <= {record["type"] for record in found}


def test_up_opens_both_pages(clone: Path, pages: dict[str, str]) -> None:
    """Prefect's and MLflow's pages answer, and the comparison's address is printed."""
    for address in (pages["prefect"], pages["mlflow"]):
        connection = HTTPConnection(urlsplit(address).netloc, timeout=10)
        with closing(connection):
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
    assert "compare-model-versions" in output_of(clone)


def test_dvc_repro_is_up_to_date(clone: Path) -> None:
    """After a run nothing is left to do, and plain `dvc repro` says so."""
    assert "Data and pipelines are up to date." in call(clone, "dvc", "repro").stdout


def test_a_sweep_is_a_flow_with_a_task_a_trial(clone: Path, pages: dict[str, str]) -> None:
    """On the server that is up; the command it ends with trains with the best values."""
    params = clone / "params.yaml"
    before = params.read_text()
    params.write_text(f"{before}\n{SWEEP}")
    try:
        done = call(clone, "imagemill", "sweep")
    finally:
        params.write_text(before)
    assert done.returncode == 0, done.stdout + done.stderr
    api_url = f"{pages['prefect']}/api"
    (run,) = flow_runs(api_url, "sweep")
    tasks = ask(api_url, "task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert run["state_type"] == "COMPLETED"
    assert [task["state_type"] for task in tasks] == ["COMPLETED"] * 2
    trials = json.loads((clone / "reports/sweep.json").read_text())["trials"]
    best = max(trials, key=lambda trial: trial["val_top1"])["values"]["train.learning_rate"]
    assert f"-S train.learning_rate={best}" in done.stdout


def test_predict_asks_the_champion(clone: Path, tmp_path: Path) -> None:
    """The registered champion reads a digit."""
    digits = load_digits()
    picture = tmp_path / "digit.png"
    pixels = (digits.images[0] * 255 / 16).astype(np.uint8)
    picture.write_bytes(encode_png(pixels[..., np.newaxis]))
    done = call(clone, "imagemill", "predict", "--alias", "champion", "--json", str(picture))
    assert json.loads(done.stdout)["class"] == str(digits.target[0])


def test_a_lost_registry_is_filled_again(clone: Path) -> None:
    """The store deleted, the next run registers the same content and trains nothing."""
    before = Registration.read(clone / REGISTER)
    (clone / "mlflow.db").unlink()
    shutil.rmtree(clone / "mlartifacts")
    done = call(clone, "imagemill", "run")
    after = Registration.read(clone / REGISTER)
    assert done.returncode == 0, done.stderr
    assert "the registry was lost" in done.stdout
    assert "Running stage 'train'" not in done.stdout
    assert [(v.variant, v.sha256) for v in after.versions] == [
        (v.variant, v.sha256) for v in before.versions
    ]
    assert after.champion == before.champion


def test_registering_twice_adds_nothing(clone: Path) -> None:
    """The same content again: the same versions."""
    before = Registration.read(clone / REGISTER)
    done = call(clone, "dvc", "repro", "--force", "--single-item", "register")
    assert done.returncode == 0, done.stderr
    assert Registration.read(clone / REGISTER).versions == before.versions


def test_a_changed_variant_runs_alone(clone: Path) -> None:
    """One value of one variant changed: the other variants and the base are not made again."""
    text = (clone / "params.yaml").read_text()
    changed = text.replace("calibration_images: 256", "calibration_images: 128")
    assert changed != text
    (clone / "params.yaml").write_text(changed)
    status = json.loads(call(clone, "dvc", "status", "--json").stdout)
    assert "compress@int8" in status
    assert {"train", "compress@pruned", "compress@distilled"}.isdisjoint(status)
