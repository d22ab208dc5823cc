"""What nothing refers to: named first, freed if asked to, and never what is needed."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from registered_project import NAME, Registered

from imagemill import tracking
from imagemill.errors import BusyError
from imagemill.gc import Collection, collect, free

LATER = 1000.0  # seconds: what is young now is old by then


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Registered:
    """A registry in which version 3 was deleted by hand."""
    project = Registered(tmp_path_factory.mktemp("registry"), empty_store)
    project.client.delete_model_version(NAME, "3")
    return project


class Repository:
    """A git repository with a DVC cache, filled by hand as `dvc add` would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / ".dvc").mkdir()
        (root / ".dvc/config").write_text("")
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> str:
        git = ["git", "-C", str(self.root), "-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run([*git, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def cached(self, content: bytes, *, ending: str = "") -> str:
        """Put bytes into the cache; returns their name in it."""
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest() + ending
        path = self.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return digest

    def lock(self, *digests: str) -> None:
        """A dvc.lock that lists outputs."""
        outputs = [{"path": f"out{place}", "md5": one} for place, one in enumerate(digests)]
        document = {"schema": "2.0", "stages": {"train": {"outs": outputs}}}
        (self.root / "dvc.lock").write_text(json.dumps(document))

    def commit(self) -> str:
        self.git("add", "dvc.lock")
        self.git("commit", "-q", "-m", "outputs")
        return self.git("rev-parse", "HEAD")


def names(found: Collection, area: str) -> list[str]:
    return [entry.name for entry in found.entries if entry.area == area]


def test_cache_keeps_what_branches_and_the_workspace_need(
    tmp_path: Path, registry: Registered
) -> None:
    """Only the object that no dvc.lock lists can go."""
    repository = Repository(tmp_path)
    on_main, on_branch, here, nowhere = (
        repository.cached(content) for content in (b"main", b"branch", b"here", b"nowhere")
    )
    repository.lock(on_main)
    repository.commit()
    repository.git("checkout", "-q", "-b", "other")
    repository.lock(on_branch)
    repository.commit()
    repository.lock(here)
    assert names(collect(tmp_path, registry.params, now=0.0), "DVC cache") == [nowhere]


def test_cache_keeps_the_files_of_listed_folders(tmp_path: Path, registry: Registered) -> None:
    """A folder is one object that lists others: they are needed with it."""
    repository = Repository(tmp_path)
    inside = repository.cached(b"a file of a folder")
    listing = json.dumps([{"md5": inside, "relpath": "a"}]).encode()
    repository.lock(repository.cached(listing, ending=".dir"))
    repository.commit()
    assert names(collect(tmp_path, registry.params, now=0.0), "DVC cache") == []


def test_cache_keeps_what_an_alias_needs(tmp_path: Path, empty_store: Path) -> None:
    """The commit of a champion that is on no branch any more still counts."""
    repository = Repository(tmp_path)
    of_champion = repository.cached(b"the champion's data")
    repository.lock(of_champion)
    repository.commit()
    project = Registered(tmp_path, empty_store)
    repository.lock(repository.cached(b"newer"))
    repository.git("add", "dvc.lock")
    repository.git("commit", "-q", "--amend", "-m", "the former one is on no branch")
    repository.git("reflog", "expire", "--expire=now", "--all")
    assert names(collect(tmp_path, project.params, now=0.0), "DVC cache") == []
    for alias in list(project.aliases()):
        project.client.delete_registered_model_alias(NAME, alias)
    assert names(collect(tmp_path, project.params, now=0.0), "DVC cache") == [of_champion]


def test_cache_finds_the_lock_that_was_committed_after_the_run(
    tmp_path: Path, empty_store: Path
) -> None:
    """A registration is done before its dvc.lock can be committed: the later commit counts."""
    repository = Repository(tmp_path)
    repository.lock()
    repository.commit()
    of_champion = repository.cached(b"the champion's data")
    repository.lock(of_champion)
    project = Registered(tmp_path, empty_store)
    repository.commit()
    nowhere = repository.cached(b"nowhere")
    repository.lock(repository.cached(b"newer"))
    repository.commit()
    assert names(collect(tmp_path, project.params, now=0.0), "DVC cache") == [nowhere]


def test_cache_is_left_alone_while_a_lock_is_missing(tmp_path: Path, empty_store: Path) -> None:
    """Whose dvc.lock nobody committed may need anything: nothing goes, and that is said."""
    repository = Repository(tmp_path)
    repository.lock()
    repository.commit()
    repository.lock(repository.cached(b"the champion's data"))
    project = Registered(tmp_path, empty_store)
    repository.lock(repository.cached(b"newer"))
    found = collect(tmp_path, project.params, now=0.0)
    assert names(found, "DVC cache") == []
    assert "(version 4) is in no commit here; commit it after each run" in str(found)


def test_cache_outside_git_is_left_alone(tmp_path: Path, registry: Registered) -> None:
    """Without branches to look at nothing is named, and that is said."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/cache/files/md5/ab").mkdir(parents=True)
    (tmp_path / ".dvc/cache/files/md5/ab/c").write_text("x")
    found = collect(tmp_path, registry.params, now=0.0)
    assert found.entries == ()
    assert "left alone" in str(found)


def test_registry_names_run_and_model_of_a_deleted_version(registry: Registered) -> None:
    """Both, with their bytes; those of versions that are there are not named."""
    found = collect(registry.root, registry.params, now=time.time() + LATER)
    assert [(one.kind, one.name) for one in found.waste] == [
        ("run", "distilled"), ("model", "distilled")
    ]  # fmt: skip
    assert found.size_bytes > 0


def test_young_runs_are_left_alone(registry: Registered) -> None:
    """A registration may be between its run and its version."""
    assert collect(registry.root, registry.params, now=time.time()).waste == ()


def test_freeing_removes_what_was_named_and_nothing_else(tmp_path: Path, empty_store: Path) -> None:
    """Afterwards nothing is left to free, and every version still opens."""
    project = Registered(tmp_path, empty_store)
    project.client.delete_model_version(NAME, "3")
    before = len(list((tmp_path / "mlartifacts/models").iterdir()))
    free(tmp_path, project.params, collect(tmp_path, project.params, now=time.time() + LATER))
    assert collect(tmp_path, project.params, now=time.time() + LATER).entries == ()
    folders = [path for path in (tmp_path / "mlartifacts/models").iterdir() if any(path.rglob("*"))]
    assert len(folders) == before - 1
    assert {one.version for one in tracking.known_versions(tmp_path, project.params)} == {1, 2, 4}


def test_checkpoints_older_than_the_base_can_go(tmp_path: Path, registry: Registered) -> None:
    """A training that was left unfinished before models/base was made is not gone on with."""
    for name, stamp in (("old", 1000.0), ("new", 3000.0)):
        job = tmp_path / ".imagemill/train" / name
        job.mkdir(parents=True)
        (job / "step-1.safetensors").write_bytes(b"x" * 100)
        os.utime(job / "step-1.safetensors", (stamp, stamp))
    (tmp_path / "models/base").mkdir(parents=True)
    (tmp_path / "models/base/model.json").write_text("{}")
    os.utime(tmp_path / "models/base/model.json", (2000.0, 2000.0))
    found = collect(tmp_path, registry.params, now=0.0)
    assert [(entry.name, entry.size_bytes) for entry in found.entries] == [
        (".imagemill/train/old", 100)
    ]
    free(tmp_path, registry.params, found)
    assert [path.name for path in (tmp_path / ".imagemill/train").iterdir()] == ["new"]


def test_nothing_is_freed_while_a_run_is_at_work(tmp_path: Path, registry: Registered) -> None:
    """Whoever holds the run's lock is making things nothing refers to yet."""
    (tmp_path / ".imagemill").mkdir()
    with (tmp_path / ".imagemill/run.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="a run is at work"):
            collect(tmp_path, registry.params, now=0.0)


def test_command_says_first_and_removes_nothing(registry: Registered) -> None:
    """Without --apply it is a list with a sum."""
    done = subprocess.run(
        [sys.executable, "-m", "imagemill", "gc"],
        cwd=registry.root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "things nothing refers to, " in done.stdout
