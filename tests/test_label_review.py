"""Label review: folds, doubts, the list and the page."""

import csv
import io
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_shards import CLASSES, make_shards
from raw_images import run_stages
from sklearn.datasets import load_digits
from trained_project import Recorder, small_params

from imagemill import records
from imagemill.check import check
from imagemill.errors import IntegrityError, ParamsError
from imagemill.label_review import PAGE, label_review, review
from imagemill.label_review.candidates import Candidates, joined, read_candidates
from imagemill.label_review.examination import examine
from imagemill.label_review.fold_project import FOLDER
from imagemill.label_review.folds import assign_folds, learnable
from imagemill.label_review.page import Review, render
from imagemill.label_review.suggestions import Suggestion, as_csv
from imagemill.label_review.thumbnails import thumbnail
from imagemill.params import Params
from imagemill.randomness import key_hashes
from imagemill.records import ShardManifest, write_bytes
from imagemill.sources.pixels import png
from imagemill.steps import directly
from pipelines.augment import augment
from pipelines.label_review import label_review as flow

cleanlab = pytest.importorskip("cleanlab", reason="the extra `labels` is not installed")

SIZE = 12
FLIPPED = ("train/dark/0003", "train/grey/0031", "val/light/0005")
Row = dict[str, Any]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


def params_with(**label_review: object) -> Params:
    """A net of a second's training, and the stage switched on."""
    params = small_params()
    wanted = {"enabled": True, "folds": 3, "epochs": 6} | label_review
    return params.model_copy(update={"label_review": params.label_review.model_copy(update=wanted)})


def make_project(
    root: Path,
    *,
    flipped: Sequence[str] = FLIPPED,
    copies: bool = False,
    known: dict[str, Row] | None = None,
) -> None:
    """Shards of three brightnesses with some labels moved on by one class.

    Args:
        root: The project's root.
        flipped: Keys of images with a wrong label.
        copies: Whether each train image has an offline copy (the same bytes).
        known: Group, near_group and review of some keys.
    """
    make_shards(root, size=SIZE)
    rows = pq.read_table(root / records.SHARD_INDEX).to_pylist()
    for row in rows:
        row["target"] = (row["target"] + (row["key"] in flipped)) % len(CLASSES)
    write_rows(root / records.SHARD_INDEX, rows, records.INDEX_SCHEMA)
    made = [
        row | {"key": f"{row['key']}+1", "parent_key": row["key"]}
        for row in rows
        if copies and row["split"] == "train"
    ]
    write_rows(root / records.AUGMENTED_INDEX, rows + made, records.AUGMENTED_SCHEMA)
    told = [{"key": row["key"]} | (known or {}).get(row["key"], {}) for row in rows]
    for path, names in ((records.MANIFEST, ("group", "review")), (records.KEEP, ("near_group",))):
        columns = pa.schema([(name, pa.string()) for name in ("key", *names)])
        write_rows(root / path, told, columns)


def write_rows(path: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema).sort_by("key"), path)


def run(root: Path, params: Params) -> list[str]:
    """Run the stage; returns what it logged."""
    lines: list[str] = []
    label_review(root, params, log=lines.append, progress=lambda share, name: None)
    return lines


def listed(root: Path) -> list[dict[str, str]]:
    """The lines of reports/label_review.csv."""
    return list(csv.DictReader(io.StringIO((root / records.LABEL_REVIEW).read_text())))


# Folds ---------------------------------------------------------------------------------------


def test_what_shares_a_group_of_any_kind_is_joined() -> None:
    """Rows 0 and 1 share a group, 1 and 3 a near group, so 0 and 3 are joined too."""
    group_N = np.array([7, 7, -1, -1, -1])
    near_N = np.array([-1, 2, -1, 2, -1])
    assert joined(group_N, near_N).tolist() == [0, 0, 2, 0, 4]


def test_a_component_is_in_one_fold() -> None:
    """Joined rows are held out together."""
    component_P = np.arange(200) // 4 * 4
    fold_P = fold_of(component_P, labels_P=component_P % 3)
    assert all(len(set(fold_P[start : start + 4])) == 1 for start in range(0, 200, 4))


