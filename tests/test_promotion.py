"""Promotions in a real registry: what moves, what stays, and what is written down."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from registered_project import NAME, Registered

from imagemill import tracking
from imagemill.errors import IntegrityError, ServiceError, UnknownNameError, UserError
from imagemill.promote import Decision
from imagemill.tracking.history import Promotion
from imagemill.tracking.promotion import JOURNAL
from imagemill.tracking.store import Store

AT = "2026-11-27T12:00:00Z"
BEFORE = {"champion": 4, "challenger": 1, "fastest-within-1pt": 4, "smallest-within-1pt": 2}
BETTER: dict[str, Any] = {"val_top1": 0.998, "val_top1_ci95": [0.996, 1.0]}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Registered:
    """A registry in which `pruned`, version 2, has become clearly better than the champion."""
    project = Registered(tmp_path_factory.mktemp("promoted"), empty_store)
    project.measure("pruned", **BETTER)
    assert project.aliases() == BEFORE
    return project


@pytest.fixture
def project(registry: Registered) -> Registered:
    """The same before any promotion: what the test before this one moved is where it was."""
    for alias, number in BEFORE.items():
        registry.client.set_registered_model_alias(NAME, alias, str(number))
    for tag in registry.client.get_registered_model(NAME).tags:
        registry.client.delete_registered_model_tag(NAME, tag)
    for name in ("promotion.json", "promotions.jsonl"):
        (registry.root / "reports" / name).unlink(missing_ok=True)
    return registry


def promote(project: Registered, name: str = "pruned", **more: Any) -> tuple[Decision, Promotion]:
    params = more.pop("params", project.params)
    return tracking.promote(project.root, params, name, by="ann", at=AT, **more)


def history(project: Registered) -> list[dict[str, Any]]:
    """Lines of reports/promotions.jsonl."""
    text = (project.root / "reports/promotions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_registration_gives_four_aliases(project: Registered) -> None:
    """Champion, challenger, fastest and smallest within a point of the champion."""
    assert project.aliases() == BEFORE


def test_promotion_moves_champion_and_challenger(project: Registered) -> None:
    """The promoted version is champion, the former one challenges it."""
    decision, _ = promote(project)
    assert decision.promoted
    after = project.aliases()
    assert (after["champion"], after["challenger"]) == (2, 4)


def test_specialists_follow_the_champion(project: Registered) -> None:
    """What is more than a point below the new champion is no longer fastest."""
    promote(project)
    assert project.aliases()["fastest-within-1pt"] == 2


def test_promotion_is_written_down(project: Registered) -> None:
    """Who, when, why, from and to: in the file, in the registry and on the version."""
    promote(project, why="it is better")
    (line,) = history(project)
    told = {key: line[key] for key in ("at", "by", "why", "from_version", "to_version", "kind")}
    assert told == {
        "at": AT, "by": "ann", "why": "it is better", "from_version": 4, "to_version": 2,
        "kind": "promotion",
    }  # fmt: skip
    tags = project.client.get_registered_model(NAME).tags
    assert json.loads(tags["promotion.000001"]) == line
    assert project.client.get_model_version(NAME, "2").tags["promoted_by"] == "ann"


def test_decision_states_test(project: Registered) -> None:
    """Top-1 on test stands in the record of both; the reasons speak of val alone."""
    _, move = promote(project)
    assert move.test == {"from": 0.975, "to": 0.975}
    assert not any("test" in reason for reason in move.reasons)


def test_refusal_moves_nothing_and_says_why(project: Registered) -> None:
    """The base is no better than the champion: refused, with a reason a gate, no history."""
    decision, move = promote(project, "base")
    assert not decision.promoted
    assert move.kind == "refusal"
    assert project.aliases() == BEFORE
    assert Promotion.read(project.root / "reports/promotion.json") == move
    assert not (project.root / "reports/promotions.jsonl").exists()


def test_policy_is_read_from_params(project: Registered) -> None:
    """A limit in params.yaml bars who would else be promoted."""
    decision, _ = promote(project, params=project.with_policy(max_latency_ms=0.1))
    assert [gate.name for gate in decision.gates if not gate.passed] == ["latency"]


def test_preview_moves_nothing(project: Registered) -> None:
    """The decision alone writes no file and moves no alias."""
    assert tracking.preview(project.root, project.params, "pruned").promoted
    assert project.aliases() == BEFORE
    assert not (project.root / "reports/promotion.json").exists()


def test_rollback_restores_every_alias(project: Registered) -> None:
    """One call, and all four are where they were."""
    promote(project)
    move = tracking.roll_back(project.root, project.params, by="bob", at=AT)
    assert project.aliases() == BEFORE
    assert [line["kind"] for line in history(project)] == ["promotion", "rollback"]
    assert (move.from_version, move.to_version, move.by) == (2, 4, "bob")


def test_nothing_to_roll_back(project: Registered) -> None:
    """What was never promoted, or was taken back already, is not taken back."""
    promote(project)
    tracking.roll_back(project.root, project.params, by="bob", at=AT)
    with pytest.raises(UserError, match="no promotion to take back"):
        tracking.roll_back(project.root, project.params, by="bob", at=AT)


def test_history_survives_its_file(project: Registered) -> None:
    """A lost promotions.jsonl is written again from the registry by the next move."""
    promote(project)
    (project.root / "reports/promotions.jsonl").unlink()
    tracking.roll_back(project.root, project.params, by="bob", at=AT)
    assert [line["kind"] for line in history(project)] == ["promotion", "rollback"]


def test_swapped_model_is_not_promoted(project: Registered) -> None:
    """Bytes that are not those registered are refused before anything moves."""
    (file,) = (project.root / "mlartifacts").glob("models/*/artifacts/data/pruned/model.onnx")
    registered = file.read_bytes()
    file.write_bytes(b"other bytes")
    try:
        with pytest.raises(IntegrityError, match="refused"):
            promote(project)
    finally:
        file.write_bytes(registered)
    assert project.aliases() == BEFORE


def test_whoever_has_to_agree_may_refuse(project: Registered) -> None:
    """Nothing has moved when a person says no."""

    def refuse(decision: Decision) -> str:
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        promote(project, agree=refuse)
    assert project.aliases() == BEFORE


def test_registry_that_fails_in_the_middle_keeps_old_aliases(
    project: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store refuses the champion after the other aliases moved: they move back."""
    set_alias = Store.set_alias

    def failing(self: Store, alias: str, number: int) -> None:
        if (alias, number) == ("champion", 2):
            raise ServiceError("the disk is full")
        set_alias(self, alias, number)

    monkeypatch.setattr(Store, "set_alias", failing)
    with pytest.raises(ServiceError, match="disk is full"):
        promote(project)
    assert project.aliases() == BEFORE


