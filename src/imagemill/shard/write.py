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
from imagemill.tars import NAME_BYTES, Kind, TarWriter, kind
from imagemill.tasks import TASKS

if TYPE_CHECKING:
    from imagemill.shard.raw import RawImages
    from imagemill.shard.transform import Transform

_TASK = TASKS["classification"]
# Where Pillow's name of a format is not what its files are called.
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}
# Of keys: with any ending behind it such a name fits its field in a tar's header.
_SHORT_BYTES = NAME_BYTES - 16


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
        if self._transform is None and _are_simple(rows):
            return self._pack_together(rows)
        return self._pack_one_by_one(rows)

    def _pack_together(self, rows: JobRows) -> PackedRows:
        endings = {form: _ending(form) for form in set(rows.format)}
        kinds = [
            kind(endings[form], size)
            for form, size in zip(rows.format, rows.size_bytes, strict=True)
        ]
        targets = {each: _target_kind(each) for each in set(rows.class_id)}
        followers = [targets[each] for each in rows.class_id]
        offsets = self.tar.add_samples(rows.key, kinds, self._raw.contents(rows), followers)
        return PackedRows(offsets, rows.size_bytes, rows.sha256, [])

    def _pack_one_by_one(self, rows: JobRows) -> PackedRows:
        packed = PackedRows([], [], [], [])
        for key, sha256, raw, form, class_id, annotation in zip(
            rows.key,
            rows.sha256,
            self._raw.contents(rows),
            rows.format,
            rows.class_id,
            rows.annotation,
            strict=True,
        ):
            content, form_now = self._changed(key, raw, form)
            packed.offset.append(self.tar.add(f"{key}{_ending(form_now)}", content))
            same = content == raw
            packed.size_bytes.append(len(content))
            packed.sha256.append(sha256 if same else hashlib.sha256(content).hexdigest())
            packed.raw_sha256.append(None if same else sha256)
            if class_id is not None:
                self.tar.add(f"{key}.{_TASK.extension}", _TASK.pack(class_id))
            if annotation is not None:
                self.annotations.add(key, annotation)
                self.tar.add(f"{key}.json", annotation.encode())
        return packed

    def _changed(self, key: str, content: bytes, form: str) -> tuple[bytes, str]:
        if self._transform is None:
            return content, form
        try:
            return self._transform(content, form)
        except IntegrityError as error:
            raise IntegrityError(f"image {key!r} {error}") from None


def _are_simple(rows: JobRows) -> bool:
    """Whether all are an image and a target under short names, as most are."""
    longest = max(map(len, map(str.encode, rows.key)))
    return longest <= _SHORT_BYTES and rows.annotation.count(None) == len(rows.annotation)


def _target_kind(class_id: int | None) -> Kind | None:
    if class_id is None:
        return None
    content = _TASK.pack(class_id)
    return kind(f".{_TASK.extension}", len(content), content)


def _ending(form: str) -> str:
    return f".{_EXTENSIONS.get(form) or form.lower()}"
