"""Sources of raw pixels (IDX, CIFAR, by torchvision's names): exact pixels, and hostile files."""

import gzip
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from foreign_sources import (
    idx_images,
    idx_labels,
    levels,
    python2_batch,
    write_cifar,
    write_cifar_binary,
    write_idx,
)
from raw_images import write_files, write_tar

from imagemill.errors import SourceError, UnknownNameError, UserError
from imagemill.sources import RawReader, kind_of, open_source
from imagemill.sources.pickles import read_plain

Label = tuple[str | None, str | None]


def labels_of(root: Path, source: str = "raw") -> dict[str, Label]:
    """Path -> (split, class)."""
    return {image.path: (image.split, image.target) for image in open_source(root, source).images()}


def pixels_of(root: Path, source: str = "raw") -> dict[str, np.ndarray[Any, Any]]:
    """Path -> decoded pixels, RGB where there is colour."""
    found = {}
    with RawReader(root) as reader:
        for image in open_source(root, source).images():
            raw = np.frombuffer(reader.read(image.uri, image.offset, image.size_bytes), np.uint8)
            pixels = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED)
            found[image.path] = pixels if pixels.ndim == 2 else pixels[:, :, ::-1]
    return found


def refusal(root: Path, source: str = "raw") -> str:
    """The message of the error that reading a source ends with."""
    with pytest.raises(UserError) as caught:
        list(open_source(root, source).images())
    return str(caught.value)


# IDX -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_idx_pixels_are_exact(tmp_path: Path, packed: bool) -> None:
    """A PNG holds the bytes of its image, packed with gzip or not."""
    write_idx(tmp_path / "raw", packed=packed)
    found = pixels_of(tmp_path)
    np.testing.assert_array_equal(found["train/000003.png"], levels(4, 6, 5)[3])
    np.testing.assert_array_equal(found["test/000001.png"], levels(2, 6, 5, seed=1)[1])


def test_idx_labels_and_splits(tmp_path: Path) -> None:
    """Classes are the label's numbers; t10k is the test set."""
    write_idx(tmp_path / "raw")
    labels = labels_of(tmp_path)
    assert labels["train/000000.png"] == ("train", "3")
    assert labels["test/000001.png"] == ("test", "0")


def test_idx_classes_can_be_named(tmp_path: Path) -> None:
    """classes.txt gives the ids their names."""
    write_idx(tmp_path / "raw")
    (tmp_path / "raw/classes.txt").write_text("shirt\ntrousers\npullover\ndress\n")
    assert labels_of(tmp_path)["train/000000.png"] == ("train", "dress")


def test_idx_in_an_archive(tmp_path: Path) -> None:
    """The files may come in a tar.gz with a folder around them."""
    write_idx(tmp_path / "files")
    files = {p.name: p.read_bytes() for p in (tmp_path / "files").iterdir()}
    write_tar(tmp_path / "mnist.tar.gz", files, mode="w:gz", top="mnist/")
    np.testing.assert_array_equal(
        pixels_of(tmp_path, "mnist.tar.gz")["train/000000.png"], levels(4, 6, 5)[0]
    )


