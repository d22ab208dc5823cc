"""Facts about training on Ray: a real cluster of two nodes on this host."""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from made_shards import make_shards
from safetensors.torch import load_file
from test_lost_ranks import free_port, params_of, trained_alone

from imagemill.errors import TrainingError
from imagemill.train.job import prepare, publish
from imagemill.train.launch import train_processes
from imagemill.train.pulse import pulse_folder, signs

pytest.importorskip("ray")
_PATIENCE_SECONDS = 180


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two nodes of one CPU each, stopped at the end; only who knows the token can join."""
    port = free_port()
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"]
    small = ["--object-store-memory=100000000", "--disable-usage-stats"]
    head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={_short()}"]
    log = (tmp_path / "ray.log").open("wb")
    nodes = [subprocess.Popen([*ray, *small, *head], stdout=log, stderr=log)]
    try:
        _wait_for_nodes(1, log.name)
        other = [*ray, f"--address=127.0.0.1:{port}", *small]
        nodes.append(subprocess.Popen(other, stdout=log, stderr=log))
        _wait_for_nodes(2, log.name)
        yield
    finally:
        below = [child for node in nodes for child in psutil.Process(node.pid).children(True)]
        for node in reversed(nodes):  # what is Ray's own ends with it
            node.terminate()
        for node in nodes:
            node.wait(_PATIENCE_SECONDS)
        log.close()
        assert psutil.wait_procs(below, timeout=20)[1] == [], "Ray left processes behind"
        shutil.rmtree(_short(), ignore_errors=True)


def _short() -> str:
    """A folder whose sockets have names short enough."""
    return f"/tmp/ray-{os.getpid()}"


def _wait_for_nodes(count: int, log: str) -> None:
    ask = "import ray; ray.init(address='auto', logging_level='ERROR'); print(len(ray.nodes()))"
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        command = [sys.executable, "-c", ask]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.stdout.strip() == str(count):
            return
    raise AssertionError(f"{told.stderr}\n{Path(log).read_text()}")


def test_ray_trains_the_same_model_on_two_nodes(cluster: None, tmp_path: Path) -> None:
    """One rank on each; the weights are those of one process to 1e-4, the ledger is whole."""
    make_shards(tmp_path)
    params = params_of("ddp", processes=2, epochs=50, launcher="ray")
    expected = trained_alone(prepare(tmp_path, params_of("single", epochs=50)))
    job = prepare(tmp_path, params)
    nodes: set[int] = set()

    def follow(line: object) -> None:
        for sign in signs(pulse_folder(job.folder)):  # a worker is a child of its node's raylet
            if len(nodes) < 2 and psutil.pid_exists(sign.pid):
                nodes.add(psutil.Process(sign.pid).ppid())

    train_processes(job, follow, print)
    assert len(nodes) == 2
    metrics = publish(job)
    weights = load_file(tmp_path / "models/base/model.safetensors")
    assert all(torch.allclose(weights[name], expected[name], atol=1e-4) for name in weights)
    assert metrics["processes"] == 2
    assert [account["consumed"] for account in metrics["ledger"]] == [60] * 50
    assert {account["missing"] + account["duplicate"] for account in metrics["ledger"]} == {0}


def test_without_a_cluster_the_user_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Ray is started behind their back."""
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    make_shards(tmp_path)
    job = prepare(tmp_path, params_of("ddp", processes=2, launcher="ray"))
    with pytest.raises(TrainingError, match="no Ray cluster is up: `ray start --head`"):
        train_processes(job, lambda _: None, print)
