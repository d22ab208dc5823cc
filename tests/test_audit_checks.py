"""Each check finds an image made for it, and not one just beyond its threshold."""

import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter
from raw_images import (
    Files,
    encoded,
    params_for,
    picture,
    pictures,
    quarantined,
    rows_of,
    run_stages,
    write_files,
    write_tar,
    write_zip,
)

from imagemill import records
from imagemill.audit import PAGE, REPORT, WARNINGS, audit
from imagemill.audit.cache import CACHE, Cache
from imagemill.audit.decode import prepare
from imagemill.audit.measure import measure
from imagemill.errors import BudgetError
from imagemill.params import ChecksParams, Params
from imagemill.sources import RawReader

CHECKS = params_for().audit.checks


def params_with(source: str = "raw", **changes: dict[str, Any]) -> Params:
    """The params we ship, with keys of some checks changed."""
    document = CHECKS.model_dump()
    for name, change in changes.items():
        document[name] |= change
    checks = ChecksParams.model_validate(document)
    return params_for(source, audit={"quarantine_budget": 1.0, "checks": checks})


def audited(root: Path, files: dict[str, bytes], **changes: dict[str, Any]) -> dict[str, set[str]]:
    """Key -> checks that warn of it, for files among some that are fine."""
    write_files(root / "raw", pictures({"cat": 25, "dog": 25}, start=7000) | files)
    run_audit(root, params_with(**changes))
    warned = defaultdict(set)
    for row in rows_of(root / WARNINGS):
        warned[row["key"]].add(row["check"])
    return dict(warned)


def run_audit(root: Path, params: Params) -> None:
    """Ingest and audit, the facts being known beforehand: no process needs to be started."""
    run_stages(root, params, until="ingest")
    prepare()
    with RawReader(root) as reader, Cache(root / CACHE) as cache:
        for row in rows_of(root / records.MANIFEST):
            if row["size_bytes"]:
                content = reader.read(row["uri"], row["offset"], row["size_bytes"])
                facts_N, reasons = measure([content], max_pixels=params.audit.max_pixels)
                cache.add(bytes.fromhex(row["sha256"]), facts_N, reasons)
    audit(root, params.audit, log=lambda _: None, workers=1)


def saved(pixels: np.ndarray[Any, Any] | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """An encoded image."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def noise(height: int, width: int, *, low: int = 0, high: int = 256, seed: int = 0) -> Any:
    """Grey noise between two levels."""
    return np.random.default_rng(seed).integers(low, high, (height, width), dtype=np.uint8)


def photo(seed: int, *, side: int = 120) -> Image.Image:
    """A colourful picture with some texture."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    smooth = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    texture = random.integers(-30, 30, (side, side, 1))
    return Image.fromarray((np.asarray(smooth) + texture).clip(0, 255).astype(np.uint8))


# One image -----------------------------------------------------------------------------------


def test_extension_of_another_format(tmp_path: Path) -> None:
    """A PNG called .jpg is found; .jpeg is as good as .jpg."""
    files = {
        "cat/a.jpg": saved(noise(20, 20)),
        "cat/b.jpeg": saved(photo(1), "JPEG"),
        "cat/c.PNG": saved(noise(20, 20, seed=1)),
    }
    assert audited(tmp_path, files) == {"cat/a": {"extension"}}


def pack_zip(root: Path, files: Files) -> str:
    write_zip(root / "raw.zip", files)
    return "raw.zip"


def pack_stored(root: Path, files: Files) -> str:
    write_zip(root / "raw.zip", files, method=zipfile.ZIP_STORED)
    return "raw.zip"


def pack_tar(root: Path, files: Files) -> str:
    write_tar(root / "raw.tar", files)
    return "raw.tar"


def pack_tgz(root: Path, files: Files) -> str:
    write_tar(root / "raw.tar.gz", files, mode="w:gz")
    return "raw.tar.gz"


def pack_shard(root: Path, files: Files) -> str:
    """Samples whose class is the first folder of their names."""
    members = {}
    for name, content in files.items():
        key = name.rpartition(".")[0]
        members |= {name: content, f"{key}.cls": name.partition("/")[0].encode()}
    write_tar(root / "raw.tar", members)
    return "raw.tar"


def pack_parquet(root: Path, files: Files) -> str:
    """Rows that tell what their files were called."""
    images = [{"bytes": content, "path": name} for name, content in files.items()]
    labels = [name.partition("/")[0] for name in files]
    (root / "raw.parquet").parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "label": labels}), root / "raw.parquet")
    return "raw.parquet"


