"""Sources: the same images from a folder, any archive or a manifest file, and clear refusals."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_images import picture, pictures, write_files, write_tar, write_zip

from imagemill.errors import UnknownNameError, UserError
from imagemill.sources import RawReader, key_and_extension, open_source, plain_tars

FILES = pictures({"cat": 3, "dog": 2})
GIVEN = {
    f"{split}/{path}": picture(100 * place + index)
    for place, split in enumerate(["train", "validation", "test"])
    for index, path in enumerate(["cat/1.png", "dog/2.png"])
}


def content_of(root: Path, source: str) -> dict[str, bytes]:
    """Path -> bytes of all images of a source."""
    with RawReader(root) as reader:
        return {
            image.path: reader.read(image.uri, image.offset, image.size_bytes)
            for image in open_source(root, source).images()
        }


def labels_of(root: Path, source: str) -> dict[str, tuple[str | None, str | None]]:
    """Path -> (split, target)."""
    return {image.path: (image.split, image.target) for image in open_source(root, source).images()}


def write_source(root: Path, kind: str, files: dict[str, bytes]) -> str:
    """Lay the same files out as one kind of source; returns its name."""
    match kind:
        case "folder":
            write_files(root / "raw", files)
            return "raw"
        case "tar":
            write_tar(root / "raw.tar", files)
        case "tar.gz" | "tgz":
            write_tar(root / f"raw.{kind}", files, mode="w:gz")
        case "zip":
            write_zip(root / "raw.zip", files)
        case "stored.zip":
            write_zip(root / "raw.stored.zip", files, method=zipfile.ZIP_STORED)
        case "csv":
            write_files(root / "raw", files)
            rows = [f"{path},{path.split('/')[0]}" for path in files]
            (root / "raw/list.csv").write_text("\n".join(["path,label", *rows]))
            return "raw/list.csv"
        case "parquet":
            write_files(root / "raw", files)
            labels = [path.split("/")[0] for path in files]
            table = pa.table({"path": list(files), "label": labels})
            pq.write_table(table, root / "raw/list.parquet")
            return "raw/list.parquet"
    return f"raw.{kind}"


ARCHIVES = ["tar", "tar.gz", "tgz", "zip", "stored.zip"]


@pytest.mark.parametrize("kind", ["folder", *ARCHIVES, "csv", "parquet"])
def test_same_images_from_every_kind(tmp_path: Path, kind: str) -> None:
    """Paths and bytes do not depend on how the images are packed."""
    assert content_of(tmp_path, write_source(tmp_path, kind, FILES)) == FILES


@pytest.mark.parametrize("kind", ["folder", *ARCHIVES, "csv", "parquet"])
def test_label_is_the_class_folder(tmp_path: Path, kind: str) -> None:
    """Every kind gives the same labels, and no split."""
    source = write_source(tmp_path, kind, FILES)
    assert labels_of(tmp_path, source) == {path: (None, path[:3]) for path in FILES}


@pytest.mark.parametrize("kind", ["folder", *ARCHIVES])
def test_given_splits_are_read(tmp_path: Path, kind: str) -> None:
    """train, validation and test above the classes are splits; validation is val."""
    labels = labels_of(tmp_path, write_source(tmp_path, kind, GIVEN))
    assert labels["validation/dog/2.png"] == ("val", "dog")
    assert {split for split, _ in labels.values()} == {"train", "val", "test"}


@pytest.mark.parametrize("kind", ["folder", *ARCHIVES])
def test_single_top_folder_is_looked_through(tmp_path: Path, kind: str) -> None:
    """A folder around everything is not part of paths."""
    source = write_source(tmp_path, kind, {f"photos/{path}": raw for path, raw in GIVEN.items()})
    assert set(labels_of(tmp_path, source)) == set(GIVEN)


def test_archive_is_read_in_place(tmp_path: Path) -> None:
    """A plain tar and a zip of stored members need no second copy."""
    for kind in ("tar", "stored.zip"):
        content_of(tmp_path, write_source(tmp_path, kind, FILES))
    assert not (tmp_path / ".imagemill").exists()


def test_plain_tar_is_made_again_when_missing(tmp_path: Path) -> None:
    """What lies in .imagemill/ may be deleted at any time."""
    source = write_source(tmp_path, "tar.gz", FILES)
    images = list(open_source(tmp_path, source).images())
    for tar in (tmp_path / ".imagemill/sources").iterdir():
        tar.unlink()
    with RawReader(tmp_path) as reader:
        image = images[0]
        found = reader.read(image.uri, image.offset, image.size_bytes)
    assert found == FILES[image.path]


def test_changed_archive_gets_a_new_plain_tar(tmp_path: Path) -> None:
    """A plain tar belongs to one state of its archive; the older one goes."""
    source = write_source(tmp_path, "tar.gz", FILES)
    content_of(tmp_path, source)
    changed = FILES | {"dog/new.png": picture(77)}
    write_tar(tmp_path / source, changed, mode="w:gz")
    assert content_of(tmp_path, source) == changed
    assert len(list((tmp_path / ".imagemill/sources").iterdir())) == 1


def test_digits_are_the_1797_of_scikit_learn(tmp_path: Path) -> None:
    """Each PNG holds the values 0..16 of a digit as value * 255 / 16, rounded."""
    import cv2
    import numpy as np
    from sklearn.datasets import load_digits

    found = content_of(tmp_path, "digits")
    digits = load_digits()
    path = f"{digits.target[42]}/0042.png"
    pixels = cv2.imdecode(np.frombuffer(found[path], np.uint8), cv2.IMREAD_UNCHANGED)
    assert len(found) == 1797
    np.testing.assert_array_equal(pixels, np.rint(digits.images[42] * 255 / 16))


def test_hidden_and_other_files_are_no_images(tmp_path: Path) -> None:
    """Licences, notes and what systems leave behind are passed over."""
    noise = {"LICENSE": b"x", "cat/notes.txt": b"x", ".git/cat/a.png": b"x", "dog/._1.png": b"x"}
    write_files(tmp_path / "raw", FILES | noise | {"__MACOSX/cat/a.png": b"x"})
    assert set(content_of(tmp_path, "raw")) == set(FILES)


def test_empty_image_file_is_carried_on(tmp_path: Path) -> None:
    """A file called .jpg is an image until the audit says what is wrong with it."""
    write_files(tmp_path / "raw", FILES | {"cat/empty.jpg": b""})
    assert content_of(tmp_path, "raw")["cat/empty.jpg"] == b""


def test_unlabelled_folder_has_no_class(tmp_path: Path) -> None:
    """Images in `unlabelled` go to the split of that name."""
    write_files(tmp_path / "raw", FILES | {"unlabelled/a.png": picture(50)})
    assert labels_of(tmp_path, "raw")["unlabelled/a.png"] == ("unlabelled", None)


def test_class_may_be_called_train(tmp_path: Path) -> None:
    """`train` beside `bus`, with images right inside, is a vehicle."""
    write_files(tmp_path / "raw", pictures({"train": 2, "bus": 2}))
    assert set(labels_of(tmp_path, "raw").values()) == {(None, "train"), (None, "bus")}


def test_linked_images_are_followed(tmp_path: Path) -> None:
    """A link to an image in a folder is that image."""
    write_files(tmp_path, {"elsewhere/a.png": picture(5)})
    write_files(tmp_path / "raw", FILES)
    (tmp_path / "raw/cat/link.png").symlink_to(tmp_path / "elsewhere/a.png")
    assert content_of(tmp_path, "raw")["cat/link.png"] == picture(5)


def test_circle_of_links_ends(tmp_path: Path) -> None:
    """A folder linked into itself is walked once."""
    write_files(tmp_path / "raw", FILES)
    (tmp_path / "raw/cat/again").symlink_to(tmp_path / "raw")
    found = content_of(tmp_path, "raw")
    assert set(FILES) <= set(found)


def test_manifest_file_gives_split_and_group(tmp_path: Path) -> None:
    """Optional columns are read; labels are text whatever they look like."""
    write_files(tmp_path / "raw", {"a.png": picture(1), "b.png": picture(2), "c.png": picture(3)})
    rows = ["path,label,split,group", "a.png,007,validation,g1", "b.png,NA,,", "c.png,,test,"]
    (tmp_path / "raw/list.csv").write_text("\n".join(rows))
    images = list(open_source(tmp_path, "raw/list.csv").images())
    assert [(i.target, i.split, i.group) for i in images] == [
        ("007", "val", "g1"),
        ("NA", None, None),
        (None, "test", None),
    ]


def test_other_columns_do_not_matter(tmp_path: Path) -> None:
    """A column of notes may hold numbers first and words a megabyte later."""
    write_files(tmp_path, {"a.png": picture(1), "b.png": picture(2)})
    rows = ["path,notes,label", *["a.png,1,cat"] * 90_000, "b.png,blurred,dog"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    *_, last = open_source(tmp_path, "list.csv").images()
    assert (last.path, last.target) == ("b.png", "dog")


# Refusals ------------------------------------------------------------------------------------


def refusal(root: Path, source: str) -> str:
    """The message of the error that reading a source ends with."""
    with pytest.raises(UserError) as caught:
        list(open_source(root, source).images())
    return str(caught.value)


def test_missing_source_is_named(tmp_path: Path) -> None:
    """The message names the path that was looked at."""
    assert "photos/raw does not exist" in refusal(tmp_path, "photos/raw")


def test_misspelt_built_in_names_the_nearest(tmp_path: Path) -> None:
    """A bare word that is nothing gets the nearest built-in name."""
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        open_source(tmp_path, "digit")


def test_scheme_we_do_not_read_lists_the_known(tmp_path: Path) -> None:
    """An address is not taken for a path that does not exist."""
    told = refusal(tmp_path, "s33://bucket/images")
    assert "no kind of address is called 's33'; did you mean 's3'?" in told


def test_unknown_kind_lists_the_known(tmp_path: Path) -> None:
    """A file we cannot read is answered with what we can."""
    (tmp_path / "raw.rar").write_bytes(b"x")
    assert ".tar.gz" in refusal(tmp_path, "raw.rar")


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_source_without_images(tmp_path: Path, kind: str) -> None:
    """No image at all is an error of its own."""
    assert "holds no images" in refusal(tmp_path, write_source(tmp_path, kind, {"a/b.txt": b"x"}))


def test_empty_class_folder_is_listed(tmp_path: Path) -> None:
    """Folders of classes without a single image are named."""
    write_files(tmp_path / "raw", GIVEN)
    (tmp_path / "raw/train/bird").mkdir()
    assert "class folder train/bird without a single image" in refusal(tmp_path, "raw")


def test_empty_class_folder_in_an_archive_is_listed(tmp_path: Path) -> None:
    """The same inside a tar, where folders have members of their own."""
    write_tar(tmp_path / "raw.tar", FILES)
    with tarfile.open(tmp_path / "raw.tar", "a") as tar:
        folder = tarfile.TarInfo("bird")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert "class folder bird" in refusal(tmp_path, "raw.tar")


def test_folder_beside_given_splits(tmp_path: Path) -> None:
    """A class beside train and test contradicts them."""
    write_files(tmp_path / "raw", GIVEN | FILES)
    assert "'cat' lies beside given splits" in refusal(tmp_path, "raw")


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("name", ["../cat/a.png", "/cat/a.png", "cat/../../a.png"])
def test_member_that_points_outside(tmp_path: Path, kind: str, name: str) -> None:
    """Path tricks are refused by name."""
    source = write_source(tmp_path, kind, FILES | {name: b"x"})
    assert "points outside the archive" in refusal(tmp_path, source)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_link_in_an_archive(tmp_path: Path, kind: bytes) -> None:
    """A link or device that is called an image is refused by name, never followed."""
    write_tar(tmp_path / "raw.tar", FILES)
    with tarfile.open(tmp_path / "raw.tar", "a") as tar:
        member = tarfile.TarInfo("cat/evil.png")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    assert "'cat/evil.png' is a link or a device" in refusal(tmp_path, "raw.tar")


def test_link_in_a_zip(tmp_path: Path) -> None:
    """The same in a zip, where a link is a file with a mode."""
    write_zip(tmp_path / "raw.zip", FILES)
    with zipfile.ZipFile(tmp_path / "raw.zip", "a") as packed:
        link = zipfile.ZipInfo("cat/evil.png")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
    assert "'cat/evil.png' is a link" in refusal(tmp_path, "raw.zip")


def test_broken_link_in_a_folder(tmp_path: Path) -> None:
    """A link to nothing is named."""
    write_files(tmp_path / "raw", FILES)
    (tmp_path / "raw/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    assert "'cat/gone.png'" in refusal(tmp_path, "raw")


def test_pipe_in_a_folder_does_not_hang(tmp_path: Path) -> None:
    """A named pipe called .png is refused, not waited for."""
    write_files(tmp_path / "raw", FILES)
    os.mkfifo(tmp_path / "raw/cat/pipe.png")
    assert "'cat/pipe.png'" in refusal(tmp_path, "raw")


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_bomb_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that expands beyond all measure stops before it fills the disk."""
    monkeypatch.setattr(plain_tars, "_NEVER_A_BOMB_BYTES", 1 << 20)
    source = write_source(tmp_path, kind, FILES | {"cat/zeros.png": bytes(5_000_000)})
    assert "decompression bomb" in refusal(tmp_path, source)
    assert list((tmp_path / ".imagemill/sources").iterdir()) == []


