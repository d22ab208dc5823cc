"""Audit: each unfit image goes with a reason, the rest is measured, and no image ends the run."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import psutil
import pytest
from PIL import Image
from raw_images import (
    encoded,
    keep_all,
    params_for,
    picture,
    pictures,
    quarantined,
    rows_of,
    run_stages,
    write_files,
)

from imagemill import records
from imagemill.audit import CLASS_BALANCE, CONTACT_SHEET, REPORT, audit
from imagemill.audit.messages import Question, written
from imagemill.audit.pool import DecodingPool
from imagemill.errors import BudgetError, SourceError

ALL_MAY_GO = {"quarantine_budget": 1.0}
LIMITS = params_for().audit


# The stage -----------------------------------------------------------------------------------

PICTURES = pictures({"cat": 150, "dog": 150})
FAULTS = {
    "cat/corrupt.jpg": b"junk" * 20,
    "cat/cut.png": picture(5000)[:-20],
    "cat/empty.jpg": b"",
    "dog/empty.png": b"",
    "dog/wide.png": picture(5001, size=40),
    "dog/heavy.bmp": encoded(5002, form="BMP"),
    # Copies.
    "cat/y.png": PICTURES["cat/001.png"],
    "cat/z.png": PICTURES["cat/001.png"],
    "dog/copy_of_cat.png": PICTURES["cat/000.png"],
    "unlabelled/copy.png": PICTURES["dog/200.png"],
}
CHECKS = {
    "cat/000": "label_conflict",
    "cat/corrupt": "corrupt",
    "cat/cut": "truncated",
    "cat/empty": "zero_byte",
    "cat/y": "duplicate",
    "cat/z": "duplicate",
    "dog/copy_of_cat": "label_conflict",
    "dog/empty": "zero_byte",
    "dog/heavy": "over_large",
    "dog/wide": "over_large",
    "unlabelled/copy": "duplicate",
}
FAULTY = params_for(
    audit=ALL_MAY_GO | {"max_pixels": 1200, "max_bytes": 3000, "contact_sheet_images": 12}
)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was audited, with every kind of fault in its source."""
    root = tmp_path_factory.mktemp("faulty")
    write_files(root / "raw", PICTURES | FAULTS | {"dog/colour.jpg": encoded(5003, size=20)})
    run_stages(root, FAULTY, until="audit")
    return root


def test_each_fault_has_its_check(faulty: Path) -> None:
    """Corrupt, truncated, empty, over-large and copied images go, each under its own name."""
    assert quarantined(faulty) == CHECKS


def test_kept_and_quarantined_are_all_there_is(faulty: Path) -> None:
    """Every image of the manifest is in exactly one of the two lists, both sorted by key."""
    kept, bad, all_keys = (
        [row["key"] for row in rows_of(faulty / path)]
        for path in (records.KEEP, records.QUARANTINE, records.MANIFEST)
    )
    assert sorted(kept + bad) == all_keys
    assert kept == sorted(kept) and bad == sorted(bad)


def test_reason_of_a_copy_names_the_other(faulty: Path) -> None:
    """Whoever reads the quarantine can look at both images."""
    reasons = {row["key"]: row["reason"] for row in rows_of(faulty / records.QUARANTINE)}
    assert reasons["cat/y"] == reasons["cat/z"] == "same bytes as cat/001"
    assert reasons["cat/000"] == "same bytes as dog/copy_of_cat, which has another label"


def test_report_counts_what_is_kept(faulty: Path) -> None:
    """report.json has classes, sizes, modes, formats and quarantine."""
    report = json.loads((faulty / REPORT).read_bytes())
    assert report["classes"] == {"cat": 149, "dog": 151}
    assert report["width"] == {"min": 8, "median": 8, "max": 20}
    assert report["modes"] == {"L": 299, "RGB": 1}
    assert report["formats"] == {"JPEG": 1, "PNG": 299}
    assert report["quarantined_by_check"]["zero_byte"] == 2
    assert report["first_quarantined"][1]["uri"] == "raw/cat/corrupt.jpg"


def test_pictures_show_the_classes(faulty: Path) -> None:
    """The contact sheet has a row for each class and its share of images; both are whole PNGs."""
    with Image.open(faulty / CONTACT_SHEET) as sheet:
        sheet.load()
        assert sheet.width > 6 * 72 and sheet.height >= 2 * 72
    with Image.open(faulty / CLASS_BALANCE) as chart:
        chart.load()


def test_second_run_gives_the_same_bytes(faulty: Path) -> None:
    """Nothing in the outputs tells when they were made."""
    before = {path.name: path.read_bytes() for path in (faulty / records.AUDIT).iterdir()}
    audit(faulty, FAULTY.audit, log=lambda _: None, workers=2)
    after = {path.name: path.read_bytes() for path in (faulty / records.AUDIT).iterdir()}
    assert before == after


