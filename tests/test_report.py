"""The one-page report."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from finished_project import (
    AUDITED,
    CLASSES,
    make_project,
    write_all_reports,
    write_evaluation,
    write_registration,
)
from PIL import Image

from imagemill.errors import IntegrityError
from imagemill.params import Params
from imagemill.records import write_json
from imagemill.report import report
from imagemill.report.charts import Line, line_chart, nice_ticks, short, thinned
from imagemill.report.contents import class_rows
from imagemill.report.images import embed

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Reads a page and notes what a reader or a browser would meet."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.rows: list[str] = []
        self.captions = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.captions += tag == "figure"
        self.rows += [""] if tag == "tr" else []
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if "tr" in self.open:
            self.rows[-1] += f" {data} "

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def row(self, start: str) -> str:
        rows = [" ".join(row.split()) for row in self.rows]
        (found,) = [row for row in rows if row.startswith(start)]
        return found


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, Params]:
    """A project of which only the report is missing."""
    params = make_project(tmp_path)
    write_all_reports(tmp_path, params)
    return tmp_path, params


def write_and_read(finished: tuple[Path, Params]) -> str:
    root, params = finished
    report(root, params, log=lambda line: None)
    return (root / "reports/index.html").read_text(encoding="utf-8")


def test_page_is_well_formed(finished: tuple[Path, Params]) -> None:
    """Every element that is opened is closed, in order."""
    assert Page(write_and_read(finished)).open == []


def test_page_needs_nothing_else(finished: tuple[Path, Params]) -> None:
    """Whatever a browser would load is inside; the one link goes to the user's own MLflow."""
    html = write_and_read(finished)
    addresses = Page(html).addresses
    links = [address for address in addresses if not address.startswith("data:")]
    assert links == ["http://127.0.0.1:5000/#/compare-model-versions?name=x"]
    assert not re.search(r"<script|@import|url\(", html)


def test_same_files_same_bytes(finished: tuple[Path, Params]) -> None:
    """The page knows no clock and no order but that of its files."""
    assert write_and_read(finished) == write_and_read(finished)


def test_row_of_a_variant(finished: tuple[Path, Params]) -> None:
    """A variant's row has its figures, its verdict and its version."""
    row = Page(write_and_read(finished)).row("int8 accepted")
    for words in ("97.50 %", "95.00 % to 99.00 %", "249.0 kB", "0.250", "version 4", "champion"):
        assert words in row


def test_unknown_energy_is_told(finished: tuple[Path, Params]) -> None:
    """Where no energy can be read the page says so."""
    assert "not measurable here" in Page(write_and_read(finished)).row("base base")


def test_known_energy_is_shown(finished: tuple[Path, Params]) -> None:
    """Where one variant has it, the others show a dash."""
    root, _ = finished
    write_evaluation(
        root,
        "int8",
        val_top1_ci95=[0.96, 0.99],
        latency_ms_p50=0.25,
        verdict="accepted",
        energy_joules_per_1000=1.234,
    )
    page = Page(write_and_read(finished))
    assert page.row("int8 accepted").endswith("1.23")
    assert page.row("base base").endswith("–")


def test_verdicts_have_reasons(finished: tuple[Path, Params]) -> None:
    """Each verdict is followed by why."""
    assert (
        "distilled rejected what was found about distilled" in Page(write_and_read(finished)).text
    )


def test_champion_of_earlier_content(finished: tuple[Path, Params]) -> None:
    """If none of these versions is champion the page does not pretend one is."""
    root, params = finished
    write_registration(root, params, champion="earlier")
    text = Page(write_and_read(finished)).text
    assert "champion version 4 earlier, of earlier content" in text
    assert "top-1 on test, base" in text


def test_quarantine_is_listed(finished: tuple[Path, Params]) -> None:
    """Quarantined images are named with check and reason."""
    page = Page(write_and_read(finished))
    assert page.row("top/a") == "top/a decode truncated"
    assert "decode 1, duplicate 1." in page.text


def test_clean_audit_says_so(finished: tuple[Path, Params]) -> None:
    """Nothing quarantined is a sentence, not an empty table."""
    clean = {"num_quarantined": 0, "quarantined_by_check": {}, "first_quarantined": []}
    write_json(finished[0] / "data/audit/report.json", AUDITED | clean | {"classes": {}})
    assert "No image had to be left out." in Page(write_and_read(finished)).text


def test_words_from_outside_are_escaped(finished: tuple[Path, Params]) -> None:
    """A file name or class cannot put code on the page."""
    bad = {"key": "<script>alert(1)</script>", "uri": "x", "check": "decode", "reason": "<b>"}
    audited = AUDITED | {"first_quarantined": [bad], "classes": {"<i>": 1}}
    write_json(finished[0] / "data/audit/report.json", audited)
    html = write_and_read(finished)
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_pictures_are_inside(finished: tuple[Path, Params]) -> None:
    """Pictures that exist are embedded, others are left out."""
    page = Page(write_and_read(finished))
    # contact sheet, comparison, Grad-CAM and a confusion matrix a variant
    assert page.captions == 3 + 4


def test_training_is_told(finished: tuple[Path, Params]) -> None:
    """The ledger and the curves of the base are there."""
    page = Page(write_and_read(finished))
    assert "Ledger: 400 images consumed, 0 missing, 0 twice in an epoch." in page.text
    for title in ("Loss", "Top-1, %", "Learning rate"):
        assert title in page.text
    assert "Images per second" not in page.text  # nothing of it in this metrics.jsonl


def test_lineage_is_told(finished: tuple[Path, Params]) -> None:
    """Digests, revision and chain of each variant are there."""
    page = Page(write_and_read(finished))
    assert "d" * 64 in page.text
    assert page.row("pruned base → prune").endswith(f"{'2' * 12} {'c' * 12}")
    assert f"git checkout {'c' * 12}" in page.text