@pytest.mark.parametrize("kind", ["tar.gz", "zip", "tar"])
def test_cut_archive_leaves_nothing(tmp_path: Path, kind: str) -> None:
    """A download that broke off is told, and no half plain tar stays."""
    source = write_source(tmp_path, kind, FILES)
    whole = (tmp_path / source).read_bytes()
    (tmp_path / source).write_bytes(whole[: len(whole) // 2])
    told = refusal(tmp_path, source)
    assert "cut short" in told
    assert not list(tmp_path.glob(".imagemill/sources/*"))


def test_zip_with_wrong_checksum(tmp_path: Path) -> None:
    """Bytes that are not those once packed are noticed while repacking."""
    write_zip(tmp_path / "raw.zip", FILES, method=zipfile.ZIP_STORED)
    with zipfile.ZipFile(tmp_path / "raw.zip", "a", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("dog/packed.png", picture(60))
    content = (tmp_path / "raw.zip").read_bytes()
    at = content.index(b"IHDR")
    (tmp_path / "raw.zip").write_bytes(content[:at] + b"IHDX" + content[at + 4 :])
    assert "checksum does not fit" in refusal(tmp_path, "raw.zip")


def test_csv_without_label_column(tmp_path: Path) -> None:
    """The message says which column is missing and which are there."""
    (tmp_path / "list.csv").write_text("path,class\na.png,cat\n")
    told = refusal(tmp_path, "list.csv")
    assert "no column 'label'" in told and "path, class" in told


def test_csv_row_without_file(tmp_path: Path) -> None:
    """A listed image that is not there is named with its row."""
    write_files(tmp_path, {"a.png": picture(1)})
    (tmp_path / "list.csv").write_text("path,label\na.png,cat\nb.png,dog\n")
    assert "row 2 of list.csv: cannot read ./b.png" in refusal(tmp_path, "list.csv")


def test_csv_with_unknown_split(tmp_path: Path) -> None:
    """A misspelt split gets the nearest right one."""
    write_files(tmp_path, {"a.png": picture(1)})
    (tmp_path / "list.csv").write_text("path,label,split\na.png,cat,trian\n")
    assert "did you mean 'train'" in refusal(tmp_path, "list.csv")


# Keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("cat/1.png", ("cat/1", "png")),
        ("a b/ü.v2.JPG", ("a%20b/%C3%BC%2Ev2", "JPG")),
        ("no_extension", ("no_extension", "")),
        (".hidden", ("%2Ehidden", "")),
        ("100%/x-y_z.tif", ("100%25/x-y_z", "tif")),
    ],
)
def test_key_is_safe_everywhere(path: str, expected: tuple[str, str]) -> None:
    """What lies outside [A-Za-z0-9_/-] is percent-encoded, dots too."""
    assert key_and_extension(path) == expected


def test_zip_directory_agrees_with_zipfile(tmp_path: Path) -> None:
    """Our streamed directory names the members zipfile names, with the same bytes."""
    from imagemill.sources import zips

    write_zip(tmp_path / "a.zip", FILES | {"ü/é.png": b"x" * 70_000, "empty.png": b""})
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        expected = {info.filename: packed.read(info) for info in packed.infolist()}
    with (tmp_path / "a.zip").open("rb") as stream, (tmp_path / "a.zip").open("rb") as directory:
        found = {
            member.name: b"".join(zips.content(stream, member, "a.zip"))
            for member in zips.members(directory, "a.zip")
        }
    assert found == expected


def test_large_zip_directory_is_read(tmp_path: Path) -> None:
    """More members than 16 bits count (zip64) are all found."""
    from imagemill.sources import zips

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for number in range(66_000):
            packed.writestr(f"{number}", b"")
    assert sum(1 for _ in zips.members(buffer, "a.zip")) == 66_000