def test_train_image_of_a_given_test_leaks(tmp_path: Path) -> None:
    """What is evaluated stays where it is given; its copies leave train, and test's leave val."""
    images = {name: picture(index) for index, name in enumerate("abcdefgh")}
    files = {
        "train/cat/1.png": images["a"],
        "train/cat/2.png": images["b"],
        "train/cat/3.png": images["c"],
        "train/dog/4.png": images["d"],
        "val/cat/1.png": images["b"],
        "val/cat/2.png": images["e"],
        "val/dog/3.png": images["f"],
        "test/cat/1.png": images["a"],
        "test/cat/2.png": images["e"],
        "test/dog/3.png": images["g"],
    }
    write_files(tmp_path / "raw", files)
    run_stages(tmp_path, params_for(audit=ALL_MAY_GO), until="audit")
    expected = {"train/cat/1": "leak", "train/cat/2": "leak", "val/cat/2": "leak"}
    assert quarantined(tmp_path) == expected


def test_keep_list_is_the_one_other_tests_use(tmp_path: Path) -> None:
    """Keep lists that tests make without starting a process are those of the audit."""
    write_files(tmp_path / "raw", pictures({"cat": 9, "dog": 9}) | {"cat/x.jpg": encoded(7)})
    run_stages(tmp_path, params_for(), until="audit")
    expected = (tmp_path / records.KEEP).read_bytes()
    keep_all(tmp_path, params_for())
    assert (tmp_path / records.KEEP).read_bytes() == expected


# Refusals ------------------------------------------------------------------------------------


def test_budget_stops_the_run_and_names_the_first(tmp_path: Path) -> None:
    """Above the budget the stage fails, writes no output, and leaves a list to read."""
    files = pictures({"cat": 5, "dog": 5}) | {"cat/a.jpg": b"", "dog/b.jpg": b"junk"}
    write_files(tmp_path / "raw", files)
    params = params_for(audit={"quarantine_budget": 0.1})
    with pytest.raises(BudgetError, match=r"2 of 12 images .* cat/a \(zero_byte\), dog/b"):
        run_stages(tmp_path, params, until="audit")
    listed = (tmp_path / ".imagemill/audit/quarantine.csv").read_text()
    assert "cat/a" in listed and "dog/b" in listed
    assert list((tmp_path / records.AUDIT).iterdir()) == []


def test_budget_met_exactly_is_kept(tmp_path: Path) -> None:
    """The budget is what may be lost, not what may not be reached."""
    write_files(tmp_path / "raw", pictures({"cat": 5, "dog": 4}) | {"cat/a.jpg": b""})
    run_stages(tmp_path, params_for(audit={"quarantine_budget": 0.1}), until="audit")
    assert quarantined(tmp_path) == {"cat/a": "zero_byte"}


def test_class_lost_to_the_audit(tmp_path: Path) -> None:
    """If fewer than two classes are left there is nothing to train."""
    write_files(tmp_path / "raw", pictures({"cat": 5}) | {"dog/a.jpg": b""})
    with pytest.raises(SourceError, match=r"fewer than two classes .*left: cat"):
        run_stages(tmp_path, params_for(audit=ALL_MAY_GO), until="audit")


def test_raw_file_gone_after_ingest(tmp_path: Path) -> None:
    """A raw image that vanished is the user's to know, not a crash."""
    write_files(tmp_path / "raw", pictures({"cat": 5, "dog": 5}))
    params = params_for()
    run_stages(tmp_path, params, until="ingest")
    (tmp_path / "raw/cat/003.png").unlink()
    with pytest.raises(SourceError, match=r"cannot read raw/cat/003\.png"):
        audit(tmp_path, params.audit, log=lambda _: None, workers=1)


def test_raw_file_changed_after_ingest(tmp_path: Path) -> None:
    """Other bytes than those on record are not judged as if they were the same."""
    write_files(tmp_path / "raw", pictures({"cat": 5, "dog": 5}))
    params = params_for()
    run_stages(tmp_path, params, until="ingest")
    (tmp_path / "raw/cat/003.png").write_bytes(picture(999))
    with pytest.raises(SourceError, match="imagemill scan"):
        audit(tmp_path, params.audit, log=lambda _: None, workers=1)


# Processes -----------------------------------------------------------------------------------


def decoding_processes() -> list[psutil.Process]:
    """Those this process started, whatever else it has started."""
    return [
        child
        for child in psutil.Process().children()
        if "imagemill.audit.worker" in child.cmdline()
    ]


def questions_about(root: Path, names: list[str]) -> list[Question]:
    """What the pool is asked about files below root."""
    contents = [(root / name).read_bytes() for name in names]
    return [
        Question(name, 0, len(content), hashlib.sha256(content).hexdigest(), is_file=True)
        for name, content in zip(names, contents, strict=True)
    ]


