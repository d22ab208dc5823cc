"""Pascal VOC: `JPEGImages`, `Annotations` with one XML an image, and `ImageSets` for the splits.

Source: M. Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", development kit.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from imagemill.errors import SourceError
from imagemill.sources import boxes
from imagemill.sources.boxes import LabelledBox
from imagemill.sources.entries import Entry, FileStat, RawImage, Volume, is_image_name
from imagemill.sources.trees import Tree, content_of, levels, open_tree

_IMAGES, _ANNOTATIONS, _SETS = "JPEGImages/", "Annotations/", "ImageSets/Main/"
_SPLITS = ("train", "val", "test")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = ("difficult", "truncated", "occluded")
_MAX_XML_BYTES = 1 << 24
_MAX_SET_BYTES = 1 << 28


class Voc:
    """Images with boxes; as a class an image has that of its largest box."""

    def __init__(self, root: Path, uri: str) -> None:
        self._tree = open_tree(root, uri)
        self._num_degenerate = 0

    def images(self) -> Iterator[RawImage]:
        """All of `JPEGImages`; one without a box has no class."""
        self._num_degenerate = 0
        folder = _folder(self._tree)
        splits = _splits(self._tree, folder)
        for entry in self._tree.entries():
            path = entry.path.removeprefix(folder)
            if not path.startswith(_IMAGES) or not is_image_name(path):
                continue
            if entry.kind != "file":
                raise SourceError(f"{self._tree.uri}: {entry.path} is a link, not a file")
            name = path[len(_IMAGES) :].rpartition(".")[0]
            yield self._image(entry, path, folder, name, splits.pop(name, None))
        if splits:
            raise SourceError(
                f"{self._tree.uri}: {folder}{_SETS} lists {len(splits)} images that are not in "
                f"{_IMAGES.rstrip('/')}, for example {next(iter(splits))}"
            )

    def stats(self) -> Iterator[FileStat]:
        """All files, or the archive."""
        return self._tree.stats()

    def volume(self) -> Volume:
        """All files."""
        return self._tree.volume()

    def remarks(self) -> list[str]:
        """Boxes that were left out."""
        return boxes_left_out(self._num_degenerate)

    def _image(
        self, entry: Entry, path: str, folder: str, name: str, split: str | None
    ) -> RawImage:
        found: list[LabelledBox] = []
        annotation = None
        document = f"{folder}{_ANNOTATIONS}{name}.xml"
        content = content_of(self._tree, document, max_bytes=_MAX_XML_BYTES)
        if content is not None:
            tree = parse_xml(content, f"{self._tree.uri}: {document}")
            every = [_box(each, document) for each in tree.iterfind("object")]
            found = [box for box in every if not boxes.is_degenerate(box)]
            self._num_degenerate += len(every) - len(found)
            annotation = boxes.as_json(found, _whole(tree))
        uri = self._tree.uri_of(entry)
        target = boxes.largest_label(found)
        return RawImage(
            path, uri, entry.offset, entry.size_bytes, target, None, split, annotation, entry.stamp
        )


def boxes_left_out(count: int) -> list[str]:
    """The remark about boxes without an area."""
    return [f"{count:,} boxes without an area were left out"] if count else []


def is_voc(names: list[str]) -> bool:
    """Whether folders of these names are those of Pascal VOC."""
    return {_IMAGES, _ANNOTATIONS} <= set(names)


def parse_xml(content: bytes, where: str) -> Element:
    """Read XML that brings no entities of its own: those can grow without bounds.

    Raises:
        SourceError: damaged, or with a document type that declares entities.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: Any) -> None:
        raise SourceError(f"{where} declares entities (an XML bomb does); it was not read")

    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, AssertionError) as error:
        raise SourceError(f"{where} is damaged: {error}") from None


def _folder(tree: Tree) -> str:
    for folder, names in levels(tree):
        if is_voc(names):
            return folder
    raise SourceError(f"{tree.uri} has no folders JPEGImages and Annotations")


def _splits(tree: Tree, folder: str) -> dict[str, str]:
    """Name -> split, as the lists in ImageSets/Main say."""
    found: dict[str, str] = {}
    for split in _SPLITS:
        path = f"{folder}{_SETS}{split}.txt"
        content = content_of(tree, path, max_bytes=_MAX_SET_BYTES)
        for line in (content or b"").decode("utf-8", "replace").splitlines():
            name = line.split()[0] if line.strip() else ""
            if name and found.setdefault(name, split) != split:
                raise SourceError(
                    f"{tree.uri}: {name} is in {_SETS}{found[name]}.txt and in {split}.txt"
                )
    return found


def _box(each: Element, where: str) -> LabelledBox:
    label = (each.findtext("name") or "").strip()
    if not label:
        raise SourceError(f"{where} has an object without a name")
    try:
        x1, y1, x2, y2 = (float(each.findtext(f"bndbox/{corner}", "")) for corner in _CORNERS)
    except ValueError:
        raise SourceError(
            f"{where}: {label!r} has no box of four numbers ({', '.join(_CORNERS)})"
        ) from None
    flags = {flag: each.findtext(flag) for flag in _FLAGS}
    details = {flag: text.strip() == "1" for flag, text in flags.items() if text is not None}
    return LabelledBox(label, (x1, y1, x2, y2), details)


def _whole(tree: Element) -> dict[str, Any]:
    sides = {side: tree.findtext(f"size/{side}") for side in ("width", "height")}
    return {side: int(text) for side, text in sides.items() if text and text.strip().isdigit()}
