"""The champion behind MLflow's own server, asked over HTTP."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_project import CLASSES, REPOSITORY, band_image
from registered_project import Registered

DEADLINE_SECONDS = 90.0


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Registered:
    """A registered project."""
    return Registered(tmp_path_factory.mktemp("served"), empty_store)


def documented() -> list[str]:
    """The command of the README, as words."""
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if "mlflow models serve" in line)
    return shlex.split(line.partition("#")[0])


@contextmanager
def serving(root: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """The command of the README on a free port; ended with everything it started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = documented()
    settings = dict(word.split("=", 1) for word in words[: words.index("mlflow")])
    words = words[words.index("mlflow") :]
    words[words.index("--port") + 1] = port
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (root / "served.log").open("wb") as log:
        process = subprocess.Popen(
            words,
            cwd=root,
            env=os.environ | settings | {"PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(url: str, images: Any) -> Any:
    """What the server answers to a batch; waits until it is up."""
    body = json.dumps({"inputs": images.tolist()}).encode()
    request = urllib.request.Request(
        f"{url}/invocations", data=body, headers={"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert time.monotonic() < deadline, "the server did not answer"
            time.sleep(0.3)


def test_champion_answers_over_http(project: Registered) -> None:
    """Images in, logits out; a batch of the wrong shape is refused with a status."""
    images = np.stack([band_image(name) for name in CLASSES])[:, None].astype(np.float32) / 255
    with serving(project.root) as (_, url):
        answer = ask(url, images)
        logits = np.asarray(answer["predictions"])
        assert logits.argmax(1).tolist() == [0, 1, 2]
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(url, images[:, :, :5])
        assert refused.value.code == 400


def test_swapped_champion_is_not_served(tmp_path: Path, empty_store: Path) -> None:
    """With other bytes in the store the server ends instead of answering."""
    project = Registered(tmp_path, empty_store)
    (swapped,) = (tmp_path / "mlartifacts").glob("models/*/artifacts/data/int8")
    shutil.copytree(project.root / "models/base", swapped, dirs_exist_ok=True)
    with serving(tmp_path) as (process, _):
        deadline = time.monotonic() + DEADLINE_SECONDS
        while "is not what was registered" not in (tmp_path / "served.log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.3)
        assert process.wait(DEADLINE_SECONDS) != 0