@pytest.mark.parametrize(
    "pack", [pack_zip, pack_stored, pack_tar, pack_tgz, pack_shard, pack_parquet]
)
def test_extension_inside_containers(tmp_path: Path, pack: Callable[[Path, Files], str]) -> None:
    """A member's own name counts wherever it lies."""
    files = pictures({"cat": 5, "dog": 5}) | {
        "cat/lie.JPG": picture(90),
        "cat/true.jpg": encoded(91),
    }
    run_audit(tmp_path, params_with(pack(tmp_path, files)))
    found = [row["reason"] for row in rows_of(tmp_path / WARNINGS) if row["check"] == "extension"]
    assert found == ["called .jpg, but is PNG"]


def test_parquet_rows_without_names_are_called_nothing(tmp_path: Path) -> None:
    """A format that does not show at the beginning of its bytes is not called a JPEG."""
    table = pa.table({"image": [picture(1), encoded(2, form="PPM")], "label": ["cat", "dog"]})
    pq.write_table(table, tmp_path / "raw.parquet")
    run_audit(tmp_path, params_with("raw.parquet"))
    assert "extension" not in {row["check"] for row in rows_of(tmp_path / WARNINGS)}


def test_size(tmp_path: Path) -> None:
    """Each side must be within both limits; these very values are."""
    files = {
        "cat/thin.png": saved(noise(12, 9)),
        "cat/least.png": saved(noise(10, 10)),
        "cat/most.png": saved(noise(30, 30)),
        "cat/long.png": saved(noise(31, 20)),
    }
    limits = {"min_side": 10, "max_side": 30}
    warned = audited(tmp_path, files, size=limits)
    assert {key for key in files_of(warned, "size") if "/0" not in key} == {"cat/thin", "cat/long"}


def files_of(warned: dict[str, set[str]], check: str) -> set[str]:
    """Keys a check warns of."""
    return {key for key, checks in warned.items() if check in checks}


def test_aspect(tmp_path: Path) -> None:
    """Four to one is allowed, a pixel more is not, upright or lying."""
    files = {
        "cat/wide.png": saved(noise(10, 41)),
        "cat/high.png": saved(noise(41, 10)),
        "cat/just.png": saved(noise(10, 40)),
    }
    warned = audited(tmp_path, files, aspect={"max_ratio": 4})
    assert warned == {"cat/wide": {"aspect"}, "cat/high": {"aspect"}}


def test_mode(tmp_path: Path) -> None:
    """Only the forms that are named are told."""
    files = {
        "cat/cmyk.jpg": saved(photo(1).convert("CMYK"), "JPEG"),
        "cat/palette.png": saved(photo(2).convert("P")),
        "cat/colour.png": saved(photo(3)),
    }
    warned = audited(tmp_path, files, mode={"unexpected": ["cmyk"]})
    assert warned == {"cat/cmyk": {"mode"}}


def test_blur(tmp_path: Path) -> None:
    """A picture without an edge is found, a sharp one is not, and a tiny one is not judged."""
    sharp = Image.fromarray(noise(200, 200))
    files = {
        "cat/blurred.png": saved(sharp.filter(ImageFilter.GaussianBlur(12))),
        "cat/sharp.png": saved(sharp),
        "cat/tiny.png": saved(sharp.filter(ImageFilter.GaussianBlur(12)).resize((63, 63))),
    }
    assert audited(tmp_path, files) == {"cat/blurred": {"blur"}}


