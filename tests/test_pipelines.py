"""The wiring: stages with and without a server, processes, locks, ports, settings."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from toy_project import (
    call,
    environment,
    interrupt,
    processes_of,
    running,
    wait_for,
)

from imagemill.errors import BusyError, DiskError, ServiceError, UserError
from imagemill.records import write_json
from pipelines import server
from pipelines.environment import (
    FAILURE_FILE,
    SWITCHES,
    quiet_environment,
    server_environment,
)
from pipelines.lock import run_lock
from pipelines.prepare import prepare

# Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_is_set_whatever_was_inherited(name: str, tmp_path: Path) -> None:
    """No inherited value turns telemetry on again."""
    assert quiet_environment({name: "something else"}, tmp_path)[name] == SWITCHES[name]


def test_the_switches_cover_the_libraries_we_bring() -> None:
    """Prefect, MLflow, DVC and Ray each have their switch, and jobs and pickles are off."""
    expected = {
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    assert expected.items() <= dict(SWITCHES).items()


def test_prefect_never_starts_an_ephemeral_server(tmp_path: Path) -> None:
    """A stage that finds no server must not spend 20 seconds on one of its own."""
    assert quiet_environment({}, tmp_path)["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] == "false"


def test_prefect_keeps_its_state_in_the_project(tmp_path: Path) -> None:
    """PREFECT_HOME lies in .imagemill/, whatever the user's own is."""
    found = quiet_environment({"PREFECT_HOME": "/somewhere"}, tmp_path)["PREFECT_HOME"]
    assert found == str(tmp_path / ".imagemill/prefect")


def test_the_running_python_is_first_on_the_path(tmp_path: Path) -> None:
    """DVC starts stages as `python`: it finds ours."""
    path = quiet_environment({"PATH": "/usr/bin"}, tmp_path)["PATH"]
    assert path.split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]


def test_a_proxy_is_not_asked_for_our_own_services(tmp_path: Path) -> None:
    """Loopback joins the hosts the user exempted."""
    found = quiet_environment({"no_proxy": "example.org"}, tmp_path)
    assert found["NO_PROXY"] == found["no_proxy"] == "example.org,127.0.0.1,localhost"


def test_a_server_tells_its_page_where_the_api_is(tmp_path: Path) -> None:
    """Off port 4200 the page stays blank without it."""
    found = server_environment({}, tmp_path, 4321)["PREFECT_SERVER_UI_API_URL"]
    assert found == "http://127.0.0.1:4321/api"


# Finding a server ----------------------------------------------------------------------------


@pytest.fixture
def healthy() -> Iterator[str]:
    """Address of something that answers as a Prefect API does."""

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    http = HTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/api"
    http.shutdown()
    http.server_close()


def _note(root: Path, api_url: str, *, pid: int, started: float) -> None:
    us = psutil.Process()
    document = {"api_url": api_url, "pid": pid, "started": started}
    owner = {"owner_pid": us.pid, "owner_started": us.create_time()}
    write_json(root / server.NOTE, document | owner)


def test_a_noted_server_that_answers_is_found(healthy: str, tmp_path: Path) -> None:
    """`up` and `run` leave a note; a stage believes it after asking."""
    _note(tmp_path, healthy, pid=os.getpid(), started=psutil.Process().create_time())
    assert server.find(tmp_path, {}) == healthy


def test_a_note_of_a_process_that_ended_is_not_believed(healthy: str, tmp_path: Path) -> None:
    """Another server on the same port, by a later process with its id, is not ours."""
    _note(tmp_path, healthy, pid=os.getpid(), started=1.0)
    assert server.find(tmp_path, {}) is None


def test_a_note_cannot_send_us_elsewhere(tmp_path: Path) -> None:
    """Only this machine is asked on the word of a file."""
    started = psutil.Process().create_time()
    _note(tmp_path, "http://192.0.2.1:4200/api", pid=os.getpid(), started=started)
    assert server.find(tmp_path, {}) is None


def test_a_named_server_comes_first(healthy: str, tmp_path: Path) -> None:
    """PREFECT_API_URL is the user's choice."""
    assert server.find(tmp_path, {"PREFECT_API_URL": healthy}) == healthy


def test_a_named_server_that_is_silent_is_not_replaced(healthy: str, tmp_path: Path) -> None:
    """Nobody's runs land on another server than the one they were meant for."""
    _note(tmp_path, healthy, pid=os.getpid(), started=psutil.Process().create_time())
    named = f"http://127.0.0.1:{server.choose_port(None)}/api"
    assert server.find(tmp_path, {"PREFECT_API_URL": named}) is None


def test_a_file_is_no_server(tmp_path: Path) -> None:
    """An address that is not HTTP is not opened."""
    (tmp_path / "health").write_text("true")
    assert not server.answers(f"file://{tmp_path}")


def test_a_run_needs_the_server_the_user_named(tmp_path: Path) -> None:
    """PREFECT_API_URL that leads nowhere stops a run with a sentence."""
    named = f"http://127.0.0.1:{server.choose_port(None)}/api"
    with pytest.raises(ServiceError, match="PREFECT_API_URL"):
        server.Lease.open(tmp_path, {"PREFECT_API_URL": named}, port=None)


def test_a_taken_port_names_its_holder() -> None:
    """The message says which process to ask."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BusyError, match=rf"port {port} is taken by process {os.getpid()}"):
            server.choose_port(port)


# Lock and preparation ------------------------------------------------------------------------


@pytest.fixture
def project(project: Path) -> Path:
    """A project root that passes for a git repository."""
    (project / ".git").mkdir()
    return project


def test_a_second_run_is_told_who_is_at_work(tmp_path: Path) -> None:
    """The lock's holder is named; nothing waits."""
    with (
        run_lock(tmp_path),
        pytest.raises(BusyError, match=f"process {os.getpid()}"),
        run_lock(tmp_path),
    ):
        pass