KILLED = """
import os, signal
from pathlib import Path
from imagemill import tracking
from imagemill.params import read_params
from imagemill.tracking import history, promotion
from imagemill.tracking.store import Store

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

{deadly} = kill
root = Path({root!r})
tracking.promote(root, read_params(root), "pruned", by="ann", at={at!r})
"""


def killed(project: Registered, deadly: str) -> None:
    """A promotion whose process is killed where it calls something."""
    code = KILLED.format(deadly=deadly, root=str(project.root), at=AT)
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL


def test_killed_before_the_champion_moved(project: Registered) -> None:
    """Killed at its first move, the next look at the registry finds all aliases as they were."""
    killed(project, "Store.set_alias")
    assert project.aliases()["champion"] == 4
    promote(project, "base")
    assert project.aliases() == BEFORE
    assert not (project.root / JOURNAL).exists()


def test_killed_after_the_champion_moved(project: Registered) -> None:
    """Killed when the aliases had moved, the next one writes the history that is missing."""
    killed(project, "promotion.write_down")
    assert project.aliases()["champion"] == 2
    project.register()
    assert [line["to_version"] for line in history(project)] == [2]


def test_unknown_version_names_the_nearest(project: Registered) -> None:
    """A slip of the finger is answered with the name that was meant."""
    with pytest.raises(UnknownNameError, match="did you mean 'pruned'"):
        promote(project, "prunde")