def test_each_class_is_dealt_out_evenly() -> None:
    """The folds of a class differ by one image at most, in a class of two images too."""
    labels_P = np.repeat([0, 1, 2], [50, 41, 2])
    fold_P = fold_of(np.arange(93), labels_P)
    for label in range(3):
        counts = np.bincount(fold_P[labels_P == label], minlength=4)
        assert counts.max() - counts.min() <= 1


def test_folds_depend_on_keys_alone() -> None:
    """Another order of the rows gives each key the same fold."""
    labels_P, order = np.arange(40) % 2, np.random.default_rng(0).permutation(40)
    keys = [f"image/{number}" for number in range(40)]
    straight = fold_of(np.arange(40), labels_P, keys)
    mixed = fold_of(np.arange(40), labels_P[order], [keys[place] for place in order])
    assert mixed.tolist() == straight[order].tolist()


def fold_of(
    component_P: np.ndarray[Any, Any], labels_P: np.ndarray[Any, Any], keys: Sequence[str] = ()
) -> np.ndarray[Any, Any]:
    keys = keys or [str(number) for number in range(len(labels_P))]
    learned_P = np.ones(len(labels_P), np.bool_)
    return assign_folds(component_P, labels_P, key_hashes(keys), learned_P, folds=4)


def test_a_class_of_one_fold_cannot_be_learned_elsewhere() -> None:
    """An image is judged only by models that have met its class."""
    fold_P, labels_P = np.array([0, 1, 0, 1, 1]), np.array([0, 0, 1, 2, 2])
    learned_P = np.ones(5, np.bool_)
    assert learnable(fold_P, labels_P, learned_P).tolist() == [True, True, False, False, False]


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Judged":
    """Which rows were learned from and held out in each fold; nothing is trained."""
    known = {
        "train/dark/0000": {"group": "scene"},
        "train/grey/0001": {"group": "scene", "near_group": "a"},
        "val/light/0002": {"near_group": "a"},
    }
    make_project(tmp_path, copies=True, known=known)
    return Judged(tmp_path, monkeypatch)


class Judged:
    """An examination whose folds are noted instead of trained."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.folds = root, []
        path = "imagemill.label_review.examination._Work.judge_fold"
        monkeypatch.setattr(path, self._judge)

    def _judge(self, fold: int, learned_P: Bools, held_P: Bools) -> np.ndarray[Any, Any]:
        self.folds.append((learned_P, held_P))
        return np.full((held_P.sum(), len(CLASSES)), 1 / len(CLASSES), np.float32)

    def examine(self, **label_review: object) -> Candidates:
        """Go through the folds; returns the rows they are made of."""
        return examine(
            self.root,
            params_with(**label_review),
            log=lambda line: None,
            progress=lambda share, name: None,
            step=directly,
        ).candidates


def test_each_original_is_held_out_once(judged: Judged) -> None:
    """Every image of train and val is judged by exactly one model."""
    rows = judged.examine()
    times_P = np.sum([held_P for _, held_P in judged.folds], axis=0)
    assert (times_P == rows.originals()).all()


def test_nothing_is_learned_from_what_is_held_out(judged: Judged) -> None:
    """Neither the image, nor a copy of it, nor its group, nor its near duplicates."""
    component_P = judged.examine().component_P
    for learned_P, held_P in judged.folds:
        assert not set(component_P[learned_P]) & set(component_P[held_P])


def test_a_group_across_splits_is_one_component(judged: Judged) -> None:
    """The chain of a group and a near group reaches from train into val."""
    rows = judged.examine()
    keys = rows.keys.to_pylist()
    chain = [keys.index(key) for key in ("train/dark/0000", "train/grey/0001", "val/light/0002")]
    assert len(set(rows.component_P[chain])) == 1


def test_copies_of_what_is_not_held_out_are_learned_from(judged: Judged) -> None:
    """As many copies of train as originals."""
    rows = judged.examine()
    learned_P = judged.folds[0][0] & rows.of_split("train")
    assert (learned_P & rows.originals()).sum() == (learned_P & ~rows.originals()).sum() > 0


def test_test_is_judged_and_never_learned_from(judged: Judged) -> None:
    """With include_test its images are held out, and in no training."""
    of_test = judged.examine(include_test=True).of_split("test")
    assert not any((of_test & learned_P).any() for learned_P, _ in judged.folds)
    assert sum(int((of_test & held_P).sum()) for _, held_P in judged.folds) == 30


# The stage -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose review has run; not to be changed."""
    root = tmp_path_factory.mktemp("found")
    make_project(root)
    run(root, params_with())
    return root