@pytest.mark.parametrize(
    ("check", "found", "fine"),
    [
        # Limits between the levels 63 and 64, and 216 and 217.
        ("dark", noise(20, 20, high=64), noise(20, 20, high=65)),
        ("bright", noise(20, 20, low=217), noise(20, 20, low=216)),
    ],
)
def test_brightness(tmp_path: Path, check: str, found: Any, fine: Any) -> None:
    """Pictures without a bright or without a dark spot are found."""
    # Percentiles reach the outermost level only if enough pixels have it.
    found[:5], fine[:5] = (63, 64) if check == "dark" else (217, 216)
    files = {"cat/found.png": saved(found), "cat/fine.png": saved(fine)}
    assert audited(tmp_path, files) == {"cat/found": {check}}


def test_low_information(tmp_path: Path) -> None:
    """One brightness all over has no entropy; two in equal parts have one bit."""
    half = np.repeat(np.array([40, 200], np.uint8), 200).reshape(20, 20)
    quarter = np.where(np.arange(400).reshape(20, 20) % 4 == 0, 200, 40).astype(np.uint8)
    files = {"cat/half.png": saved(half), "cat/quarter.png": saved(quarter)}
    warned = audited(tmp_path, files, low_information={"min_entropy": 0.99})
    assert warned == {"cat/quarter": {"low_information"}}


def test_identifying(tmp_path: Path) -> None:
    """A serial number leads to somebody; a maker's note, which all cameras write, only may."""
    serial, note = Image.Exif(), Image.Exif()
    serial.get_ifd(0x8769)[0xA431] = "SN 123"
    note.get_ifd(0x8769)[0x927C] = b"maker's own"
    files = {
        "cat/serial.jpg": saved(photo(1), "JPEG", exif=serial),
        "cat/note.jpg": saved(photo(2), "JPEG", exif=note),
    }
    assert audited(tmp_path, files) == {"cat/serial": {"identifying"}}
    report = json.loads((tmp_path / REPORT).read_bytes())
    expected = {"gps": 0, "serial_number": 1, "person": 0, "maker_note": 1}
    assert report["identifying"] == expected


# Images beside one another ---------------------------------------------------------------------


def test_near_duplicates(tmp_path: Path) -> None:
    """A copy that was scaled and compressed is found, one of other colours is not."""
    original = photo(1)
    swapped = Image.merge("RGB", [original.split()[band] for band in (1, 2, 0)])
    files = {
        "cat/a.png": saved(original),
        "cat/b.jpg": saved(original.resize((90, 90)), "JPEG"),
        "cat/c.png": saved(original.resize((63, 63))),
        "cat/other.png": saved(photo(2)),
        "cat/swapped.png": saved(swapped),
    }
    assert audited(tmp_path, files) == {"cat/b": {"near_duplicate"}}
    groups = {row["key"]: row["near_group"] for row in rows_of(tmp_path / records.KEEP)}
    assert {key: group for key, group in groups.items() if group} == {
        "cat/a": "cat/a",
        "cat/b": "cat/a",
    }


def test_colour_tells_near_duplicates_apart(tmp_path: Path) -> None:
    """What the hash of brightness cannot tell apart, the colours of a grid can."""
    grey = photo(1).convert("L")
    red, blue = (Image.merge("RGB", bands) for bands in colourings(grey))
    files = {"cat/a.png": saved(red), "cat/b.png": saved(blue)}
    assert audited(tmp_path / "one", files) == {}
    loose = audited(tmp_path / "two", files, near_duplicate={"max_colour": 1.0})
    assert loose == {"cat/b": {"near_duplicate"}}


def colourings(grey: Image.Image) -> list[list[Image.Image]]:
    """Bands of two pictures of the same brightness and different colours."""
    dark = grey.point(lambda level: level * 0.6)
    light = grey.point(lambda level: min(255, level * 1.1))
    return [[grey, dark, grey], [dark, grey, light]]


