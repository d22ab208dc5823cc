"""One shard on its way to the disk: whole, checked against `ingest`, and digested in one pass."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.errors import IntegrityError
from imagemill.shard.annotations import AnnotationDigest
from imagemill.shard.job import (
    JobRows,
    PackedRows,
    ShardJob,
    WrittenShard,
    packed_path,
    read_job_rows,
    write_rows,
)
from imagemill.shard.raw_files import RawFiles
from imagemill.tars import TarWriter, filling, headers, member
from imagemill.tasks import TASKS

if TYPE_CHECKING:
    from imagemill.shard.raw import RawImages
    from imagemill.shard.transform import Transform

_TASK = TASKS["classification"]
# Where Pillow's name of a format is not what its files are called.
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}


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
        packed_path(job).open("wb") as index,
    ):
        packer = _Packer(TarWriter(stream), raw, job)
        for rows in read_job_rows(job):
            write_rows(index, packer.pack(rows))
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


class _Packer:
    """Appends samples to one tar: the image, then its target and its annotation if it has one."""

    def __init__(self, tar: TarWriter, raw: "RawFiles | RawImages", job: ShardJob) -> None:
        self.tar = tar
        self.num_samples = 0
        self.annotations = AnnotationDigest()
        self._raw = raw
        self._transform = _transform(job)

    def pack(self, rows: JobRows) -> PackedRows:
        """Append images and return what the index needs of them."""
        self.num_samples += len(rows.key)
        followers = self._followers(rows)
        if self._transform is None:
            return self._pack_raw(rows, followers)
        return self._pack_changed(rows, followers, self._transform)

    def _pack_raw(self, rows: JobRows, followers: list[bytes]) -> PackedRows:
        extensions = {form: _extension(form) for form in set(rows.format)}
        names = [
            f"{key}.{extensions[form]}" for key, form in zip(rows.key, rows.format, strict=True)
        ]
        heads = headers(names, rows.size_bytes)
        offsets = self.tar.add_many(heads, self._raw.contents(rows), followers)
        return PackedRows(offsets, rows.size_bytes, rows.sha256)

    def _pack_changed(
        self, rows: JobRows, followers: list[bytes], transform: "Transform"
    ) -> PackedRows:
        offsets, sizes, digests, raw_digests = [], [], [], []
        for key, sha256, raw, form, then in zip(
            rows.key, rows.sha256, self._raw.contents(rows), rows.format, followers, strict=True
        ):
            try:
                content, form_now = transform(raw, form)
            except IntegrityError as error:
                raise IntegrityError(f"image {key!r} {error}") from None
            head = headers([f"{key}.{_extension(form_now)}"], [len(content)])
            offsets += self.tar.add_many(head, [content], [then])
            same = content == raw
            sizes.append(len(content))
            digests.append(sha256 if same else hashlib.sha256(content).hexdigest())
            raw_digests.append(None if same else sha256)
        return PackedRows(offsets, sizes, digests, raw_digests)

    def _followers(self, rows: JobRows) -> list[bytes]:
        """What stands behind each image: its target and its annotation as members."""
        targets = {each: b"" if each is None else _TASK.pack(each) for each in set(rows.class_id)}
        padded = {each: content + filling(len(content)) for each, content in targets.items()}
        names = [f"{key}.{_TASK.extension}" for key in rows.key]
        heads = headers(names, [len(targets[each]) for each in rows.class_id])
        followers = [
            b"" if each is None else head + padded[each]
            for head, each in zip(heads, rows.class_id, strict=True)
        ]
        self._annotate(rows, followers)
        return followers

    def _annotate(self, rows: JobRows, followers: list[bytes]) -> None:
        for number, (key, annotation) in enumerate(zip(rows.key, rows.annotation, strict=True)):
            if annotation is not None:
                self.annotations.add(key, annotation)
                followers[number] += member(f"{key}.json", annotation.encode())


def _extension(form: str) -> str:
    return _EXTENSIONS.get(form) or form.lower()
