"""Where raw images come from: one file a kind of source.

source = open_source(root, "photos.tar.gz")
for image in source.images(): ...

with RawReader(root) as reader:
    content = reader.read(image.uri, image.offset, image.size_bytes)
"""

from collections.abc import Callable
from pathlib import Path

from imagemill.errors import SourceError, UnknownNameError
from imagemill.sources import (
    archive,
    cifar,
    coco,
    digits,
    files,
    idx,
    manifest_file,
    parquet_images,
    remote,
    torchvision_sets,
    voc,
    webdataset_shards,
)
from imagemill.sources.cifar import Cifar
from imagemill.sources.coco import Coco
from imagemill.sources.digits import Digits
from imagemill.sources.entries import RawImage, Source, Volume, key_and_extension
from imagemill.sources.folder import Folder
from imagemill.sources.idx import Idx
from imagemill.sources.manifest_file import ManifestFile
from imagemill.sources.parquet_images import ParquetImages
from imagemill.sources.raw import Frame, RawReader
from imagemill.sources.torchvision_sets import TorchvisionSet
from imagemill.sources.trees import Tree, levels, open_tree
from imagemill.sources.voc import Voc
from imagemill.sources.webdataset_shards import WebDatasetShards

__all__ = [
    "BUILT_IN",
    "SOURCES",
    "Frame",
    "RawImage",
    "RawReader",
    "Source",
    "Volume",
    "key_and_extension",
    "kind_of",
    "open_source",
]

SOURCES: dict[str, Callable[[Path, str], Source]] = {
    "archive": Folder,
    "cifar": Cifar,
    "coco": Coco,
    "digits": Digits,
    "folder": Folder,
    "idx": Idx,
    "manifest_file": ManifestFile,
    "parquet": ParquetImages,
    "torchvision": TorchvisionSet,
    "voc": Voc,
    "webdataset": WebDatasetShards,
}
BUILT_IN = (digits.NAME,)


def open_source(root: Path, text: str) -> Source:
    """Open what `ingest.source` names.

    Args:
        root: The project's root, where relative paths start.
        text: A built-in name, the path or address of a folder, an archive, shards or a table, or
            `torchvision:` and a name.

    Raises:
        SourceError: there is nothing at that path, or nothing we can read.
        UnknownNameError: a bare word that is neither built in nor a path, or an unknown scheme.
    """
    return SOURCES[kind_of(root, text)](root, text)


def kind_of(root: Path, text: str) -> str:
    """The name in `SOURCES` of what `ingest.source` names.

    Raises:
        SourceError: there is nothing at that path, or nothing we can read.
        UnknownNameError: a bare word that is neither built in nor a path, or an unknown scheme.
    """
    if text in BUILT_IN:
        return text
    if text.startswith(torchvision_sets.PREFIX):
        return "torchvision"
    if "{" in text and not files.exists(root, text):
        return "webdataset"
    if not _is_folder(root, text):
        return _kind_of_file(root, text)
    tree = open_tree(root, text)
    return _kind_in(tree) or _kind_of_tables(root, tree) or "folder"


def _is_folder(root: Path, text: str) -> bool:
    if not remote.is_remote(text):
        path = root / text
        if path.exists():
            return path.is_dir()
        if "/" not in text and "." not in text:
            raise UnknownNameError("built-in source, file or folder", text, BUILT_IN)
        raise SourceError(f"source {text} does not exist (looked at {path.resolve()})")
    if text.endswith("/"):
        return True
    found = remote.status(text)
    if found is None:
        raise SourceError(f"source {text} does not exist")
    is_named = _is_table(text) or archive.is_archive_name(text)
    # A web server answers for its pages of links, too.
    return found.kind == "folder" or (text.startswith("http") and not is_named)


def _is_table(text: str) -> bool:
    return text.partition("?")[0].lower().endswith(manifest_file.SUFFIXES)


def _kind_of_file(root: Path, text: str) -> str:
    if archive.is_archive_name(text):
        if webdataset_shards.is_shard(root, text):
            return "webdataset"
        return _kind_in(open_tree(root, text)) or "archive"
    if _is_table(text):
        has_images = text.lower().endswith(parquet_images.SUFFIX) and parquet_images.has_images(
            root, text
        )
        return "parquet" if has_images else "manifest_file"
    expected = ", ".join((*archive.SUFFIXES, *manifest_file.SUFFIXES))
    raise SourceError(f"source {text} is no folder and no {expected} file")


def _kind_in(tree: Tree) -> str | None:
    """What the names in a tree tell."""
    for _, names in levels(tree):
        if voc.is_voc(names):
            return "voc"
        if idx.is_idx(names):
            return "idx"
        if cifar.is_cifar(names):
            return "cifar"
    return "coco" if coco.annotation_files(tree)[1] else None


def _kind_of_tables(root: Path, tree: Tree) -> str | None:
    """Folders of files that each hold many images."""
    base = tree.uri.rstrip("/")
    shards = webdataset_shards.shard_names(tree)
    if shards and webdataset_shards.is_shard(root, f"{base}/{shards[0]}"):
        return "webdataset"
    folder, tables = parquet_images.parquet_names(tree)
    if tables and parquet_images.has_images(root, f"{base}/{folder}{tables[0]}"):
        return "parquet"
    return None
