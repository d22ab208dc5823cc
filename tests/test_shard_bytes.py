"""What becomes of the bytes: kept, shrunk or stripped; annotations; any number of workers."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image, PngImagePlugin
from raw_images import encoded, params_for, picture, pictures, rows_of, run_stages, write_files

from imagemill import records
from imagemill.errors import IntegrityError
from imagemill.records import ShardManifest
from imagemill.shard import shard
from imagemill.shard.metadata import STRIPPERS, stripped
from imagemill.shard.transform import Encoded, shrunk
from imagemill.stamps import stamp_of

FILES = pictures({"cat": 40, "dog": 40})
SMALL = params_for(shard={"max_images": 15})


def gradient(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A smooth picture: it survives being shrunk and JPEG almost unchanged."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    """The image as a file."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def telling_exif(orientation: int = 1) -> Image.Exif:
    """EXIF that names an owner, a camera and a place."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x013B] = "Jane Owner"
    exif[0xA431] = "SERIAL-4711"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 30.0)
    return exif


def frames(root: Path) -> dict[str, tuple[dict[str, Any], bytes]]:
    """Key -> row of the index and the bytes it frames."""
    found = {}
    for row in rows_of(root / records.SHARD_INDEX):
        content = (root / records.DATA / row["shard"]).read_bytes()
        found[row["key"]] = (row, content[row["offset"] :][: row["size_bytes"]])
    return found


def state(root: Path) -> dict[str, bytes]:
    """Every file of data/shards."""
    files = (path for path in (root / records.SHARDS).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


# Workers -------------------------------------------------------------------------------------


def test_workers_change_nothing(tmp_path: Path) -> None:
    """One process, two or three: the same tars, index and manifest, byte for byte."""
    write_files(tmp_path / "raw", FILES)
    run_stages(tmp_path, SMALL, until="split")
    found = []
    for workers in (1, 2, 3):
        shutil.rmtree(tmp_path / records.SHARDS, ignore_errors=True)
        shard(tmp_path, SMALL.shard, log=lambda _: None, workers=workers)
        found.append(state(tmp_path))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > 6


def test_fault_of_a_worker_is_named(tmp_path: Path) -> None:
    """What a worker finds wrong is told as if there were none."""
    write_files(tmp_path / "raw", FILES)
    run_stages(tmp_path, SMALL, until="split")
    (tmp_path / "raw/dog/070.png").write_bytes(picture(7777))
    with pytest.raises(IntegrityError, match=r"dog/070: its bytes in .* changed"):
        shard(tmp_path, SMALL.shard, log=lambda _: None, workers=2)
    assert not (tmp_path / records.SHARDS).exists()


def test_a_worker_is_up_at_once() -> None:
    """A process that writes shards imports no models of records, no Pillow and no sources."""
    code = "import sys, imagemill.shard.worker; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"pydantic", "PIL", "imagemill.sources", "pandas"} & set(told.stdout.split())


# Reading what is there -----------------------------------------------------------------------


def note_stamps(root: Path, *, digest: str | None = None) -> None:
    """Write what `ingest` notes of the files it read; `digest` stands for all of theirs."""
    rows = [
        {name: row[name] for name in records.SEEN_SCHEMA.names if name != "stamp"}
        | {"stamp": stamp_of((root / row["uri"]).stat())}
        for row in rows_of(root / records.MANIFEST)
    ]
    if digest:
        manifest = pq.read_table(root / records.MANIFEST)
        column = pa.array([digest] * len(rows))
        pq.write_table(manifest.set_column(4, "sha256", column), root / records.MANIFEST)
        rows = [row | {"sha256": digest} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, schema=records.SEEN_SCHEMA), root / records.SEEN)


def test_digest_of_an_unchanged_file_is_not_taken_again(tmp_path: Path) -> None:
    """While size, mtime and inode are those `ingest` saw, its digest is believed."""
    write_files(tmp_path / "raw", {f"{kind}/{n}.png": picture(n, size=64) for n, kind in ANIMALS})
    run_stages(tmp_path, SMALL, until="split")
    note_stamps(tmp_path, digest="0" * 64)
    shard(tmp_path, SMALL.shard, log=lambda _: None)
    assert {row["sha256"] for row in rows_of(tmp_path / records.SHARD_INDEX)} == {"0" * 64}


ANIMALS = [(n, "cat" if n % 2 else "dog") for n in range(40)]


def test_file_with_another_stamp_is_read_and_refused(tmp_path: Path) -> None:
    """A file that was written again is hashed, and other bytes stop the run."""
    write_files(tmp_path / "raw", {f"{kind}/{n}.png": picture(n, size=64) for n, kind in ANIMALS})
    run_stages(tmp_path, SMALL, until="split")
    note_stamps(tmp_path)
    path = tmp_path / "raw/cat/7.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="cat/7: its bytes"):
        shard(tmp_path, SMALL.shard, log=lambda _: None)


def test_images_larger_than_the_buffer_are_whole(tmp_path: Path) -> None:
    """An image of more than a megabyte comes out as it went in."""
    files = FILES | {"cat/large.png": picture(1, size=1400)}
    write_files(tmp_path / "raw", files)
    run_stages(tmp_path, SMALL)
    row, content = frames(tmp_path)["cat/large"]
    assert content == files["cat/large.png"] and row["raw_sha256"] is None


def test_shards_are_no_larger_than_tar_makes_them(tmp_path: Path) -> None:
    """GNU tar needs as much for the same members (it fills its last record up)."""
    write_files(tmp_path / "raw", FILES)
    run_stages(tmp_path, SMALL)
    for number, path in enumerate(sorted((tmp_path / records.SHARDS).rglob("*.tar"))):
        folder = tmp_path / f"members{number}"
        with tarfile.open(path) as tar:
            tar.extractall(folder, filter="data")
        names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.*"))
        subprocess.run(
            ["tar", "cf", "../again.tar", "--blocking-factor=2", *names], cwd=folder, check=True
        )
        assert path.stat().st_size <= (tmp_path / "again.tar").stat().st_size


# Annotations ---------------------------------------------------------------------------------


def annotate(root: Path, annotations: dict[str, str]) -> None:
    """Put annotations into the manifest, as sources with boxes do."""
    manifest = pq.read_table(root / records.MANIFEST)
    column = pa.array([annotations.get(key) for key in manifest["key"].to_pylist()], pa.string())
    place = manifest.schema.get_field_index("annotation")
    pq.write_table(manifest.set_column(place, "annotation", column), root / records.MANIFEST)


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """A project in which some images have boxes."""
    write_files(tmp_path / "raw", FILES)
    run_stages(tmp_path, SMALL, until="split")
    annotate(tmp_path, {"cat/007": '{"boxes": [[1, 2, 3, 4]]}', "dog/050": '{"caption": "é"}'})
    shard(tmp_path, SMALL.shard, log=lambda _: None)
    return tmp_path


def test_webdataset_reads_annotations(annotated: Path) -> None:
    """Its stock pipeline gives each annotation with its image and its class."""
    urls = sorted(str(path) for path in (annotated / records.SHARDS).rglob("*.tar"))
    found = {
        sample["__key__"]: (sample["json"], sample["cls"])
        for sample in webdataset.WebDataset(urls, shardshuffle=False).decode("pil")
        if "json" in sample
    }
    assert found == {
        "cat/007": ({"boxes": [[1, 2, 3, 4]]}, 0),
        "dog/050": ({"caption": "é"}, 1),
    }


@pytest.mark.parametrize("change", ["other", "gone", "new"])
def test_changed_annotation_rewrites_its_shard_alone(annotated: Path, change: str) -> None:
    """An annotation that changes, goes or comes touches one shard, and none when nothing does."""
    shards = {row["key"]: row["shard"] for row in rows_of(annotated / records.SHARD_INDEX)}
    before = {path: path.stat().st_ino for path in (annotated / records.DATA).rglob("*.tar")}
    lines: list[str] = []
    shard(annotated, SMALL.shard, log=lines.append)
    assert lines[0].endswith(f" 0 written, {len(before)} left as they were")
    boxes, caption = '{"boxes": [[1, 2, 3, 4]]}', '{"caption": "é"}'
    now = {"cat/007": boxes, "dog/050": caption}
    now |= {"other": {"cat/007": "[]"}, "new": {"cat/009": "[]"}, "gone": {}}[change]
    if change == "gone":
        del now["cat/007"]
    annotate(annotated, now)
    shard(annotated, SMALL.shard, log=lambda _: None)
    changed = {path for path, inode in before.items() if path.stat().st_ino != inode}
    assert changed == {
        annotated / records.DATA / shards["cat/009" if change == "new" else "cat/007"]
    }


# Shrinking -----------------------------------------------------------------------------------


def test_large_images_are_shrunk(tmp_path: Path) -> None:
    """Longer sides come down to max_side, smaller images stay raw; the index tells which."""
    files = FILES | {
        "cat/wide.jpg": saved(gradient(300, 100), "JPEG"),
        "dog/tall.bmp": saved(gradient(80, 240), "BMP"),
    }
    write_files(tmp_path / "raw", files)
    run_stages(tmp_path, params_for(shard={"max_side": 60}))
    found = frames(tmp_path)
    for key, size, form in (("cat/wide", (60, 20), "JPEG"), ("dog/tall", (20, 60), "PNG")):
        row, content = found[key]
        with Image.open(io.BytesIO(content)) as image:
            assert (image.size, image.format) == (size, form)
        raw = next(raw for name, raw in files.items() if name.startswith(key))
        assert row["raw_sha256"] == hashlib.sha256(raw).hexdigest()
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
    row, content = found["cat/000"]
    assert content == files["cat/000.png"] and row["raw_sha256"] is None


def test_shrunk_images_are_carried_on(tmp_path: Path) -> None:
    """A second run with the same switches writes nothing; another max_side packs anew."""
    write_files(tmp_path / "raw", FILES | {"cat/wide.jpg": saved(gradient(300, 100), "JPEG")})
    params = params_for(shard={"max_side": 60})
    run_stages(tmp_path, params)
    before, lines = state(tmp_path), list[str]()
    shard(tmp_path, params.shard, log=lines.append)
    assert " 0 written" in lines[0] and state(tmp_path) == before
    digest = ShardManifest.read(tmp_path / records.SHARD_MANIFEST).digest
    shard(tmp_path, params_for(shard={"max_side": 50}).shard, log=lines.append)
    assert " 0 left as they were" in lines[1]
    with Image.open(io.BytesIO(frames(tmp_path)["cat/wide"][1])) as image:
        assert image.size == (50, 17)
    # Other pixels are other data.
    assert ShardManifest.read(tmp_path / records.SHARD_MANIFEST).digest != digest


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_shrunk_pixels_are_the_averages(mode: str) -> None:
    """In every mode the shrunk image looks like the original."""
    wide = gradient(400, 200, "L" if mode in ("1", "I;16") else mode)
    if mode == "I;16":
        wide = Image.fromarray(np.asarray(wide).astype(np.uint16) * 257)
    elif mode == "1":
        wide = wide.convert("1")
    small = shrunk(Encoded(saved(wide, "PNG"), "PNG"), 40)
    assert small is not None and small.form == "PNG"
    with Image.open(io.BytesIO(small.content)) as image:
        assert image.size == (40, 20)
        found = np.asarray(image.convert("L"), float)
    expected = np.asarray(gradient(400, 200, "L").resize((40, 20), Image.Resampling.BOX), float)
    # Dithering of mode 1 is coarse, and so is a palette of 256 colours.
    assert np.abs(found - expected).mean() < (16 if mode == "1" else 8)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_shrinking_is_deterministic(mode: str) -> None:
    """The same file gives the same bytes, grey, colour or CMYK; a grey JPEG stays grey."""
    content = saved(gradient(400, 200, mode), "JPEG", quality=95)
    first, second = (shrunk(Encoded(content, "JPEG"), 40) for _ in range(2))
    assert first is not None and first == second
    with Image.open(io.BytesIO(first.content)) as image:
        assert image.mode == ("L" if mode == "L" else "RGB")


def test_orientation_is_applied_when_shrinking() -> None:
    """A photograph taken sideways stands upright, and says nothing of it any more."""
    content = saved(gradient(400, 200), "JPEG", exif=telling_exif(orientation=6))
    small = shrunk(Encoded(content, "JPEG"), 40)
    assert small is not None
    with Image.open(io.BytesIO(small.content)) as image:
        assert image.size == (20, 40)
        assert not image.getexif()
        top_right = np.asarray(image)[2, -3]
    assert top_right.max() < 60  # what was dark at the top left


# Metadata ------------------------------------------------------------------------------------

TELLING = (b"Jane Owner", b"SERIAL-4711", b"secret", b"GPSLat")


def telling_files() -> dict[str, bytes]:
    """Images in which somebody is named in every place there is."""
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>secret GPSLat</x:xmpmeta>"
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "secret")
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    exif, profile = telling_exif(orientation=6), b"\0" * 128
    jpeg = {"exif": exif, "xmp": xmp, "comment": b"secret", "icc_profile": profile}
    return {
        "JPEG": saved(gradient(64, 48), "JPEG", **jpeg) + b"secret behind the end",
        "JPEG progressive": saved(gradient(64, 48), "JPEG", progressive=True, **jpeg),
        "JPEG CMYK": saved(gradient(64, 48, "CMYK"), "JPEG", exif=exif, comment=b"secret"),
        "PNG": saved(gradient(64, 48), "PNG", pnginfo=text, exif=exif, icc_profile=profile),
        "PNG palette": saved(gradient(64, 48, "P"), "PNG", pnginfo=text, transparency=3),
        "WEBP": saved(gradient(64, 48), "WEBP", exif=exif, xmp=xmp, icc_profile=profile),
        "WEBP lossless": saved(gradient(64, 48, "RGBA"), "WEBP", lossless=True, exif=exif),
    }


@pytest.mark.parametrize("name", sorted(telling_files()))
def test_stripped_file_tells_nothing_and_looks_the_same(name: str) -> None:
    """Owner, serial number and place are gone; pixels, orientation and profile stay."""
    content = telling_files()[name]
    form = name.partition(" ")[0]
    bare = stripped(content, form)
    assert any(word in content for word in TELLING)
    assert not any(word in bare for word in TELLING)
    with Image.open(io.BytesIO(content)) as before, Image.open(io.BytesIO(bare)) as after:
        assert (before.mode, before.size) == (after.mode, after.size)
        assert np.array_equal(np.asarray(before), np.asarray(after))
        assert before.getexif().get(0x0112) == after.getexif().get(0x0112)
        assert not set(after.getexif()) - {0x0112}
        assert before.info.get("icc_profile") == after.info.get("icc_profile")
        assert before.info.get("transparency") == after.info.get("transparency")
    for flag in (cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE):
        pictures_seen = [cv2.imdecode(np.frombuffer(c, np.uint8), flag) for c in (content, bare)]
        assert np.array_equal(*pictures_seen)


@pytest.mark.parametrize("form", sorted(STRIPPERS.keys() - {"MPO"}))  # it is an index of pictures
def test_file_without_metadata_stays_as_it_is(form: str) -> None:
    """Nothing to take out: not a byte changes."""
    content = encoded(1, form=form)
    assert stripped(content, form) == content


def test_stray_bytes_between_segments_are_passed_over() -> None:
    """Decoders pass over them, so the stripper does."""
    content = saved(gradient(64, 48), "JPEG", comment=b"secret")
    place = content.index(b"\xff\xdb")
    stray = content[:place] + b"\0\0stray" + content[place:]
    bare = stripped(stray, "JPEG")
    assert b"secret" not in bare
    with Image.open(io.BytesIO(stray)) as before, Image.open(io.BytesIO(bare)) as after:
        assert np.array_equal(np.asarray(before), np.asarray(after))


def test_animation_keeps_its_frames() -> None:
    """Of an animated PNG and WebP every frame stays."""
    images = [gradient(32, 32), gradient(32, 32).rotate(90), gradient(32, 32).rotate(180)]
    for form in ("PNG", "WEBP"):
        content = saved(
            images[0], form, save_all=True, append_images=images[1:], exif=telling_exif()
        )
        with Image.open(io.BytesIO(stripped(content, form))) as image:
            assert image.n_frames == 3


def test_strip_metadata_reaches_the_shards(tmp_path: Path) -> None:
    """With the switch no shard names anybody; the index says which files changed."""
    told = telling_files()
    files = FILES | {
        "cat/a.jpg": told["JPEG"],
        "dog/b.png": told["PNG"],
        "dog/c.gif": encoded(3, form="GIF"),
    }
    write_files(tmp_path / "raw", files)
    lines = run_stages(tmp_path, params_for(shard={"strip_metadata": True}))
    found = frames(tmp_path)
    assert {key for key, (row, _) in found.items() if row["raw_sha256"]} == {"cat/a", "dog/b"}
    for path in (tmp_path / records.SHARDS).rglob("*.tar"):
        assert not any(word in path.read_bytes() for word in TELLING)
    assert "strip_metadata does not know 1 GIF" in lines[-1]


def test_annotation_is_json(annotated: Path) -> None:
    """The member is the manifest's text, byte for byte."""
    members = {}
    for path in (annotated / records.SHARDS).rglob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    members[member.name] = json.load(tar.extractfile(member))  # type: ignore[arg-type]
    assert members == {"cat/007.json": {"boxes": [[1, 2, 3, 4]]}, "dog/050.json": {"caption": "é"}}