def test_near_duplicate_of_a_given_test_image(tmp_path: Path) -> None:
    """It is told of the train image, under its own name, and so is one under another label."""
    files = {
        "train/cat/a.png": saved(photo(1)),
        "test/cat/a.jpg": saved(photo(1), "JPEG"),
        "train/dog/b.png": saved(photo(2)),
        "train/cat/b.jpg": saved(photo(2), "JPEG"),
        "test/dog/c.png": saved(photo(3)),
    }
    write_files(tmp_path / "raw", files)
    run_audit(tmp_path, params_with())
    warned = {row["key"]: row["check"] for row in rows_of(tmp_path / WARNINGS)}
    assert warned == {
        "train/cat/a": "near_leak",
        "train/cat/b": "near_label_conflict",
        "train/dog/b": "near_label_conflict",
    }


def test_group_in_two_given_splits(tmp_path: Path) -> None:
    """A train image of a patient who is also in test is told; others of its group are not."""
    write_files(tmp_path / "raw", {f"{n}.png": picture(n) for n in range(8)})
    splits = ["train", "train", "test", "val", "train", "val", "train", "test"]
    groups = ["p", "q", "p", "q", "r", "r", "", ""]
    rows = [f"{n}.png,{'ab'[n % 2]},{splits[n]},{groups[n]}" for n in range(8)]
    (tmp_path / "raw/list.csv").write_text("\n".join(["path,label,split,group", *rows]))
    run_audit(tmp_path, params_with("raw/list.csv"))
    warned = {row["key"]: row["check"] for row in rows_of(tmp_path / WARNINGS)}
    assert warned == {"0": "group_leak", "1": "group_leak", "4": "group_leak"}


def test_copies_that_stay_share_a_group(tmp_path: Path) -> None:
    """Where copies are only warned of, the split still has to keep them together."""
    files = {"cat/x.png": picture(7003), "cat/y.png": picture(7003)}
    warned = audited(tmp_path, files, duplicate={"action": "warn"})
    assert warned == {"cat/x": {"duplicate"}, "cat/y": {"duplicate"}}
    groups = {row["key"]: row["near_group"] for row in rows_of(tmp_path / records.KEEP)}
    assert [groups[key] for key in ("cat/003", "cat/x", "cat/y")] == ["cat/003"] * 3


# The whole -------------------------------------------------------------------------------------


def whole_findings(root: Path, classes: dict[str, int], **changes: dict[str, Any]) -> list[str]:
    """Checks that find something in a data set of so many images a class."""
    write_files(root / "raw", pictures(classes))
    run_audit(root, params_with(**changes))
    report = json.loads((root / REPORT).read_bytes())
    return [finding["check"] for finding in report["whole"]]


@pytest.mark.parametrize(("larger", "found"), [(40, []), (41, ["class_balance"])])
def test_class_balance(tmp_path: Path, larger: int, found: list[str]) -> None:
    """The largest class may have four times the images of the smallest."""
    limits = {"class_balance": {"max_ratio": 4}, "class_volume": {"min_images": 1}}
    assert whole_findings(tmp_path, {"cat": larger, "dog": 10}, **limits) == found


@pytest.mark.parametrize(("least", "found"), [(10, []), (11, ["class_volume"])])
def test_class_volume(tmp_path: Path, least: int, found: list[str]) -> None:
    """A class needs so many images."""
    limits = {"class_volume": {"min_images": least}}
    assert whole_findings(tmp_path, {"cat": 20, "dog": 10}, **limits) == found


def test_diversity(tmp_path: Path) -> None:
    """A class of next to the same picture again and again is named."""
    base = noise(16, 16)
    alike = {f"dog/{n}.png": saved(base + (np.arange(256) == n).reshape(16, 16)) for n in range(20)}
    write_files(tmp_path / "raw", pictures({"cat": 20}) | alike)
    run_audit(tmp_path, params_with())
    [finding] = json.loads((tmp_path / REPORT).read_bytes())["whole"]
    assert finding["check"] == "diversity"
    assert "dog" in finding["told"] and "cat" not in finding["told"]


