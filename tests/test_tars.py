"""Plain tars: what we write others read, what others write we read, and damage is noticed."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from raw_images import write_tar

from imagemill.errors import SourceError
from imagemill.tars import TarWriter, kind, members

NAMES = ["a.png", "d" * 90 + "/" + "n" * 95, "x/" * 120 + "y", "é/" + "ü" * 60]


def written(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    writer = TarWriter(stream)
    for name, content in files.items():
        writer.add(name, content)
    writer.close()
    return stream.getvalue()


def test_tarfile_reads_what_we_write() -> None:
    """Short names, names split in two, and names in an extended header all come back."""
    files = {name: bytes([index]) * 600 for index, name in enumerate(NAMES)}
    with tarfile.open(fileobj=io.BytesIO(written(files))) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert found == files


def test_offset_frames_the_content() -> None:
    """`add` returns where the content begins."""
    stream = io.BytesIO()
    writer = TarWriter(stream)
    writer.add("a", b"first")
    offset = writer.add("b", b"second")
    writer.close()
    assert stream.getvalue()[offset : offset + 6] == b"second"


def test_content_larger_than_the_buffer_is_written_whole() -> None:
    """The reused buffer is no limit."""
    large = bytes(range(256)) * 10_000
    with tarfile.open(fileobj=io.BytesIO(written({"a": b"x", "b": large}))) as tar:
        assert tar.extractfile("b").read() == large  # type: ignore[union-attr]


def test_samples_at_once_are_as_files_one_by_one() -> None:
    """Stems of all lengths that fit, sizes, and a small file or none behind: the same tar."""
    stems = ["a", "d" * 50 + "/" + "n" * 44, "é/" + "ü" * 40, "last"]
    contents = [bytes([number]) * size for number, size in enumerate((0, 511, 512, 3_000_000))]
    followers = [b"7", b"12", None, b"7"]
    stream = io.BytesIO()
    writer = TarWriter(stream)
    kinds = [kind(".jpeg", len(content)) for content in contents]
    small = [None if each is None else kind(".cls", len(each), each) for each in followers]
    offsets = writer.add_samples(stems, kinds, contents, small)
    writer.close()
    both: dict[str, bytes] = {}
    for stem, content, follower in zip(stems, contents, followers, strict=True):
        both |= {f"{stem}.jpeg": content}
        both |= {f"{stem}.cls": follower} if follower is not None else {}
    assert stream.getvalue() == written(both)
    for offset, content in zip(offsets, contents, strict=True):
        assert stream.getvalue()[offset : offset + len(content)] == content


def test_a_file_on_disk_holds_what_a_stream_does(tmp_path: Path) -> None:
    """Small parts and large ones reach a file as they reach any stream, digest included."""
    files = {f"{number:04d}": bytes([number % 256]) * (number * 40) for number in range(1500)}
    stream = io.BytesIO()
    digests = []
    with (tmp_path / "a.tar").open("wb", buffering=0) as file:
        for out in (stream, file):
            writer = TarWriter(out)
            for name, content in files.items():
                writer.add(name, content)
            digests.append(writer.close())
    assert (tmp_path / "a.tar").read_bytes() == stream.getvalue() == written(files)
    assert digests == [hashlib.sha256(stream.getvalue()).hexdigest()] * 2


def test_largest_size_of_a_header() -> None:
    """One byte below 8 GiB is told as it is."""
    ends, before, total, after = kind(".x", 8**11 - 1)
    header = b"large" + ends[5] + before + b"%06o\0 " % (total + sum(b"large")) + after
    found = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    assert (found.name, found.size, found.mode, found.mtime) == ("large.x", 8**11 - 1, 0o644, 0)


def test_digest_is_that_of_the_file() -> None:
    """The sha256 taken on the way is the one of the bytes written."""
    stream = io.BytesIO()
    writer = TarWriter(stream)
    writer.add("a", b"content")
    assert writer.close() == hashlib.sha256(stream.getvalue()).hexdigest()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_agrees_with_tarfile(tmp_path: Path, form: int) -> None:
    """Names, sizes and offsets are those that Python's tarfile sees, in all its formats."""
    path = tmp_path / "a.tar"
    names = NAMES if form != tarfile.USTAR_FORMAT else NAMES[:2]
    with tarfile.open(path, "w", format=form) as tar:
        for size, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = size, 0.5
            tar.addfile(member, io.BytesIO(b"z" * size))
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar]
    found = [(m.name, m.offset, m.size_bytes) for m in members(path)]
    assert found == expected


def test_links_and_devices_are_no_files(tmp_path: Path) -> None:
    """A link, a hard link and a device are told apart from files."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("a.png")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert [member.kind for member in members(path)] == ["other"] * 4


def test_cut_tar_is_an_error(tmp_path: Path) -> None:
    """A tar that ends inside a member is no shorter tar."""
    path = tmp_path / "a.tar"
    path.write_bytes(written({"a": bytes(2000), "b": bytes(2000)})[:4000])
    with pytest.raises(SourceError, match="cut short"):
        list(members(path))


def test_tar_cut_between_members_is_an_error(tmp_path: Path) -> None:
    """Without its end mark a tar is not whole, even if it breaks off between two members."""
    path = tmp_path / "a.tar"
    path.write_bytes(written({"a": bytes(2000), "b": bytes(2000)})[: 512 + 2048])
    with pytest.raises(SourceError, match="end mark is missing"):
        list(members(path))


def test_damaged_header_is_an_error(tmp_path: Path) -> None:
    """A broken header in the middle is not taken for the end of the archive."""
    path = tmp_path / "a.tar"
    write_tar(path, {"a": b"1", "b": b"2"})
    content = bytearray(path.read_bytes())
    content[1024 + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(SourceError, match="damaged at byte 1024"):
        list(members(path))


def test_other_file_is_an_error(tmp_path: Path) -> None:
    """A file that is no tar is named."""
    path = tmp_path / "a.tar"
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(SourceError, match=r"a\.tar is not a tar archive"):
        list(members(path))
