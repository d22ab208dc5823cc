"""What folders mean: `<class>/...`, or `train|val|test/<class>/...`, below a top folder or not."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from imagemill.errors import SourceError
from imagemill.sources.entries import Entry, RawImage, is_image_name

UNLABELLED = "unlabelled"
SPLIT_OF_FOLDER = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_KNOWN_TOPS = frozenset([*SPLIT_OF_FOLDER, UNLABELLED])

Folder = tuple[str, ...]


class Layout(NamedTuple):
    """How the paths of a source are to be read."""

    top: str  # "" or "name/": a single folder around everything
    given_splits: bool


def labelled(
    entries: Callable[[], Iterable[Entry]],
    *,
    where: str,
    uri_of: Callable[[Entry], str],
) -> Iterator[RawImage]:
    """Give every image its class and split by the folders it lies in.

    Args:
        entries: Walks the source; called twice, since the layout is only known at the end.
        where: The source's name for messages.
        uri_of: What the manifest says as the place of an entry.

    Raises:
        SourceError: no images, an empty class folder, folders that contradict one another.
    """
    layout = _understood(entries(), where)
    for entry in entries():
        if entry.kind == "file" and is_image_name(entry.path):
            path = entry.path[len(layout.top) :]
            split, target = _placed(path, layout)
            yield RawImage(path, uri_of(entry), entry.offset, entry.size_bytes, target, None, split)


def _placed(path: str, layout: Layout) -> tuple[str | None, str | None]:
    """Split and class of an image."""
    first, *below = path.split("/")
    if not below:
        return None, None
    if first == UNLABELLED:
        return UNLABELLED, None
    if not layout.given_splits:
        return None, first
    return SPLIT_OF_FOLDER[first], below[0] if len(below) > 1 else None


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
    if not filled:
        raise SourceError(f"{where} holds no images (no file called .jpg, .png or the like)")
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