# What follows ----------------------------------------------------------------------------------


def test_quarantine_leaves_out(tmp_path: Path) -> None:
    """The same finding leaves the image out if that is its action."""
    dark = saved(noise(20, 20, high=9))
    warned = audited(tmp_path, {"cat/a.png": dark}, dark={"action": "quarantine"})
    assert warned == {} and quarantined(tmp_path) == {"cat/a": "dark"}


def test_fail_stops_the_run(tmp_path: Path) -> None:
    """It names the check and the image, and leaves a page to look at."""
    with pytest.raises(BudgetError, match=r"dark 1.*cat/a \(dark\).*quarantine\.csv"):
        audited(tmp_path, {"cat/a.png": saved(noise(20, 20, high=9))}, dark={"action": "fail"})
    assert "cat/a" in (tmp_path / ".imagemill/audit" / PAGE.name).read_text()
    assert not (tmp_path / records.KEEP).exists()


def test_failing_check_of_the_whole_stops_the_run(tmp_path: Path) -> None:
    """A class that is too small can be a reason to stop."""
    with pytest.raises(BudgetError, match=r"class_volume: fewer than 99 images: cat \(25\)"):
        audited(tmp_path, {}, class_volume={"action": "fail", "min_images": 99})


def test_image_leaves_once_and_under_the_first_name(tmp_path: Path) -> None:
    """An image with several faults is quarantined once, and nothing is warned of it."""
    flat = saved(np.zeros((9, 90), np.uint8))
    warned = audited(tmp_path, {"cat/a.jpg": flat}, aspect={"action": "quarantine"})
    assert warned == {} and quarantined(tmp_path) == {"cat/a": "aspect"}


def test_person_decides(tmp_path: Path) -> None:
    """What a review drops leaves as reviewed, and then its copy is no copy any more."""
    write_files(tmp_path / "raw", pictures({"cat": 5, "dog": 5}) | {"cat/z.png": picture(0)})
    params = params_with()
    run_stages(tmp_path, params, until="ingest")
    drop(tmp_path, "cat/000")
    audit(tmp_path, params.audit, log=lambda _: None, workers=1)
    assert quarantined(tmp_path) == {"cat/000": "reviewed"}


def drop(root: Path, key: str) -> None:
    """Write the decision into the manifest, as ingest does."""
    rows = rows_of(root / records.MANIFEST)
    for row in rows:
        row["review"] = "drop" if row["key"] == key else None
    table = pa.Table.from_pylist(rows, schema=records.MANIFEST_SCHEMA)
    pq.write_table(table, root / records.MANIFEST)


def test_page_shows_the_worst_and_needs_nothing(tmp_path: Path) -> None:
    """Pictures are inside, names are escaped, and no address is in it."""
    files = {"cat/<b>.png": saved(noise(20, 20, high=9)), "cat/broken.png": b"junk"}
    audited(tmp_path, files, dark={"action": "quarantine"})
    page = (tmp_path / PAGE).read_text()
    assert page.count("data:image/jpeg;base64,") == 1
    assert "cat/%3Cb%3E" in page and "<b>.png" not in page
    assert "http:" not in page and "https:" not in page and 'src="/' not in page


def test_broken_image_is_never_decoded_by_the_page(tmp_path: Path) -> None:
    """Not even as the copy of an image that was found to be broken."""
    broken = encoded(3)[:-9]
    audited(tmp_path, {"cat/a.jpg": broken, "cat/b.jpg": broken})
    assert quarantined(tmp_path) == {"cat/a": "truncated", "cat/b": "duplicate"}
    assert "data:image/jpeg" not in (tmp_path / PAGE).read_text()