def test_flipped_labels_are_found(found: Path) -> None:
    """All of them, with the true class suggested, and little else."""
    suggested = {row["key"]: row["suggested_label"] for row in listed(found)}
    true = {key: key.split("/")[1] for key in FLIPPED}
    assert true.items() <= suggested.items()
    assert len(suggested) <= len(FLIPPED) + 2


def test_a_line_says_all_a_decision_needs(found: Path) -> None:
    """Rank, key, the bytes it is about, split, both labels and both probabilities."""
    index = {row["key"]: row for row in pq.read_table(found / records.SHARD_INDEX).to_pylist()}
    for rank, row in enumerate(listed(found), start=1):
        known = index[row["key"]]
        assert int(row["rank"]) == rank
        assert (row["sha256"], row["split"]) == (known["sha256"], known["split"])
        assert row["label"] == CLASSES[known["target"]] != row["suggested_label"]
        assert 0 <= float(row["self_confidence"]) < float(row["suggested_probability"]) <= 1


def test_same_inputs_same_bytes(found: Path, tmp_path: Path) -> None:
    """Training again on another day gives the same list and the same page."""
    make_project(tmp_path)
    run(tmp_path, params_with())
    for path in (records.LABEL_REVIEW, PAGE):
        assert (tmp_path / path).read_bytes() == (found / path).read_bytes()


def test_a_look_at_test_changes_nothing_about_train_and_val(found: Path, tmp_path: Path) -> None:
    """Suggestions about the images that are learned from are the same, probabilities included."""
    make_project(tmp_path, flipped=(*FLIPPED, "test/dark/0003"))
    run(tmp_path, params_with(include_test=True))
    rows = [row for row in listed(tmp_path) if row["split"] != "test"]
    assert [row | {"rank": ""} for row in rows] == [row | {"rank": ""} for row in listed(found)]
    assert "test/dark/0003" in {row["key"] for row in listed(tmp_path)}


def test_neither_cache_nor_decoding_processes_change_the_list(found: Path, tmp_path: Path) -> None:
    """A fold is loaded as every training is: here by a process that decodes on demand."""
    make_project(tmp_path)
    params = params_with()
    on_demand = params.loading.model_copy(update={"cache_bytes": 0, "workers": 1})
    run(tmp_path, params.model_copy(update={"loading": on_demand}))
    path = records.LABEL_REVIEW
    assert (tmp_path / path).read_bytes() == (found / path).read_bytes()


def test_decided_images_are_not_suggested_again(tmp_path: Path) -> None:
    """A review in the manifest, whatever it says, takes the image off the list."""
    make_project(tmp_path, known={FLIPPED[0]: {"review": "keep"}})
    lines = run(tmp_path, params_with())
    keys = {row["key"] for row in listed(tmp_path)}
    assert (FLIPPED[0] in keys, FLIPPED[1] in keys) == (False, True)
    assert "1 decided before" in lines[-1]


def test_a_decision_is_about_the_raw_bytes(tmp_path: Path) -> None:
    """Where a shard holds other bytes than the source, the list names the source's digest."""
    make_project(tmp_path)
    path = tmp_path / records.AUGMENTED_INDEX
    rows = [row | {"raw_sha256": "f" * 64} for row in pq.read_table(path).to_pylist()]
    write_rows(path, rows, records.AUGMENTED_SCHEMA)
    candidates = read_candidates(tmp_path, ("train", "val"))
    assert set(candidates.sha256.to_pylist()) == {"f" * 64}


