"""Small sources of every kind, as other tools lay them out."""

import gzip
import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from raw_images import picture, pictures, write_files, write_tar

FILES = pictures({"cat": 3, "dog": 2})


def levels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Any pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# MNIST's format ------------------------------------------------------------------------------


def idx_images(levels_NHW: NDArray[np.uint8]) -> bytes:
    """An IDX file of images."""
    return struct.pack(">4I", 0x803, *levels_NHW.shape) + levels_NHW.tobytes()


def idx_labels(labels: list[int]) -> bytes:
    """An IDX file of labels."""
    return struct.pack(">2I", 0x801, len(labels)) + bytes(labels)


def write_idx(folder: Path, *, packed: bool = False) -> None:
    """Four train and two test images of 6x5 pixels."""
    files = {
        "train-images-idx3-ubyte": idx_images(levels(4, 6, 5)),
        "train-labels-idx1-ubyte": idx_labels([3, 1, 3, 0]),
        "t10k-images-idx3-ubyte": idx_images(levels(2, 6, 5, seed=1)),
        "t10k-labels-idx1-ubyte": idx_labels([1, 0]),
    }
    if packed:
        files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    write_files(folder, files)


# CIFAR ---------------------------------------------------------------------------------------


def python2_batch(levels_NP: NDArray[np.uint8], **lists: list[Any]) -> bytes:
    """A batch as Python 2 pickled it: byte strings, and numpy's old names."""
    array = b"".join(
        [
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\x01btR",
            b"(K\x01(" + b"".join(b"M" + struct.pack("<H", n) for n in levels_NP.shape) + b"t",
            b"cnumpy\ndtype\n(U\x02u1K\0K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff",
            b"K\0tb\x89T" + struct.pack("<i", levels_NP.size) + levels_NP.tobytes() + b"tb",
        ]
    )
    parts = [b"\x80\x02}(U\x04data" + array]
    for name, values in lists.items():
        items = b"".join(
            b"K" + bytes([v]) if isinstance(v, int) else b"U" + bytes([len(v)]) + v.encode()
            for v in values
        )
        parts.append(b"U" + bytes([len(name)]) + name.encode() + b"](" + items + b"e")
    return b"".join(parts) + b"u."


def write_cifar(folder: Path) -> None:
    """Two train batches and a test batch of two images each, as pickles."""
    batches = ["data_batch_1", "data_batch_2", "test_batch"]
    files = {
        name: python2_batch(levels(2, 3072, seed=seed), labels=[1, seed % 2])
        for seed, name in enumerate(batches)
    }
    names = {b"label_names": [b"plane", b"car"], b"num_vis": 3072}
    write_files(folder, files | {"batches.meta": pickle.dumps(names, protocol=2)})


def write_cifar_binary(folder: Path) -> None:
    """The same images in the binary layout."""
    files = {"batches.meta.txt": b"plane\ncar\n\n"}
    for seed, name in enumerate(["data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"]):
        rows = zip([1, seed % 2], levels(2, 3072, seed=seed), strict=True)
        files[name] = b"".join(bytes([label]) + row.tobytes() for label, row in rows)
    write_files(folder, files)


# Tables and shards ---------------------------------------------------------------------------


def image_table(images: list[bytes], labels: list[Any], *, names: list[str] | None) -> pa.Table:
    """A table as the `datasets` library writes it."""
    table = pa.table(
        {
            "image": pa.array([{"bytes": raw, "path": None} for raw in images]),
            "label": pa.array(labels),
        }
    )
    label = {"_type": "ClassLabel", "names": names} if names else {"_type": "Value"}
    features = {"image": {"_type": "Image"}, "label": label}
    noted = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": noted})


def write_parquet(folder: Path) -> None:
    """Four train and two test images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [picture(number) for number in range(6)]
    for name, place in {"train": slice(0, 4), "test": slice(4, 6)}.items():
        table = image_table(images[place], [0, 1, 1, 0][: len(images[place])], names=["cat", "dog"])
        pq.write_table(table, folder / f"{name}-00000-of-00001.parquet")


def shard_members(numbers: range, **texts: Callable[[int], str]) -> dict[str, bytes]:
    """Members of a shard: an image a number, and for each extension what the function says."""
    members = {}
    for number in numbers:
        members[f"{number:06d}.png"] = picture(number)
        for extension, text in texts.items():
            members[f"{number:06d}.{extension}"] = text(number).encode()
    return members


def write_shards(folder: Path) -> None:
    """Two train shards and a test shard of three samples each."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(["train-000000", "train-000001", "test-000000"]):
        numbers = range(3 * place, 3 * place + 3)
        write_tar(folder / f"{name}.tar", shard_members(numbers, cls=lambda n: str(n % 2)))


