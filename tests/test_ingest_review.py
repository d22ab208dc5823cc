"""Ingest applies labels/review.csv: what people decided, to the images it was about."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from raw_images import params_for, picture, pictures, rows_of, write_files

from imagemill import records
from imagemill.errors import ReviewError, SourceError, UserError
from imagemill.ingest import SUMMARY, ingest


def log_of(root: Path) -> str:
    """What ingest says."""
    lines: list[str] = []
    ingest(root, params_for("raw").ingest, log=lines.append)
    return lines[-1]


HEADER = "key,sha256,action,label,reviewer,date,note"


def review(root: Path, *lines: str, header: str = HEADER) -> None:
    """Write labels/review.csv."""
    (root / "labels").mkdir(exist_ok=True)
    (root / "labels/review.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def line(row: Mapping[str, object], action: str, label: str = "", *, note: str = "") -> str:
    """A decision about a row of the manifest."""
    return f"{row['key']},{row['sha256']},{action},{label},ada,2026-11-22,{note}"


@pytest.fixture
def reviewed(tmp_path: Path) -> Path:
    """A project whose source was ingested once."""
    write_files(tmp_path / "raw", pictures({"cat": 3, "dog": 3}) | {"unlabelled/x.png": picture(9)})
    log_of(tmp_path)
    return tmp_path


def by_key(root: Path) -> dict[str, dict[str, object]]:
    """The manifest, by key."""
    return {row["key"]: row for row in rows_of(root / records.MANIFEST)}


def test_decisions_are_applied(reviewed: Path) -> None:
    """relabel gives another class; drop and keep are noted; other rows stay as they were."""
    before = by_key(reviewed)
    review(
        reviewed,
        line(before["cat/000"], "relabel", "dog", note='"a dog, surely"'),
        line(before["cat/001"], "drop"),
        line(before["dog/003"], "keep"),
    )
    after = by_key(again(reviewed))
    changed = {key: row for key, row in after.items() if row != before[key]}
    assert changed == {
        "cat/000": before["cat/000"] | {"target": "dog", "review": "relabel"},
        "cat/001": before["cat/001"] | {"review": "drop"},
        "dog/003": before["dog/003"] | {"review": "keep"},
    }


def again(root: Path) -> Path:
    """The same root after another ingest."""
    log_of(root)
    return root


def test_changed_line_changes_its_rows_only(reviewed: Path) -> None:
    """A second version of the file changes the row it is about, and reads no image."""
    rows = by_key(reviewed)
    review(reviewed, line(rows["cat/000"], "relabel", "dog"), line(rows["cat/001"], "drop"))
    before = by_key(again(reviewed))
    review(reviewed, line(rows["cat/000"], "relabel", "dog"), line(rows["cat/001"], "keep"))
    assert "; 0 read" in log_of(reviewed)
    after = by_key(reviewed)
    assert [key for key in after if after[key] != before[key]] == ["cat/001"]


def test_labelled_by_hand_leaves_the_unlabelled(reviewed: Path) -> None:
    """An image that got its class from a person can be trained on."""
    row = by_key(reviewed)["unlabelled/x"]
    review(reviewed, line(row, "relabel", "cat"))
    after = by_key(again(reviewed))["unlabelled/x"]
    assert (after["target"], after["split"]) == ("cat", None)
    summary = json.loads((reviewed / SUMMARY).read_bytes())
    assert (summary["num_unlabelled"], summary["given_splits"]) == (0, {})
    assert summary["classes"] == {"cat": 4, "dog": 3}


def test_stale_and_unknown_decisions_are_told(reviewed: Path) -> None:
    """A decision about other bytes or an unknown key changes nothing, and is counted."""
    rows = by_key(reviewed)
    review(
        reviewed,
        line(rows["cat/000"] | {"sha256": "0" * 64}, "drop"),
        line({"key": "bird/1", "sha256": "1" * 64}, "drop"),
        line(rows["dog/003"], "keep"),
    )
    told = log_of(reviewed)
    assert "decisions: 1 applied, 1 stale" in told and "1 about unknown keys" in told
    content = (reviewed / records.REVIEW).read_bytes()
    assert json.loads((reviewed / SUMMARY).read_bytes())["review"] == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "num_applied": 1,
        "num_stale": 1,
        "num_unknown": 1,
    }
    assert by_key(reviewed)["cat/000"] == rows["cat/000"]


def test_last_line_about_an_image_counts(reviewed: Path) -> None:
    """Who changes their mind adds a line."""
    row = by_key(reviewed)["cat/000"]
    review(reviewed, line(row, "drop"), line(row, "relabel", "dog"), line(row, "keep"))
    after = by_key(again(reviewed))["cat/000"]
    assert (after["review"], after["target"]) == ("keep", "cat")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cat/000,SHA,relable,dog,,,", "action .line 2 of labels/review.csv. is called 'relable'"),
        ("cat/000,SHA,relabel,dgo,,,", "class .line 2 of labels/review.csv. is called 'dgo'"),
        ("cat/000,SHA,relabel,,,,", "line 2 .* says relabel: expected the new label"),
        ("cat/000,SHA,drop,dog,,,", "line 2 .* says drop: expected no label, got 'dog'"),
        ("cat/000,SHA,drop", "line 2 .* has 3 fields, expected 7"),
        ("cat/000,abc,drop,,,,", "line 2 .* needs a key and the sha256"),
        ('cat/000,SHA,drop,,,,"x', "is no CSV file"),
    ],
)
def test_odd_review(reviewed: Path, text: str, told: str) -> None:
    """A line that does not say what it must is named, and the manifest stays."""
    row = by_key(reviewed)["cat/000"]
    before = (reviewed / records.MANIFEST).read_bytes()
    review(reviewed, text.replace("SHA", str(row["sha256"])))
    with pytest.raises(UserError, match=told):
        log_of(reviewed)
    assert (reviewed / records.MANIFEST).read_bytes() == before


def test_review_with_another_header(reviewed: Path) -> None:
    """Columns in another order would be read wrongly, so they are refused."""
    review(reviewed, header="sha256,key,action,label,reviewer,date,note")
    with pytest.raises(ReviewError, match="begins with 'sha256,key"):
        log_of(reviewed)


def test_drops_may_not_leave_one_class(reviewed: Path) -> None:
    """Decisions that take the last image of the second class away end in a sentence."""
    rows = by_key(reviewed)
    review(reviewed, *(line(rows[f"dog/00{n}"], "relabel", "cat") for n in (3, 4, 5)))
    with pytest.raises(SourceError, match=r"one class only .'cat'."):
        log_of(reviewed)