def test_missing_stage_is_named(finished: tuple[Path, Params]) -> None:
    """A file that is not there is named, and no page is written."""
    (finished[0] / "reports/register.json").unlink()
    with pytest.raises(IntegrityError, match=r"register\.json does not exist"):
        write_and_read(finished)
    assert not (finished[0] / "reports/index.html").exists()


def test_many_classes_are_cut_to_the_worst(finished: tuple[Path, Params]) -> None:
    """Of more classes than fit, those the base finds least often are listed."""
    root, _ = finished
    scores = [
        {"class": f"c{n}", "num_images": 5, "recall": n / 100, "precision": 1, "f1": 1}
        for n in range(99, -1, -1)
    ]
    evaluation = write_evaluation(
        root, "base", val_top1_ci95=[0.9, 1], latency_ms_p50=1.0, verdict="base", per_class=scores
    )
    rows = class_rows([evaluation])
    assert [row.name for row in rows] == [f"c{n}" for n in range(30)]


def test_classes_stay_in_order(finished: tuple[Path, Params]) -> None:
    """Classes that fit stand in the order of their ids."""
    page = write_and_read(finished)
    places = [page.index(f"<tr><td>{name}</td>") for name in CLASSES]
    assert places == sorted(places)


def test_report_needs_neither_torch_nor_mlflow() -> None:
    """The report starts fast: it reads files and writes one."""
    code = "import sys, imagemill.report; print('torch' in sys.modules, 'mlflow' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["False", "False"]


# Charts and pictures -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0]),
        (0.56, 1.71, [0.5, 1.0, 1.5, 2.0]),
        (960, 2050, [500, 1000, 1500, 2000, 2500]),
        (0.0, 0.0, [0.0, 0.5, 1.0]),
        (3.0, 3.0, [1.0, 2.0, 3.0, 4.0, 5.0]),
        (-1.0, 1.0, [-1.0, -0.5, 0.0, 0.5, 1.0]),
    ],
)
def test_ticks_are_round_and_cover(low: float, high: float, ticks: list[float]) -> None:
    """Ticks are round numbers that enclose all values."""
    found = nice_ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert found == ticks


def test_chart_stays_in_its_frame() -> None:
    """No point lies outside the picture."""
    points = [(1.0, 5.0), (2.0, -3.0), (9.0, 1e6)]
    chart = line_chart("Loss", [Line("train", points)])
    for x, y in re.findall(r"([\d.]+),([\d.]+)", chart.split("points=")[1].split('"')[1]):
        assert 0 <= float(x) <= 340
        assert 0 <= float(y) <= 190


def test_one_point_is_a_chart() -> None:
    """A training of one line is drawn too."""
    assert "circle" in line_chart("Loss", [Line("train", [(1.0, 0.5)])])


def test_long_curves_are_thinned() -> None:
    """Many points become a few hundred; the ends stay."""
    points = [(float(n), float(n)) for n in range(10_000)]
    shown = thinned(points)
    assert len(shown) == 400
    assert (shown[0], shown[-1]) == (points[0], points[-1])


def test_axis_numbers_are_short() -> None:
    """Axis labels fit their margin."""
    assert [short(value) for value in (12_000, 0.05, 1e-5, 3.0)] == ["12k", "0.05", "1e-05", "3"]


def test_small_picture_is_kept(tmp_path: Path) -> None:
    """A small PNG is embedded byte by byte."""
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    picture = embed(tmp_path / "a.png", "black")
    assert picture is not None
    assert (picture.width, picture.height) == (20, 10)
    assert picture.uri.startswith("data:image/png;base64,")


def test_large_picture_is_made_smaller(tmp_path: Path) -> None:
    """A large PNG of photographs becomes a JPEG that fits the page."""
    noise = np.random.default_rng(0).integers(0, 256, (700, 2000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    picture = embed(tmp_path / "a.png", "noise")
    assert picture is not None
    assert (picture.width, picture.height) == (1400, 490)
    assert picture.uri.startswith("data:image/jpeg;base64,")
    assert len(picture.uri) < (tmp_path / "a.png").stat().st_size / 3


def test_metrics_without_curves(finished: tuple[Path, Params]) -> None:
    """A model without metrics.jsonl has no charts, and still a page."""
    (finished[0] / "models/base/metrics.jsonl").unlink()
    assert "<svg" not in write_and_read(finished)


def test_finished_metrics_are_json(finished: tuple[Path, Params]) -> None:
    """The report reads what the training wrote, not a copy of ours."""
    metrics = json.loads((finished[0] / "models/base/metrics.json").read_text())
    metrics["epochs"] = 77
    write_json(finished[0] / "models/base/metrics.json", metrics)
    assert "77 epochs" in Page(write_and_read(finished)).text


# Labels in doubt -----------------------------------------------------------------------------


def test_labels_in_doubt_lead_to_their_page(finished: tuple[Path, Params]) -> None:
    """Where label review is switched on, its count and a link to what lies beside the page."""
    root, params = finished
    switched_on = params.label_review.model_copy(update={"enabled": True})
    (root / "reports/label_review.csv").write_text("rank,key\n1,a\n2,b\n")
    html = write_and_read((root, params.model_copy(update={"label_review": switched_on})))
    assert "2 labels are in doubt" in Page(html).text
    assert "label_review.html" in Page(html).addresses


def test_nobody_looked_for_labels_in_doubt(finished: tuple[Path, Params]) -> None:
    """Where it is switched off the page says nothing of labels in doubt."""
    assert "in doubt" not in Page(write_and_read(finished)).text
