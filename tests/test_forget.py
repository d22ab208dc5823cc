"""An image that has to go: what is touched, and the way up to the shards."""

import csv
from pathlib import Path

import pytest
from raw_images import rows_of
from traced_project import make_traced, registered

from imagemill import records
from imagemill.audit import audit
from imagemill.errors import SourceError
from imagemill.forget import forget, plan_forgetting
from imagemill.ingest import ingest
from imagemill.params import Params
from imagemill.shard import shard
from imagemill.split import split


@pytest.fixture
def project(tmp_path: Path) -> tuple[Path, Params]:
    """Thirty images and a duplicate of one, with shards, copies and two models."""
    return tmp_path, make_traced(tmp_path)


def key_in(root: Path, wanted: str) -> str:
    rows = rows_of(root / records.SHARD_INDEX)
    return next(row["key"] for row in rows if row["split"] == wanted)


def rebuild(params: Params, root: Path) -> None:
    """What `dvc repro shard` would run."""
    for stage, settings in (
        (ingest, params.ingest), (audit, params.audit), (split, params.split), (shard, params.shard)
    ):  # fmt: skip
        stage(root, settings, log=lambda line: None)  # type: ignore[operator]


def apply(project: tuple[Path, Params], key: str) -> list[str]:
    root, params = project
    lines: list[str] = []
    forget(
        root,
        plan_forgetting(root, key, registered(root)),
        by="ann",
        date="2026-11-27",
        say=lines.append,
        rebuild=lambda root: rebuild(params, root),
    )
    return lines


def test_plan_names_shard_copies_and_models(project: tuple[Path, Params]) -> None:
    """What is written again, made no more, and trained anew; nothing is changed."""
    root, _ = project
    key = key_in(root, "train")
    before = sorted(path for path in root.rglob("*") if path.is_file())
    text = str(plan_forgetting(root, key, registered(root)))
    assert "is written again, with" in text
    assert "copies: 1 are made no more" in text
    assert "train anew: int8 (version 2, champion, made from base), trained on it" in text
    assert f"yours to delete: raw/{key}.png in the source" in text
    assert sorted(path for path in root.rglob("*") if path.is_file()) == before


def test_image_of_test_is_measured_anew_only(project: tuple[Path, Params]) -> None:
    """No model learned from it."""
    plan = plan_forgetting(project[0], key_in(project[0], "test"), registered(project[0]))
    assert plan.learned == ()
    assert "measure anew: int8" in str(plan)


def test_applied_it_is_in_no_shard(project: tuple[Path, Params]) -> None:
    """Neither its row nor its bytes are left below data/shards."""
    root, _ = project
    key = key_in(root, "train")
    content = (root / "raw" / f"{key}.png").read_bytes()
    apply(project, key)
    assert key not in {row["key"] for row in rows_of(root / records.SHARD_INDEX)}
    assert not any(content in tar.read_bytes() for tar in (root / "data/shards").rglob("*.tar"))


def test_its_duplicates_go_with_it(project: tuple[Path, Params]) -> None:
    """A second file with the same bytes would else take its place."""
    root, _ = project
    kept = plan_forgetting(root, "top/twice", ()).same_bytes
    assert len(kept) == 2
    apply(project, "top/twice")
    left = {row["key"] for row in rows_of(root / records.SHARD_INDEX)}
    assert not left & set(kept)


def test_decision_is_a_line_people_can_read(project: tuple[Path, Params]) -> None:
    """labels/review.csv gets it behind what is there."""
    root, _ = project
    key = key_in(root, "train")
    (root / "labels").mkdir(exist_ok=True)
    header = "key,sha256,action,label,reviewer,date,note"
    (root / "labels/review.csv").write_text(f"{header}\nold/key,{'a' * 64},keep,,bob,,", "utf-8")
    apply(project, key)
    *_, kept, added = csv.reader((root / "labels/review.csv").open(encoding="utf-8"))
    assert kept[:3] == ["old/key", "a" * 64, "keep"]
    assert (added[0], added[2], added[4], added[5]) == (key, "drop", "ann", "2026-11-27")


def test_caches_of_pixels_go(project: tuple[Path, Params]) -> None:
    """Decoded images are kept in .imagemill to save time: they hold it too."""
    root, _ = project
    (root / ".imagemill/decoded").mkdir()
    apply(project, key_in(root, "train"))
    assert not (root / ".imagemill/decoded").exists()


def test_only_images_can_be_forgotten(project: tuple[Path, Params]) -> None:
    """A model is not."""
    with pytest.raises(SourceError, match="int8 is a version: expected the key or the file"):
        plan_forgetting(project[0], "int8", registered(project[0]))
