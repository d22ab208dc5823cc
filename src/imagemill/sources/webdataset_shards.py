"""Existing WebDataset shards, read in place: tars of `<key>.jpg` beside `<key>.cls` or the like.

Own code instead of the `webdataset` library: that one says no offsets and imports torch
(docs/decisions/0008-foreign-shards-by-our-own-reader.md). What a sample is, is as it says.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from braceexpand import braceexpand

from imagemill.errors import SourceError
from imagemill.sources import archive, files
from imagemill.sources.entries import IMAGE_EXTENSIONS, Entry, FileStat, RawImage, Volume
from imagemill.sources.files import raw_file
from imagemill.sources.idx import class_names, named
from imagemill.sources.layout import SPLIT_OF_FOLDER, UNLABELLED, split_in_name
from imagemill.sources.trees import Tree, content_of, levels, open_tree

SUFFIX = ".tar"
_MANIFEST = "manifest.json"  # beside shards of our own: names the classes
_MAX_MANIFEST_BYTES = 1 << 28
_FIRST_MEMBERS = 32
# As webdataset's base_plus_ext: the key ends at the first dot of the name.
_SAMPLE = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<extension>[^/]*)")
_LABEL_TEXTS = ("cls", "json", "txt")
_JSON_LABELS = ("label", "cls", "class", "class_name", "target")
_MAX_NAME_CHARACTERS = 200
_SPLIT_FOLDERS = (*(f"{name}/" for name in SPLIT_OF_FOLDER), f"{UNLABELLED}/")


class _Shard(NamedTuple):
    uri: str
    name: str  # relative to the source, without .tar
    split: str | None


class _Sample(NamedTuple):
    """Members with one key, one after the other in a shard."""

    key: str
    images: list[tuple[str, Entry]]  # (extension, where)
    texts: dict[str, bytes]


class WebDatasetShards:
    """A folder of shards, one shard, or shards in brace notation."""

    def __init__(self, root: Path, uri: str) -> None:
        self._root = root
        self._uri = uri
        self._num_further = 0

    def images(self) -> Iterator[RawImage]:
        """One image of each sample."""
        self._num_further = 0
        shards = list(self._shards())
        names = self._class_names()
        repeated = self._begin_alike(shards)
        for shard in shards:
            prefix = f"{shard.name}/" if repeated else ""
            for sample in _samples(archive.described(self._root, shard.uri)):
                if sample.images:
                    self._num_further += len(sample.images) - 1
                    yield _image(sample, shard, prefix, names)

    def stats(self) -> Iterator[FileStat]:
        """The shards."""
        for shard in self._shards():
            yield raw_file(self._root, shard.uri).stat(shard.name + SUFFIX)

    def volume(self) -> Volume:
        """From the first members of each shard."""
        volumes = [archive.volume(self._root, shard.uri) for shard in self._shards()]
        return Volume(*(sum(column) for column in zip(*volumes, strict=True)))

    def remarks(self) -> list[str]:
        """Images that a sample had beside its first."""
        if not self._num_further:
            return []
        return [f"{self._num_further:,} further images of samples were left out"]

    def _shards(self) -> Iterator[_Shard]:
        if "{" in self._uri:
            yield from self._expanded()
        elif archive.is_archive_name(self._uri):
            yield _Shard(self._uri, _stem(self._uri), split_in_name(_stem(self._uri)))
        else:
            yield from self._in_folder()

    def _expanded(self) -> Iterator[_Shard]:
        try:
            uris = list(braceexpand(self._uri))
        except ValueError:
            raise SourceError(f"{self._uri} has a brace too many or too few") from None
        missing = [uri for uri in uris if not files.exists(self._root, uri)]
        if missing:
            raise SourceError(
                f"{self._uri} means {len(uris)} shards, but {missing[0]} does not exist"
                + (f" (nor do {len(missing) - 1} others)" if len(missing) > 1 else "")
            )
        for uri in uris:
            yield _Shard(uri, _stem(uri), split_in_name(_stem(uri)))

    def _in_folder(self) -> Iterator[_Shard]:
        tree = open_tree(self._root, self._uri)
        base = self._uri.rstrip("/")
        for path in shard_names(tree):
            *folders, name = path[: -len(SUFFIX)].split("/")
            by_folder = [
                SPLIT_OF_FOLDER.get(folder, UNLABELLED)
                for folder in folders
                if f"{folder}/" in _SPLIT_FOLDERS
            ]
            split = by_folder[-1] if by_folder else split_in_name(name)
            yield _Shard(f"{base}/{path}", path[: -len(SUFFIX)], split)

    def _class_names(self) -> list[str] | None:
        if "{" in self._uri or archive.is_archive_name(self._uri):
            return None
        tree = open_tree(self._root, self._uri)
        for folder, _ in levels(tree):
            found = class_names(tree, folder) or _names_in_manifest(tree, folder)
            if found:
                return found
        return None

    def _begin_alike(self, shards: list[_Shard]) -> bool:
        """Whether keys are only unique inside a shard: then two begin with the same one."""
        firsts: Counter[str] = Counter()
        for shard in shards:
            for name in archive.first_names(self._root, shard.uri, _FIRST_MEMBERS):
                if match := _SAMPLE.fullmatch(name):
                    firsts[match["key"]] += 1
                    break
        return any(count > 1 for count in firsts.values())


def shard_names(tree: Tree) -> list[str]:
    """Paths of the shards of a tree: right in it, or in folders named as splits."""
    for folder, names in levels(tree):
        paths = [folder + name for name in names if name.endswith(SUFFIX)]
        for below in (name for name in names if name in _SPLIT_FOLDERS):
            inside = tree.names(folder + below)
            paths += [folder + below + name for name in inside if name.endswith(SUFFIX)]
        if paths:
            return paths
    return []


def is_shard(root: Path, uri: str) -> bool:
    """Whether a tar begins with samples: an image and its label have one key.

    Raises:
        SourceError: it is no tar.
    """
    kinds: dict[str, set[str]] = {}
    for name in archive.first_names(root, uri, _FIRST_MEMBERS):
        if match := _SAMPLE.fullmatch(name):
            extension = match["extension"].lower()
            kind = "image" if extension in IMAGE_EXTENSIONS else extension
            kinds.setdefault(match["key"], set()).add(kind)
    return any("image" in found and found & set(_LABEL_TEXTS) for found in kinds.values())


def _stem(uri: str) -> str:
    return uri.partition("?")[0].rpartition("/")[2].partition(".")[0]


def _names_in_manifest(tree: Tree, folder: str) -> list[str] | None:
    content = content_of(tree, folder + _MANIFEST, max_bytes=_MAX_MANIFEST_BYTES)
    try:
        found = json.loads(content or b"{}").get("classes")
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, list) and all(isinstance(n, str) for n in found) else None


# Samples -------------------------------------------------------------------------------------


def _samples(members: Iterator[archive.Described]) -> Iterator[_Sample]:
    sample = _Sample("", [], {})
    for entry, text in members:
        match = _SAMPLE.fullmatch(entry.path)
        if match is None or entry.kind != "file" or entry.path.startswith("__"):
            continue
        key, extension = match.groups()
        if key != sample.key:
            yield sample
            sample = _Sample(key, [], {})
        extension = extension.lower()
        if extension in IMAGE_EXTENSIONS:
            sample.images.append((match["extension"], entry))
        elif text is not None:
            sample.texts[extension] = text
    yield sample


def _image(sample: _Sample, shard: _Shard, prefix: str, names: list[str] | None) -> RawImage:
    where = f"{shard.uri}: {sample.key}"
    extension, entry = sample.images[0]
    document = _document(sample.texts.get("json"), where)
    label = _label(sample.texts, document, where)
    if isinstance(label, int):
        label = named(names, label, where=where)
    return RawImage(
        f"{prefix}{sample.key}.{extension}",
        shard.uri,
        entry.offset,
        entry.size_bytes,
        target=label,
        group=None,
        split=shard.split,
        annotation=None if document is None else json.dumps(document, ensure_ascii=False),
    )


def _document(text: bytes | None, where: str) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        document = json.loads(text)
    except ValueError as error:
        raise SourceError(f"{where}.json is no JSON: {error}") from None
    return document if isinstance(document, dict) else None


def _label(
    texts: dict[str, bytes], document: dict[str, Any] | None, where: str
) -> str | int | None:
    """From .cls, else from a field of .json, else from .txt if there is neither."""
    if "cls" in texts:
        return _from_text(texts["cls"], f"{where}.cls")
    for field in _JSON_LABELS:
        value = (document or {}).get(field)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return value if isinstance(value, int) else value or None
    # Beside a .json a .txt is a caption.
    if "txt" in texts and document is None:
        return _from_text(texts["txt"], f"{where}.txt")
    return None


def _from_text(text: bytes, where: str) -> str | int | None:
    try:
        label = text.decode().strip()
    except UnicodeDecodeError:
        raise SourceError(f"{where} is no UTF-8 text; expected a class id or name") from None
    if "\n" in label or len(label) > _MAX_NAME_CHARACTERS:
        raise SourceError(f"{where} holds a text of several lines; expected a class id or name")
    # 007 is a name.
    if re.fullmatch(r"0|[1-9]\d{0,8}", label):
        return int(label)
    return label or None