def test_the_lock_is_free_after_a_run(tmp_path: Path) -> None:
    """A run that ended leaves nothing to clean up by hand."""
    with run_lock(tmp_path):
        pass
    with run_lock(tmp_path):
        pass


def test_a_project_outside_git_is_told_first(project: Path) -> None:
    """DVC needs a repository; a run says so before it starts anything."""
    (project / ".git").rmdir()
    with pytest.raises(UserError, match="git init"):
        prepare(project, log=print)


def test_a_folder_that_cannot_be_written_is_told_first(project: Path) -> None:
    """An unwritable data folder stops a run before it starts anything."""
    (project / "data").touch()
    with pytest.raises(DiskError, match="data cannot be written"):
        prepare(project, log=print)


def test_a_disk_too_small_stops_the_run(project: Path) -> None:
    """What the run would need is compared with what is free, and said."""
    text = (project / "params.yaml").read_text().replace("copies: 1", "copies: 1000000000")
    (project / "params.yaml").write_text(text)
    with pytest.raises(DiskError, match="free some"):
        prepare(project, log=print)


def test_preparing_says_how_much_disk_is_needed(project: Path) -> None:
    """Need and room are told before anything starts."""
    told: list[str] = []
    prepare(project, told.append)
    assert any(line.startswith("disk: this run needs up to ") for line in told)


# Stages without a server ---------------------------------------------------------------------


def test_a_stage_without_a_server_says_so_once(toy: Path) -> None:
    """One line tells that the run is not tracked; the work is done all the same."""
    said = call(toy, "pipelines.stage", "train").stdout.splitlines()
    assert said[0] == "no Prefect server: this run is not tracked"
    assert (toy / "models/toy/weights").exists()


def test_an_untracked_stage_does_not_import_prefect(toy: Path) -> None:
    """Without a server nothing of Prefect slows a stage down."""
    assert "prefect is imported: False" in call(toy, "pipelines.stage", "train").stdout


def test_a_users_mistake_is_one_sentence_and_status_2(toy: Path) -> None:
    """No traceback for what the user can put right."""
    (toy / "behaviour.txt").write_text("mistake")
    done = call(toy, "pipelines.stage", "train")
    assert (done.returncode, done.stderr) == (2, "train: the toy loss is not finite\n")


def test_a_stage_hands_its_sentence_to_the_run_it_belongs_to(toy: Path) -> None:
    """Under a run the sentence goes into a file, and the run says it last."""
    (toy / "behaviour.txt").write_text("mistake")
    done = call(toy, "pipelines.stage", "train", **{FAILURE_FILE: str(toy / "failure.json")})
    assert (done.returncode, done.stderr) == (2, "")
    assert "the toy loss is not finite" in (toy / "failure.json").read_text()


def test_a_bug_shows_its_traceback(toy: Path) -> None:
    """A fault of ours is not dressed up: status 1 and where it happened."""
    (toy / "behaviour.txt").write_text("bug")
    done = call(toy, "pipelines.stage", "train")
    assert done.returncode == 1
    assert "ZeroDivisionError: a toy bug" in done.stderr


def test_an_unknown_variant_gets_the_nearest_name(toy: Path) -> None:
    """`compress` knows the variants of params.yaml."""
    done = call(toy, "pipelines.stage", "compress", "prunned")
    assert done.returncode == 2
    assert "did you mean 'pruned'?" in done.stderr


def test_another_python_is_told_to_activate_the_environment(toy: Path) -> None:
    """A stage started by a python without imagemill says which python that is."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pipelines.stage", "train"],
        cwd=toy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert sys.executable in done.stderr
    assert "source .venv/bin/activate" in done.stderr


def test_a_stopped_stage_ends_what_it_started(toy: Path) -> None:
    """Ctrl-C ends a stage's children, those in sessions of their own too."""
    (toy / "behaviour.txt").write_text("sleep")
    with running(toy, "pipelines.stage", "train") as stage:
        wait_for(lambda: len(processes_of(toy)) == 2, "the child of the stage")
        assert interrupt(stage) == 130
        assert processes_of(toy) == []


_STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""
_MIDDLE = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
"""
_ABOVE = """
import subprocess, sys
from pipelines import processes
processes.adopt_orphans()
middle = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.PIPE)
middle.stdout.readline()
processes.end_descendants(grace_seconds=0.2)
"""


def test_no_descendant_is_left_behind(toy: Path) -> None:
    """A grandchild that lost its parent, left the session and ignores SIGTERM is ended too."""
    subprocess.run(
        [sys.executable, "-c", _ABOVE, _MIDDLE, _STUBBORN],
        cwd=toy,
        env=environment(toy),
        check=True,
        timeout=60,
    )
    assert processes_of(toy) == []


def test_a_silent_server_leaves_a_stage_untracked(toy: Path) -> None:
    """A server that is named and does not answer costs no more than a line."""
    silent = f"http://127.0.0.1:{server.choose_port(None)}/api"
    done = call(toy, "pipelines.stage", "train", PREFECT_API_URL=silent)
    assert done.returncode == 0
    assert "not tracked" in done.stdout


def test_plain_dvc_repro_reads_the_same_project(toy: Path) -> None:
    """`dvc repro` without us, without a server: the stages run, and then all is up to date."""
    call(toy, "imagemill", "scan")
    assert call(toy, "dvc", "repro").returncode == 0
    shutil.rmtree(toy / ".imagemill", ignore_errors=True)
    assert "up to date" in call(toy, "dvc", "repro").stdout
