"""Where raw images come from: one file a kind of source.

source = open_source(root, "photos.tar.gz")
for image in source.images(): ...

with RawReader(root) as reader:
    content = reader.read(image.uri, image.offset, image.size_bytes)
"""

from collections.abc import Callable
from pathlib import Path

from imagemill.errors import SourceError, UnknownNameError
from imagemill.sources import archive, digits, manifest_file
from imagemill.sources.archive import Archive
from imagemill.sources.digits import Digits
from imagemill.sources.entries import RawImage, Source, key_and_extension
from imagemill.sources.folder import Folder
from imagemill.sources.manifest_file import ManifestFile
from imagemill.sources.raw import RawReader

__all__ = [
    "BUILT_IN",
    "SOURCES",
    "RawImage",
    "RawReader",
    "Source",
    "key_and_extension",
    "kind_of",
    "open_source",
]

SOURCES: dict[str, Callable[[Path, str], Source]] = {
    "archive": Archive,
    "digits": Digits,
    "folder": Folder,
    "manifest_file": ManifestFile,
}
BUILT_IN = (digits.NAME,)


def open_source(root: Path, text: str) -> Source:
    """Open what `ingest.source` names.

    Args:
        root: The project's root, where relative paths start.
        text: A built-in name, or the path of a folder, an archive or a manifest file.

    Raises:
        SourceError: there is nothing at that path, or nothing we can read.
        UnknownNameError: a bare word that is neither built in nor a path, or an unknown scheme.
    """
    return SOURCES[kind_of(root, text)](root, text)


def kind_of(root: Path, text: str) -> str:
    """The name in `SOURCES` of what `ingest.source` names.

    Raises:
        SourceError: there is nothing at that path, or nothing we can read.
        UnknownNameError: a bare word that is neither built in nor a path.
    """
    if text in BUILT_IN:
        return text
    if "://" in text:
        raise UnknownNameError("kind of source", text.partition("://")[0], SOURCES)
    path = root / text
    if path.is_dir():
        return "folder"
    if not path.exists():
        if "/" not in text and "." not in text:
            raise UnknownNameError("built-in source, file or folder", text, BUILT_IN)
        raise SourceError(f"source {text} does not exist (looked at {path.resolve()})")
    if archive.is_archive_name(text):
        return "archive"
    if text.lower().endswith(manifest_file.SUFFIXES):
        return "manifest_file"
    expected = ", ".join((*archive.SUFFIXES, *manifest_file.SUFFIXES))
    raise SourceError(f"source {text} is no folder and no {expected} file")