def test_a_stop_leaves_what_was_there(tmp_path: Path) -> None:
    """Ctrl-C between two folds: the earlier list stays, and nothing lies beside it."""
    make_project(tmp_path)
    run(tmp_path, params_with(enabled=False))
    before = (tmp_path / records.LABEL_REVIEW).read_bytes()

    def stop(line: str) -> None:
        if line.startswith("fold 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_review(tmp_path, params_with(), log=stop, progress=lambda share, name: None)
    assert (tmp_path / records.LABEL_REVIEW).read_bytes() == before
    assert len(list((tmp_path / records.REPORTS).iterdir())) == 2
    assert not (tmp_path / FOLDER).exists()


def test_without_shards_it_says_what_makes_them(tmp_path: Path) -> None:
    """A mistake of the user's, in one sentence."""
    with pytest.raises(IntegrityError, match="dvc repro"):
        run(tmp_path, params_with())


def test_images_of_one_group_cannot_be_judged(tmp_path: Path) -> None:
    """No fold is left to learn from: nothing is suggested, and the page says why."""
    make_project(tmp_path)
    keys = pq.read_table(tmp_path / records.MANIFEST)["key"].to_pylist()
    make_project(tmp_path, known={key: {"group": "patient"} for key in keys})
    lines = run(tmp_path, params_with())
    assert listed(tmp_path) == []
    assert lines[-1].startswith("label-review: 0 of 0 labels")
    assert "90 images were not looked at" in (tmp_path / PAGE).read_text()


def test_switched_off_it_lists_nothing_and_says_how_to_switch_it_on(tmp_path: Path) -> None:
    """A header alone, a page with the switch, and no look at any data."""
    lines = run(tmp_path, params_with(enabled=False))
    assert listed(tmp_path) == []
    assert "label_review.enabled: true" in (tmp_path / PAGE).read_text()
    assert lines == ["label-review: switched off (label_review.enabled)"]


def test_switched_off_it_starts_nothing_heavy() -> None:
    """Neither torch nor cleanlab nor Prefect is imported for a stage that does nothing."""
    heavy = ("torch", "cleanlab", "prefect", "mlflow", "pandas")
    seen = f"import sys, pipelines.label_review; print(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_cleanlab_the_sentence_says_what_to_install(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`imagemill check` tells it before any work; switched off nobody asks."""
    monkeypatch.setattr(review, "find_spec", lambda name: None)
    params = params_with()
    check(project, small_params())
    with pytest.raises(ParamsError, match=re.escape("pip install")):
        check(project, params)


def test_the_flow_shows_which_labels_are_taken_for_which(tmp_path: Path) -> None:
    """One step a fold and a table of pairs."""
    make_project(tmp_path)
    tracker = Recorder()
    flow(tmp_path, params_with(), tracker)
    assert tracker.steps == ["judge_fold"] * 3 + ["reviewed"]
    rows = tracker.tables["doubtful-labels"]
    assert sum(row["images"] for row in rows) == len(listed(tmp_path))


# From flipped labels to new shards -------------------------------------------------------------

FLIP_EVERY = 20


class Digits:
    """Handwritten digits in folders, of which every twentieth lies in the wrong one."""

    def __init__(self, root: Path) -> None:
        self.root, self.true = root, dict[str, str]()
        digits = load_digits(n_class=4)
        for number, (image, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            given = (digit + (number % FLIP_EVERY == 0)) % 4
            key = f"{given}/{number:04d}"
            self.true[key] = str(digit)
            write_bytes(root / f"raw/{key}.png", png(np.rint(image * 255 / 16).astype(np.uint8)))
        self.params = params_with().model_copy(
            update={
                "ingest": params_with().ingest.model_copy(update={"source": "raw"}),
                "shard": params_with().shard.model_copy(update={"max_images": 40}),
            }
        )

    def make_shards(self) -> None:
        """`ingest` to `augment`."""
        run_stages(self.root, self.params)
        augment(self.root, self.params, Recorder())

    def shards(self) -> dict[str, tuple[str, int]]:
        """Digest of each shard, and the inode, which a rewritten one has not kept."""
        manifest = ShardManifest.read(self.root / records.SHARD_MANIFEST)
        return {
            entry.path: (entry.sha256, (self.root / records.DATA / entry.path).stat().st_ino)
            for entry in manifest.shards
        }

    def index(self) -> dict[str, Row]:
        rows = pq.read_table(self.root / records.SHARD_INDEX).to_pylist()
        return {row["key"]: row for row in rows}

    def wrong(self) -> set[str]:
        """Keys in train and val whose label is not the true one."""
        return {
            key
            for key, row in self.index().items()
            if row["split"] != "test" and str(row["target"]) != self.true[key]
        }

    def decide(self) -> set[str]:
        """What a person who knows the digits makes of the suggestions; returns relabelled keys."""
        relabelled = set()
        with (self.root / records.REVIEW).open("w", newline="") as stream:
            lines = csv.writer(stream, lineterminator="\n")
            lines.writerow(("key", "sha256", "action", "label", "reviewer", "date", "note"))
            for row in listed(self.root):
                true = self.true[row["key"]]
                decision = ("keep", "") if true == row["label"] else ("relabel", true)
                lines.writerow((row["key"], row["sha256"], *decision, "Ann", "2026-11-22", ""))
                relabelled |= {row["key"]} if true != row["label"] else set()
        return relabelled


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    """Digits with their shards, before a decision."""
    made = Digits(tmp_path_factory.mktemp("digits"))
    made.make_shards()
    run(made.root, made.params)
    (made.root / "labels").mkdir()
    return made


def test_most_flipped_digits_are_found(digits: Digits) -> None:
    """Nine in ten of the wrong labels, and nine in ten of the suggestions are right."""
    suggested, wrong = {row["key"] for row in listed(digits.root)}, digits.wrong()
    assert len(suggested & wrong) >= 0.9 * len(wrong) > 20
    assert len(suggested & wrong) >= 0.9 * len(suggested)


def test_decisions_reach_the_shards_that_hold_their_images(digits: Digits) -> None:
    """Decided labels are right, other shards are not touched, and nothing is suggested twice."""
    before, suggested = digits.shards(), {row["key"] for row in listed(digits.root)}
    relabelled = digits.decide()
    digits.make_shards()
    index, after = digits.index(), digits.shards()
    assert all(str(index[key]["target"]) == digits.true[key] for key in relabelled)
    touched = {index[key]["shard"] for key in relabelled}
    rewritten = {path for path in after if after[path] != before.get(path)}
    assert rewritten == touched != set(after)
    run(digits.root, digits.params)
    assert not suggested & {row["key"] for row in listed(digits.root)}


# The list and the page -----------------------------------------------------------------------

ODD = '</script><img src=x onerror="alert(1)">, "quoted"'


def suggestion(rank: int, **other: Any) -> Suggestion:
    """A suggestion about an image of class a."""
    told = Suggestion(rank, f"a/{rank}", f"{rank:064d}", "train", "a", "b", 0.01, 0.98)
    return told._replace(**other)


def page_of(suggestions: Sequence[Suggestion], *, num_pictures: int = 10) -> str:
    pixels = np.zeros((8, 8, 1), np.uint8)
    found = Review(
        data_digest="d" * 64,
        classes=["a", "b", ODD],
        num_examined={"train": 100},
        num_lonely=0,
        num_reviewed=0,
        suggestions=suggestions,
        pictures=[thumbnail(pixels)] * min(num_pictures, len(suggestions)),
    )
    return render(params_with(), found).decode()


def test_a_label_with_commas_and_quotes_is_one_field() -> None:
    """The list is CSV as spreadsheets and Python read it."""
    text = as_csv([suggestion(1, label=ODD)]).decode()
    assert next(csv.DictReader(io.StringIO(text)))["label"] == ODD


def test_text_from_outside_is_escaped() -> None:
    """A class may be called what it likes; the page runs nothing of it."""
    html = page_of([suggestion(1, label=ODD, key=ODD)])
    assert ODD not in html
    assert html.count("</script>") == 1


def test_the_page_asks_for_nothing_from_outside() -> None:
    """No address but data URIs, and a policy under which a browser would refuse any other."""
    html = page_of([suggestion(1)])
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert "default-src 'none'" in html


def test_the_page_shows_no_more_pictures_than_wanted() -> None:
    """The rest is in the list, and the page says so."""
    html = page_of([suggestion(rank) for rank in range(1, 6)], num_pictures=2)
    assert html.count('<article class="card"') == 2
    assert "The first 2 are shown" in html


def test_suggestions_about_test_are_marked() -> None:
    """The page warns where a correction would flatter the model."""
    assert 'class="warning"' in page_of([suggestion(1, split="test")])
    assert 'class="warning"' not in page_of([suggestion(1)])


def test_a_large_picture_becomes_small() -> None:
    """A photograph is shown at card size, in its own proportions."""
    pixels = np.random.default_rng(0).integers(0, 256, (600, 300, 3), dtype=np.uint8)
    made = thumbnail(pixels)
    assert (made.width, made.height) == (110, 220)
    assert made.uri.startswith("data:image/jpeg")


# In a browser --------------------------------------------------------------------------------

CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")


@pytest.fixture(scope="module")
def browser_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page of three suggestions, open in a browser from a file."""
    reason = "the page is tried in a browser only after `pip install playwright`"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; `apt-get install chromium` brings it")
    path = tmp_path_factory.mktemp("page") / "label_review.html"
    rows = [suggestion(1), suggestion(2, suggested_label=ODD), suggestion(3, label="b")]
    path.write_text(page_of(rows), encoding="utf-8")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=list(_FLAGS))
        page = browser.new_page()
        page.goto(path.as_uri())
        yield page
        browser.close()


def test_decisions_become_lines_for_the_review_file(browser_page: Any) -> None:
    """Keys, buttons and fields of the page make the CSV that ingest reads."""
    page = browser_page
    page.fill("#reviewer", 'Ann "A", Lee')
    page.focus(".card")
    page.keyboard.press("k")  # and on to the second card
    page.keyboard.press("r")
    page.check(".card:nth-child(3) input[value=drop]")
    page.fill(".card:nth-child(3) .note", "blank, smudged")
    page.check("#header")
    read = csv.DictReader(io.StringIO(page.input_value("#lines")))
    today = page.evaluate("today()")
    common = {"reviewer": 'Ann "A", Lee', "date": today}
    expected = [
        common | {"key": "a/1", "sha256": f"{1:064d}", "action": "keep", "label": "", "note": ""},
        common
        | {"key": "a/2", "sha256": f"{2:064d}", "action": "relabel", "label": ODD}
        | {"note": ""},
        common
        | {"key": "a/3", "sha256": f"{3:064d}", "action": "drop", "label": ""}
        | {"note": "blank, smudged"},
    ]
    assert list(read) == expected


def test_a_reload_keeps_decisions(browser_page: Any) -> None:
    """The browser remembers what was decided about these bytes."""
    browser_page.reload()
    assert "3 of 3 decided" in browser_page.inner_text("#count")


def test_a_label_that_is_no_class_makes_no_line(browser_page: Any) -> None:
    """A slip of the pen is marked and left out."""
    browser_page.fill(".card:nth-child(2) .label", "bb")
    assert "a/2" not in browser_page.input_value("#lines")


def test_undone_is_undecided(browser_page: Any) -> None:
    """`undo` takes the line back."""
    browser_page.click(".card:nth-child(1) .undo")
    assert "a/1" not in browser_page.input_value("#lines")


def test_a_pair_of_labels_can_be_looked_at_alone(browser_page: Any) -> None:
    """The filter hides the cards of other pairs."""
    browser_page.select_option("#pair", label="b → b (1)")
    shown = browser_page.eval_on_selector_all(
        ".card", "cards => cards.filter(card => !card.hidden).map(card => card.dataset.key)"
    )
    assert shown == ["a/3"]