def test_facts_do_not_depend_on_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process or two: the same facts in the same order."""
    monkeypatch.setattr("imagemill.audit.pool._WORTH_SECONDS", 1e-9)
    files = {f"{number}.jpg": encoded(number, size=5 + number) for number in range(41)}
    write_files(tmp_path, files | {"7.jpg": b"junk"})
    jobs = [(n, questions_about(tmp_path, [f"{n}.jpg", f"{n + 1}.jpg"])) for n in range(0, 40, 2)]
    found = []
    for workers in (1, 2):
        with DecodingPool(tmp_path, LIMITS, workers=workers) as pool:
            found.append([(n, *written(answer)) for n, answer in pool.measure(jobs)])
    assert found[0] == found[1]


def test_endless_decoding_is_stopped(tmp_path: Path) -> None:
    """An image that keeps its decoder busy too long is named; those around it are judged."""
    slow = Image.new("RGB", (4000, 4000))
    slow.save(tmp_path / "slow.png", compress_level=1)
    write_files(tmp_path, {"a.png": picture(1), "b.png": picture(2)})
    params = LIMITS.model_copy(update={"decode_seconds": 0.02})
    with DecodingPool(tmp_path, params, workers=1) as pool:
        jobs = [(None, questions_about(tmp_path, ["a.png", "slow.png", "b.png"]))]
        [(_, answer)] = pool.measure(jobs)
    facts_N = answer.facts_N
    assert facts_N["fault"].tolist() == [b"", b"timeout", b""]
    assert facts_N["transient"].tolist() == [False, True, False]


def test_worker_killed_from_outside_loses_nothing(tmp_path: Path) -> None:
    """A worker that dies is replaced, and its images are judged all the same."""
    files = {f"{number}.jpg": encoded(number, size=300) for number in range(60)}
    write_files(tmp_path, files)
    request = questions_about(tmp_path, list(files))

    def jobs() -> object:
        yield 0, request
        [worker] = decoding_processes()
        worker.send_signal(signal.SIGSEGV)
        yield 1, request

    with DecodingPool(tmp_path, LIMITS, workers=1) as pool:
        found = [(number, answer.reasons.count(None)) for number, answer in pool.measure(jobs())]  # type: ignore[arg-type]
    assert found == [(0, 60), (1, 60)]


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, kind: signal.Signals) -> None:
    """However the run ends, no decoding process outlives it."""
    write_files(tmp_path / "raw", {f"{n % 2}/{n}.jpg": encoded(n, size=500) for n in range(100)})
    params = params_for()
    run_stages(tmp_path, params, until="ingest")
    code = (
        "import sys; from pathlib import Path; from imagemill.audit import audit;"
        "from imagemill.params import AuditParams;"
        "params = AuditParams.model_validate_json(sys.argv[2]);"
        "log = lambda line: print(line, flush=True);"
        "root = Path(sys.argv[1]); known = root / '.imagemill/measured.sqlite';"
        "[(audit(root, params, log=log, workers=1), known.unlink()) for _ in range(99)]"
    )
    command = [sys.executable, "-c", code, str(tmp_path), params.audit.model_dump_json()]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    parent.stdout.readline()
    workers: list[psutil.Process] = []
    while not workers:
        assert parent.poll() is None, "it ended before a worker was seen"
        workers = psutil.Process(parent.pid).children()
    os.kill(parent.pid, kind)
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []


def test_few_images_are_worth_one_process(tmp_path: Path) -> None:
    """Another worker is started only when there is more to do than its start costs."""
    write_files(tmp_path, {f"{number}.jpg": encoded(number) for number in range(40)})
    jobs = [(n, questions_about(tmp_path, [f"{n}.jpg"])) for n in range(40)]
    with DecodingPool(tmp_path, LIMITS, workers=2) as pool:
        assert len(list(pool.measure(jobs))) == 40
        assert len(decoding_processes()) == 1


def test_a_decoding_process_starts_light() -> None:
    """It loads neither Arrow nor pydantic, which take longer than decoding a thousand images."""
    code = "import sys, imagemill.audit.worker; print(*{'pyarrow', 'pydantic'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


def test_images_that_are_no_files_are_read_as_well(tmp_path: Path) -> None:
    """A decoding process finds an image inside an archive, too."""
    content = encoded(1)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("1.jpg")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    digest = hashlib.sha256(content).hexdigest()
    question = Question("a.tar", 512, len(content), digest, is_file=False)
    with DecodingPool(tmp_path, LIMITS, workers=1) as pool:
        [(_, answer)] = pool.measure([(None, [question])])
    assert answer.reasons == [None]
