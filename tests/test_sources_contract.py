"""Every kind of source keeps the same promises."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from foreign_sources import MAKERS
from raw_images import params_for, rows_of

from imagemill import records
from imagemill.ingest import ingest
from imagemill.scan import disk_needed, scan
from imagemill.sources import SOURCES, RawImage, RawReader, kind_of, open_source

KINDS = sorted(SOURCES)


def images_of(root: Path, source: str) -> list[RawImage]:
    """All images, by path."""
    return sorted(open_source(root, source).images(), key=lambda image: image.path)


def bytes_of(root: Path, source: str) -> dict[str, bytes]:
    """Path -> bytes of all images."""
    with RawReader(root) as reader:
        return {
            image.path: reader.read(image.uri, image.offset, image.size_bytes)
            for image in images_of(root, source)
        }


def log_of(root: Path, source: str) -> str:
    """What ingest says."""
    lines: list[str] = []
    ingest(root, params_for(source).ingest, log=lines.append)
    return lines[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_kind_is_recognised(tmp_path: Path, kind: str) -> None:
    """What lies there tells which kind it is."""
    assert kind_of(tmp_path, MAKERS[kind](tmp_path)) == kind


@pytest.mark.parametrize("kind", KINDS)
def test_all_images_can_be_decoded(tmp_path: Path, kind: str) -> None:
    """uri, offset and size frame an image."""
    found = bytes_of(tmp_path, MAKERS[kind](tmp_path))
    pixels = [cv2.imdecode(np.frombuffer(raw, np.uint8), -1) for raw in found.values()]
    assert len(pixels) > 3 and all(image is not None for image in pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_listing_again_gives_the_same(tmp_path: Path, kind: str) -> None:
    """Images are the same each time, and no path comes twice."""
    source = MAKERS[kind](tmp_path)
    first = images_of(tmp_path, source)
    assert images_of(tmp_path, source) == first
    assert len({image.path for image in first}) == len(first)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "torchvision"])
def test_made_files_may_be_deleted(tmp_path: Path, kind: str) -> None:
    """What lies in .imagemill/sources is made again, byte for byte."""
    source = MAKERS[kind](tmp_path)
    before = bytes_of(tmp_path, source)
    shutil.rmtree(tmp_path / ".imagemill/sources", ignore_errors=True)
    assert bytes_of(tmp_path, source) == before


@pytest.mark.parametrize("kind", KINDS)
def test_second_ingest_reads_nothing(tmp_path: Path, kind: str) -> None:
    """An unchanged source is recognised by stat, and the manifest is the same to the byte."""
    source = MAKERS[kind](tmp_path)
    log_of(tmp_path, source)
    before = (tmp_path / records.MANIFEST).read_bytes()
    assert "; 0 read" in log_of(tmp_path, source)
    assert (tmp_path / records.MANIFEST).read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_seen_has_a_row_an_image(tmp_path: Path, kind: str) -> None:
    """seen.parquet follows the manifest row by row, and every file here has a stamp."""
    log_of(tmp_path, MAKERS[kind](tmp_path))
    names = ["key", "uri", "offset", "size_bytes", "sha256"]
    seen, manifest = (rows_of(tmp_path / path) for path in (records.SEEN, records.MANIFEST))
    assert [[row[n] for n in names] for row in seen] == [
        [row[n] for n in names] for row in manifest
    ]
    assert all(row["stamp"] for row in seen)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "digits"])
def test_scan_notices_a_touched_file(tmp_path: Path, kind: str) -> None:
    """The fingerprint stays while nothing happens, and changes with any file."""
    params = params_for(MAKERS[kind](tmp_path)).ingest
    assert scan(tmp_path, params).changed
    assert not scan(tmp_path, params).changed
    places = [*tmp_path.glob("raw*"), *tmp_path.glob(".imagemill/sources/torchvision")]
    file = next(p for p in [places[0], *sorted(places[0].rglob("*"))] if p.is_file())
    os.utime(file, ns=(1, 1))
    assert scan(tmp_path, params).changed


@pytest.mark.parametrize("kind", KINDS)
def test_volume_covers_the_images(tmp_path: Path, kind: str) -> None:
    """Files and bytes are told from above, as far as they can be told without unpacking."""
    source = MAKERS[kind](tmp_path)
    held = open_source(tmp_path, source).volume()
    images = images_of(tmp_path, source)
    made = sum(path.stat().st_size for path in tmp_path.glob(".imagemill/sources/*.tar"))
    assert held.num_files >= len(images)
    assert held.content_bytes >= sum(image.size_bytes for image in images)
    assert held.unpacked_bytes >= made
    assert disk_needed(tmp_path, params_for(source)) > 300_000_000


def test_every_kind_is_tested_here() -> None:
    """A new kind of source comes with a small one of its kind."""
    assert set(MAKERS) == set(SOURCES)