# Boxes ---------------------------------------------------------------------------------------


def voc_xml(objects: list[tuple[str, tuple[int, int, int, int]]]) -> bytes:
    """An annotation of an image of 40x30 pixels."""
    tags = ("xmin", "ymin", "xmax", "ymax")
    text = "<annotation><size><width>40</width><height>30</height></size>"
    for name, corners in objects:
        box = "".join(f"<{tag}>{at}</{tag}>" for tag, at in zip(tags, corners, strict=True))
        text += (
            f"<object><name>{name}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
        )
    return (text + "</annotation>").encode()


def voc_files() -> dict[str, bytes]:
    """Three images with boxes and one without."""
    boxes = {
        "a": [("cat", (1, 1, 9, 9)), ("dog", (2, 2, 5, 5))],
        "b": [("cat", (1, 1, 3, 3)), ("dog", (0, 0, 20, 20))],
        "c": [("dog", (4, 4, 8, 8)), ("cat", (7, 7, 7, 20))],
        "d": [],
    }
    files = {f"JPEGImages/{name}.png": picture(ord(name)) for name in boxes}
    files |= {f"Annotations/{name}.xml": voc_xml(found) for name, found in boxes.items()}
    sets = {"train": "a\nd\n", "val": "b\n", "test": "c\n", "trainval": "a\nb\nd\n"}
    return files | {f"ImageSets/Main/{n}.txt": text.encode() for n, text in sets.items()}


def coco_document() -> dict[str, Any]:
    """Two images with boxes and one without."""
    return {
        "info": {"year": 2017},
        "images": [
            {"id": 9, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 4, "file_name": "b.png", "width": 40, "height": 30},
            {"id": 5, "file_name": "c.png", "width": 40, "height": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 1, "bbox": [0, 0, 5.5, 4]},
            {"id": 3, "image_id": 9, "category_id": 2, "bbox": [3, 3, 9, 0]},
            {
                "id": 4,
                "image_id": 9,
                "category_id": 2,
                "bbox": [1, 1, 2, 2],
                "segmentation": [[1, 1, 3, 1, 3, 3]],
            },
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def coco_files() -> dict[str, bytes]:
    """The document with its images, and a second set of one image."""
    other = coco_document()
    other["images"], other["annotations"] = other["images"][:1], other["annotations"][1:2]
    files = {f"train2017/{name}.png": picture(ord(name)) for name in "abc"}
    files |= {"val2017/a.png": picture(99)}
    files |= {"annotations/instances_train2017.json": json.dumps(coco_document()).encode()}
    return files | {"annotations/instances_val2017.json": json.dumps(other).encode()}


# All kinds -----------------------------------------------------------------------------------


def _write_list(root: Path) -> str:
    write_files(root / "raw", FILES)
    rows = [f"{path},{path.split('/')[0]}" for path in FILES]
    (root / "raw/list.csv").write_text("\n".join(["path,label", *rows]))
    return "raw/list.csv"


def _write_folder(root: Path) -> str:
    write_files(root / "raw", FILES)
    return "raw"


def _write_archive(root: Path) -> str:
    write_tar(root / "raw.tar.gz", FILES, mode="w:gz")
    return "raw.tar.gz"


def _in_folder(write: Callable[[Path], None]) -> Callable[[Path], str]:
    def written(root: Path) -> str:
        write(root / "raw")
        return "raw"

    return written


def _write_torchvision(root: Path) -> str:
    write_cifar(root / ".imagemill/sources/torchvision/CIFAR10/cifar-10-batches-py")
    return "torchvision:CIFAR10"


# Name in SOURCES -> writes such a source below a root and returns what `ingest.source` says.
MAKERS: Mapping[str, Callable[[Path], str]] = {
    "archive": _write_archive,
    "cifar": _in_folder(write_cifar),
    "coco": _in_folder(lambda folder: write_files(folder, coco_files())),
    "digits": lambda root: "digits",
    "folder": _write_folder,
    "idx": _in_folder(write_idx),
    "manifest_file": _write_list,
    "parquet": _in_folder(write_parquet),
    "torchvision": _write_torchvision,
    "voc": _in_folder(lambda folder: write_files(folder, voc_files())),
    "webdataset": _in_folder(write_shards),
}


def add_member(path: Path, name: str, content: bytes) -> None:
    """Append a member to a tar."""
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