def test_changed_idx_gets_another_tar(tmp_path: Path) -> None:
    """The PNGs belong to one state of the files; the older tar goes."""
    write_idx(tmp_path / "raw")
    pixels_of(tmp_path)
    write_files(tmp_path / "raw", {"train-images-idx3-ubyte": idx_images(levels(4, 6, 5, seed=7))})
    os.utime(tmp_path / "raw/train-images-idx3-ubyte", ns=(5, 5))
    np.testing.assert_array_equal(
        pixels_of(tmp_path)["train/000000.png"], levels(4, 6, 5, seed=7)[0]
    )
    assert len(list((tmp_path / ".imagemill/sources").glob("*.tar"))) == 1


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("train-images-idx3-ubyte", idx_images(levels(4, 6, 5))[:-1], "is cut short: expected 120"),
        ("train-images-idx3-ubyte", idx_images(levels(4, 6, 5)) + b"x", "more bytes than its head"),
        ("train-images-idx3-ubyte", b"PK\3\4" + bytes(200), "begins with 0x504b0304"),
        ("train-images-idx3-ubyte", b"", "is cut short"),
        ("train-labels-idx1-ubyte", idx_labels([1, 2]), "as many labels as images"),
        ("train-labels-idx1-ubyte", idx_labels([1] * 5), "as many labels as images"),
        ("classes.txt", b"one\ntwo\n", "the label 3, but only 2 classes are named"),
    ],
)
def test_damaged_idx(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    """A file that is not what it says is named with what was expected."""
    write_idx(tmp_path / "raw")
    write_files(tmp_path / "raw", {name: content})
    assert told in refusal(tmp_path)


def test_cut_gzip_of_idx(tmp_path: Path) -> None:
    """A download that broke off is told, and no half tar stays."""
    write_idx(tmp_path / "raw", packed=True)
    file = tmp_path / "raw/train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    assert "damaged or cut short" in refusal(tmp_path)
    assert not list(tmp_path.glob(".imagemill/sources/*"))


def test_idx_without_labels(tmp_path: Path) -> None:
    """The missing file is named."""
    write_idx(tmp_path / "raw")
    (tmp_path / "raw/t10k-labels-idx1-ubyte").unlink()
    assert "no t10k-labels-idx1-ubyte" in refusal(tmp_path)


def test_two_idx_sets_in_one_folder(tmp_path: Path) -> None:
    """Letters and digits side by side are not mixed."""
    write_idx(tmp_path / "raw")
    for path in list((tmp_path / "raw").iterdir()):
        path.with_name(f"letters-{path.name}").write_bytes(path.read_bytes())
    assert "several data sets (train, letters-)" in refusal(tmp_path)


def test_bomb_in_a_gzip_of_idx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million blank images in a small file stop before they fill the disk."""
    monkeypatch.setattr("imagemill.sources.plain_tars._NEVER_A_BOMB_BYTES", 1 << 20)
    write_idx(tmp_path / "raw", packed=True)
    blank = idx_images(np.zeros((20_000, 28, 28), np.uint8))
    write_files(tmp_path / "raw", {"train-images-idx3-ubyte.gz": gzip.compress(blank)})
    assert "decompression bomb" in refusal(tmp_path)


# CIFAR ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_cifar, write_cifar_binary])
def test_cifar_pixels_are_exact(tmp_path: Path, write: Any) -> None:
    """Planes of red, green and blue become one image, from either layout."""
    write(tmp_path / "raw")
    expected = levels(2, 3072, seed=1)[1].reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(pixels_of(tmp_path)["data_batch_2/00001.png"], expected)


def test_both_cifar_layouts_are_the_same(tmp_path: Path) -> None:
    """Classes have their names; test_batch is the test set."""
    write_cifar(tmp_path / "one")
    write_cifar_binary(tmp_path / "two")
    labels = labels_of(tmp_path, "one")
    assert labels == labels_of(tmp_path, "two")
    assert labels["test_batch/00001.png"] == ("test", "plane")
    assert labels["data_batch_2/00001.png"] == ("train", "car")


def test_cifar_100_has_fine_labels(tmp_path: Path) -> None:
    """The hundred classes, not the twenty."""
    batch = python2_batch(levels(2, 3072), fine_labels=[0, 1], coarse_labels=[1, 1])
    names = {"fine_label_names": ["apple", "bee"], "coarse_label_names": ["fruit", "insect"]}
    files = {"train": batch, "test": batch, "meta": pickle.dumps(names, protocol=2)}
    write_files(tmp_path / "raw/cifar-100-python", files)
    assert labels_of(tmp_path)["test/00001.png"] == ("test", "bee")


def test_cifar_100_binary(tmp_path: Path) -> None:
    """Two bytes before each image: the second one is the class."""
    row = bytes([19, 1]) + levels(3072).tobytes()
    names = b"apple\nbee\n"
    write_files(
        tmp_path / "raw", {"train.bin": row, "test.bin": row, "fine_label_names.txt": names}
    )
    assert labels_of(tmp_path)["train/00000.png"] == ("train", "bee")


def test_real_pickles_of_arrays_are_read() -> None:
    """What Python 2, and Python 3 for Python 2, wrote of an array is the array."""
    array = levels(3, 4)
    for content in (python2_batch(array), pickle.dumps({"data": array}, protocol=2)):
        np.testing.assert_array_equal(read_plain(content, "x")["data"], array)


class _Evil:
    """What a hostile pickle asks for."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._asked = (function, arguments)

    def __reduce__(self) -> Any:
        return self._asked


@pytest.mark.parametrize(
    "evil",
    [
        _Evil(os.system, "touch pwned"),
        _Evil(subprocess.Popen, ["touch", "pwned"]),
        _Evil(eval, "open('pwned', 'w')"),
        _Evil(getattr, "x", "upper"),
        _Evil(np.load, "x"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_evil_pickle_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: _Evil, protocol: int
) -> None:
    """A batch that asks for code to be run is refused; nothing of it runs."""
    monkeypatch.chdir(tmp_path)
    write_cifar(tmp_path / "raw")
    write_files(tmp_path / "raw", {"data_batch_1": pickle.dumps({"data": evil}, protocol)})
    assert "data_batch_1" in refusal(tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}U\x04data",
        b"",
        b"not a pickle",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a bytearray of 8 EiB
        b"\x80\x02cnumpy\ndtype\n(U\x01OtR.",  # an array of objects
        b"\x80\x02cnumpy\ndtype\n}U\x08__init__Nsb.",  # a changed class
        b"\x80\x02r\xff\xff\xff\x7f.",  # a memo of 2 billion places
        b"\x80\x02]q\0h\0a.",
        b"I" + b"9" * 100_000 + b"\n.",
    ],
)
def test_damaged_pickle(content: bytes) -> None:
    """Whatever lies in a file, it is a sentence that comes of it."""
    with pytest.raises(SourceError, match="batch"):
        read_plain(content, "batch")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("data_batch_1", python2_batch(levels(2, 100), labels=[0, 1]), "rows of 3072 bytes"),
        ("data_batch_1", python2_batch(levels(2, 3072), labels=[0]), "2 images and 1 labels"),
        ("data_batch_1", python2_batch(levels(2, 3072)), "no list 'labels'"),
        ("data_batch_1", python2_batch(levels(2, 3072), labels=[0, 9]), "only 2 classes"),
        ("batches.meta", pickle.dumps({}, protocol=2), "no list 'label_names'"),
    ],
)
def test_odd_cifar_batch(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    """A pickle of plain data that is no batch is told as such."""
    write_cifar(tmp_path / "raw")
    write_files(tmp_path / "raw", {name: content})
    assert told in refusal(tmp_path)


def test_cut_binary_batch(tmp_path: Path) -> None:
    """Half an image at the end is noticed."""
    write_cifar_binary(tmp_path / "raw")
    file = tmp_path / "raw/data_batch_1.bin"
    file.write_bytes(file.read_bytes()[:-5])
    assert "not a multiple of 3073" in refusal(tmp_path)


# torchvision ---------------------------------------------------------------------------------


def test_torchvision_files_are_read_without_torch(tmp_path: Path) -> None:
    """Files that are there already need neither a network nor torch."""
    write_idx(tmp_path / ".imagemill/sources/torchvision/MNIST/MNIST/raw")
    program = (
        "import sys; from pathlib import Path; from imagemill.sources import open_source\n"
        "print(len(list(open_source(Path(sys.argv[1]), 'torchvision:MNIST').images())))\n"
        "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"6\n"


def test_torchvision_cifar_is_where_torchvision_puts_it(tmp_path: Path) -> None:
    """torchvision itself finds its files in the folder that we give it."""
    datasets = pytest.importorskip("torchvision.datasets", reason="torchvision is not installed")
    from imagemill.sources.torchvision_sets import NAMES

    for name in ("CIFAR10", "CIFAR100"):
        assert getattr(datasets, name).base_folder == NAMES[name][0]
    for name in ("MNIST", "FashionMNIST", "KMNIST"):
        write_idx(tmp_path / NAMES[name][0])
        found = getattr(datasets, name)(str(tmp_path), download=False)
        assert Path(found.raw_folder) == tmp_path / NAMES[name][0]


def test_unknown_torchvision_set(tmp_path: Path) -> None:
    """A misspelt name gets the nearest right one."""
    with pytest.raises(UnknownNameError, match="did you mean 'CIFAR10'"):
        open_source(tmp_path, "torchvision:CIFAR-10")


def test_torchvision_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that fails is one sentence."""
    monkeypatch.setattr(
        "imagemill.sources.torchvision_sets._DOWNLOAD", "raise OSError('no route to host')"
    )
    assert kind_of(tmp_path, "torchvision:CIFAR10") == "torchvision"
    told = refusal(tmp_path, "torchvision:CIFAR10")
    assert "could not download CIFAR10 (OSError: no route to host)" in told
