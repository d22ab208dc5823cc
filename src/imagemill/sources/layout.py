"""What folders mean: `<class>/...`, or `train|val|test/<class>/...`, below a top folder or not."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from imagemill.errors import SourceError
from imagemill.sources.entries import Entry, RawImage, is_image_name
from imagemill.sources.trees import Tree

UNLABELLED = "unlabelled"
SPLIT_OF_FOLDER = {"train": "train", "val": "val", "validation": "val", "test": "test"}
# Splits in the names of files: train2017, imagenet-val-000003, dev.
_SPLIT_IN_NAME = re.compile(
    r"(?:^|[^a-z])(?:(?P<train>train|training)|(?P<val>val|valid|validation|dev)|(?P<test>test))"
    r"(?:$|[^a-z])"
)
_KNOWN_TOPS = frozenset([*SPLIT_OF_FOLDER, UNLABELLED])

Folder = tuple[str, ...]


class Layout(NamedTuple):
    """How the paths of a source are to be read."""

    top: str  # "" or "name/": a single folder around everything
    given_splits: bool


def split_in_name(name: str) -> str | None:
    """The split that a file's or folder's name speaks of, if it does."""
    found = _SPLIT_IN_NAME.search(name.lower())
    return found.lastgroup if found else None


def labelled(tree: Tree) -> Iterator[RawImage]:
    """Give every image its class and split by the folders it lies in.

    Args:
        tree: The source; walked twice, since the layout is only known at the end.

    Raises:
        SourceError: no images, an empty class folder, folders that contradict one another.
    """
    layout = _understood(tree.outline(), tree.uri)
    last, split, target = "", None, None
    skipped, uri_of = len(layout.top), tree.uri_of
    for entry in tree.entries():
        path, kind, offset, size_bytes, stamp = entry
        if kind != "file" or not is_image_name(path):
            continue
        path = path[skipped:]
        folder = path.rpartition("/")[0]
        if folder != last:
            last, (split, target) = folder, _placed(folder, layout)
        uri = uri_of(entry)
        yield RawImage(path, uri, offset, size_bytes, target, None, split, None, stamp)


def _placed(folder: str, layout: Layout) -> tuple[str | None, str | None]:
    """Split and class of the images in a folder."""
    first, _, below = folder.partition("/")
    if not folder:
        return None, None
    if first == UNLABELLED:
        return UNLABELLED, None
    if not layout.given_splits:
        return None, first
    return SPLIT_OF_FOLDER[first], below.partition("/")[0] or None


def _understood(entries: Iterable[Entry], where: str) -> Layout:
    """One pass over all names; only folders are remembered, and only three levels of them."""
    all_folders: set[Folder] = set()
    filled: set[Folder] = set()
    for entry in entries:
        parts = entry.path.split("/")
        if entry.kind == "folder":
            all_folders.add(tuple(parts[:3]))
        elif is_image_name(entry.path):
            _refuse_other(entry, where)
            filled.add(tuple(parts[:-1][:3]))
        elif entry.path.endswith(".json") and parts[-1].startswith("instances_"):
            raise SourceError(
                f"{where} holds COCO annotations ({entry.path}) behind its images; unpack it, and "
                "name the folder in which `annotations` lies"
            )
    if not filled:
        raise SourceError(f"{where} holds no images (no file called .jpg, .png or the like)")
    if any("JPEGImages" in folder for folder in filled):
        raise SourceError(f"{where} holds several Pascal VOC sets; name the folder of one of them")
    top = _single_top(filled)
    depth = 1 if top else 0
    all_folders = {folder[depth:] for folder in all_folders if len(folder) > depth}
    filled = {folder[depth:] for folder in filled}
    given = any(folder[0] in SPLIT_OF_FOLDER and len(folder) > 1 for folder in filled if folder)
    if given:
        _refuse_strangers({folder[0] for folder in filled if folder}, where)
    _refuse_empty(all_folders, filled, 2 if given else 1, where)
    return Layout(f"{top}/" if top else "", given)


def _single_top(filled: set[Folder]) -> str | None:
    """The folder around everything, if there is one."""
    firsts = {folder[0] if folder else "" for folder in filled}
    if len(firsts) > 1 or min(map(len, filled)) < 2 or firsts & _KNOWN_TOPS:
        return None
    return firsts.pop()


def _refuse_other(entry: Entry, where: str) -> None:
    if entry.kind == "other":
        raise SourceError(
            f"{where}: {entry.path!r} is a link or a device, not a file; put the image itself there"
        )


def _refuse_strangers(tops: set[str], where: str) -> None:
    strangers = sorted(tops - _KNOWN_TOPS)
    if strangers:
        raise SourceError(
            f"{where}: folder {strangers[0]!r} lies beside given splits; expected only train, val "
            "(or validation), test and unlabelled there"
        )
    if "train" not in tops:
        raise SourceError(f"{where}: has {', '.join(sorted(tops))} but no train folder")


def _refuse_empty(
    all_folders: set[Folder], filled: set[Folder], class_level: int, where: str
) -> None:
    """Folders down to the class level must hold images, at any depth."""
    prefixes = {folder[:depth] for folder in filled for depth in range(1, class_level + 1)}
    expected = {folder[:class_level] for folder in all_folders if folder[0] != UNLABELLED}
    empty = sorted("/".join(folder) for folder in expected - prefixes)
    if empty:
        raise SourceError(
            f"{where}: {_listed(empty)} without a single image; add images or remove the folder"
        )


def _listed(folders: list[str]) -> str:
    shown = ", ".join(folders[:5]) + (f" and {len(folders) - 5} more" if len(folders) > 5 else "")
    return f"class folder{'s' if len(folders) > 1 else ''} {shown}"
