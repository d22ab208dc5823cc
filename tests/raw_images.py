"""Small raw images, and projects whose data stages have run on them."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from imagemill import records
from imagemill.audit import audit
from imagemill.audit.decode import prepare
from imagemill.audit.measure import measure
from imagemill.audit.tables import kept_rows
from imagemill.ingest import ingest
from imagemill.params import Params, read_params
from imagemill.parquet import read_batches, writing
from imagemill.shard import shard
from imagemill.sources import RawReader
from imagemill.sources.pixels import png
from imagemill.split import split

REPOSITORY = Path(__file__).resolve().parent.parent
Files = Mapping[str, bytes]


def picture(number: int, *, size: int = 8) -> bytes:
    """A grey PNG; another number gives other pixels."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size), dtype=np.uint8)
    return png(pixels)


def encoded(number: int, *, mode: str = "RGB", form: str = "JPEG", size: int = 32) -> bytes:
    """A noisy image of any mode and format that Pillow writes."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form)
    return stream.getvalue()


def pictures(classes: Mapping[str, int], *, start: int = 0) -> dict[str, bytes]:
    """`<class>/<number>.png` for as many images of each class as wanted, all different."""
    files = {}
    for name, count in classes.items():
        for _ in range(count):
            files[f"{name}/{len(files):03d}.png"] = picture(start + len(files))
    return files


def write_files(folder: Path, files: Files) -> None:
    """Lay files out in a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write_tar(path: Path, files: Files, *, mode: str = "w", top: str = "") -> None:
    """Pack files as Python's tarfile does."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_zip(path: Path, files: Files, *, method: int = zipfile.ZIP_DEFLATED) -> None:
    """Pack files as Python's zipfile does."""
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, content in files.items():
            packed.writestr(name, content)


def params_for(source: str = "raw", **sections: dict[str, Any]) -> Params:
    """The params we ship with another source, and any section changed."""
    params = read_params(REPOSITORY)
    changes = {"ingest": {"source": source}} | sections
    updates = {
        name: getattr(params, name).model_copy(update=change) for name, change in changes.items()
    }
    return params.model_copy(update=updates)


def run_stages(root: Path, params: Params, *, until: str = "shard") -> list[str]:
    """Run the data stages one after the other; returns what they logged.

    Stages behind the audit get a keep list made in this process, which saves starting another one
    a hundred times; test_audit shows that it is the one the audit writes.
    """
    lines: list[str] = []
    ingest(root, params.ingest, log=lines.append)
    if until == "audit":
        audit(root, params.audit, log=lines.append, workers=1)
    if until in ("split", "shard"):
        keep_all(root, params)
        split(root, params.split, log=lines.append)
    if until == "shard":
        shard(root, params.shard, log=lines.append)
    return lines


def keep_all(root: Path, params: Params) -> None:
    """Write the keep list of a manifest without a bad image."""
    prepare()
    with RawReader(root) as reader, writing(root / records.KEEP, records.KEEP_SCHEMA) as keep:
        for batch in read_batches(root / records.MANIFEST):
            columns = (batch[name].to_pylist() for name in ("uri", "offset", "size_bytes"))
            places = zip(*columns, strict=True)
            contents = (reader.read(*place) for place in places)
            facts_N, _ = measure(contents, max_pixels=params.audit.max_pixels)
            assert not facts_N["fault"].any()
            alone = pa.nulls(batch.num_rows, pa.string())
            keep.write(kept_rows(batch, facts_N, alone))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """All rows of a Parquet file."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def splits_of(root: Path) -> dict[str, str]:
    """Key -> split."""
    return {row["key"]: row["split"] for row in rows_of(root / records.SPLITS)}


def quarantined(root: Path) -> dict[str, str]:
    """Key -> check."""
    return {row["key"]: row["check"] for row in rows_of(root / records.QUARANTINE)}
