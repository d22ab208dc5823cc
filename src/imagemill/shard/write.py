"""One shard on its way to the disk: whole, checked against `ingest`, and digested in one pass."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from imagemill.errors import IntegrityError
from imagemill.shard.annotations import AnnotationDigest
from imagemill.shard.job import PACKED_SCHEMA, ShardJob, WrittenShard
from imagemill.shard.raw_files import RawFiles
from imagemill.tars import TarWriter, filling, headers, member
from imagemill.tasks import TASKS

if TYPE_CHECKING:
    from imagemill.shard.raw import RawImages
    from imagemill.shard.transform import Transform

_TASK = TASKS["classification"]
# Where Pillow's name of a format is not what its files are called.
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}
# What a batch needs stays in the processor's cache.
_BATCH_ROWS = 1024


def packed_rows(job: ShardJob) -> Path:
    """Where `write_shard` leaves its rows of the index, an Arrow file of `PACKED_SCHEMA`."""
    return Path(job.rows).with_suffix(".packed")


def write_shard(job: ShardJob) -> WrittenShard:
    """Write one shard and its part of the index.

    Args:
        job: What to write, and where. Nothing else is read but the raw images it names.

    Returns:
        What the manifest tells of the shard; the file is complete and synced.

    Raises:
        IntegrityError: raw bytes are not those `ingest` read, or cannot be shrunk or stripped.
        SourceError: a raw file is gone.
    """
    with (
        Path(job.target).open("wb", buffering=0) as stream,
        _raw_images(job) as raw,
        pa.OSFile(str(packed_rows(job)), "wb") as sink,
        pa.ipc.new_stream(sink, PACKED_SCHEMA) as index,
    ):
        packer = _Packer(TarWriter(stream), raw, job)
        for rows in _batches(job):
            index.write(packer.pack(rows))
        sha256 = packer.tar.close()
        os.fsync(stream.fileno())
    return WrittenShard(
        sha256=sha256,
        num_samples=packer.num_samples,
        size_bytes=packer.tar.size_bytes,
        annotations=packer.annotations.hexdigest(),
    )


# Imported by those who need them: sources and Pillow take as long as a hundred megabytes do.


def _raw_images(job: ShardJob) -> "RawFiles | RawImages":
    if job.whole_files:
        return RawFiles(Path(job.root))
    from imagemill.shard.raw import RawImages

    return RawImages(Path(job.root))


def _transform(job: ShardJob) -> "Transform | None":
    if job.max_side is None and not job.strip_metadata:
        return None
    from imagemill.shard.transform import transformer

    return transformer(max_side=job.max_side, strip_metadata=job.strip_metadata)


def _batches(job: ShardJob) -> Iterator[pa.RecordBatch]:
    """The job's rows, not too many at a time."""
    with pa.OSFile(job.rows) as source, pa.ipc.open_stream(source) as stream:
        for batch in stream:
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                yield batch.slice(start, _BATCH_ROWS)


class _Packer:
    """Appends samples to one tar: the image, then its target and its annotation if it has one."""

    def __init__(self, tar: TarWriter, raw: "RawFiles | RawImages", job: ShardJob) -> None:
        self.tar = tar
        self.num_samples = 0
        self.annotations = AnnotationDigest()
        self._raw = raw
        self._transform = _transform(job)

    def pack(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Append images and return their rows of the index."""
        self.num_samples += rows.num_rows
        followers = self._followers(rows)
        if self._transform is None:
            return self._pack_raw(rows, followers)
        return self._pack_changed(rows, followers, self._transform)

    def _pack_raw(self, rows: pa.RecordBatch, followers: list[bytes]) -> pa.RecordBatch:
        forms = rows["format"].to_pylist()
        keys, sizes = rows["key"].to_pylist(), rows["size_bytes"].to_pylist()
        names = [f"{key}.{_extension(form)}" for key, form in zip(keys, forms, strict=True)]
        contents = self._raw.contents(rows)
        offsets = self.tar.add_many(headers(names, sizes), contents, followers)
        packed = {name: rows[name] for name in ("size_bytes", "sha256")}
        packed |= {"offset": offsets, "raw_sha256": pa.nulls(len(offsets), pa.string())}
        return _packed_rows(rows, packed)

    def _pack_changed(
        self, rows: pa.RecordBatch, followers: list[bytes], transform: "Transform"
    ) -> pa.RecordBatch:
        packed: dict[str, Any] = {
            name: [] for name in ("offset", "size_bytes", "sha256", "raw_sha256")
        }
        forms = rows["format"].to_pylist()
        keys, digests = rows["key"].to_pylist(), rows["sha256"].to_pylist()
        for key, sha256, raw, form, then in zip(
            keys, digests, self._raw.contents(rows), forms, followers, strict=True
        ):
            try:
                content, form_now = transform(raw, form)
            except IntegrityError as error:
                raise IntegrityError(f"image {key!r} {error}") from None
            head = headers([f"{key}.{_extension(form_now)}"], [len(content)])
            packed["offset"] += self.tar.add_many(head, [content], [then])
            same = content == raw
            packed["size_bytes"].append(len(content))
            packed["sha256"].append(sha256 if same else hashlib.sha256(content).hexdigest())
            packed["raw_sha256"].append(None if same else sha256)
        return _packed_rows(rows, packed)

    def _followers(self, rows: pa.RecordBatch) -> list[bytes]:
        """What stands behind each image: its target and its annotation as members."""
        keys, class_ids = rows["key"].to_pylist(), rows["class_id"].to_pylist()
        targets = {each: _TASK.pack(each) for each in set(class_ids) if each is not None}
        padded = {each: content + filling(len(content)) for each, content in targets.items()}
        names = [f"{key}.{_TASK.extension}" for key in keys]
        heads = headers(names, [len(targets.get(each, b"")) for each in class_ids])
        followers = [
            b"" if each is None else head + padded[each]
            for head, each in zip(heads, class_ids, strict=True)
        ]
        if rows["annotation"].null_count < rows.num_rows:
            self._annotate(keys, rows["annotation"].to_pylist(), followers)
        return followers

    def _annotate(
        self, keys: list[str], annotations: list[str | None], followers: list[bytes]
    ) -> None:
        for number, (key, annotation) in enumerate(zip(keys, annotations, strict=True)):
            if annotation is not None:
                self.annotations.add(key, annotation)
                followers[number] += member(f"{key}.json", annotation.encode())


def _extension(form: str) -> str:
    return _EXTENSIONS.get(form) or form.lower()


def _packed_rows(rows: pa.RecordBatch, packed: dict[str, Any]) -> pa.RecordBatch:
    columns = packed | {"key": rows["key"], "target": rows["class_id"]}
    return pa.RecordBatch.from_pydict(
        {name: columns[name] for name in PACKED_SCHEMA.names}, schema=PACKED_SCHEMA
    )
