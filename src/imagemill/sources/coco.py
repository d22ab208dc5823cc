"""COCO: JSON files of images, annotations and categories, and folders of images.

Millions of annotations are read one at a time and brought together with their images on disk, so
memory does not grow with them; only the categories are held.

Source: T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context"; its format of data.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from imagemill.errors import SourceError
from imagemill.parquet import SortedRuns
from imagemill.records import STATE
from imagemill.sources import boxes
from imagemill.sources.boxes import LabelledBox
from imagemill.sources.entries import Entry, FileStat, RawImage, Volume
from imagemill.sources.json_items import items
from imagemill.sources.layout import SPLIT_OF_FOLDER, split_in_name
from imagemill.sources.trees import Tree, levels, open_tree
from imagemill.sources.voc import boxes_left_out

_ANNOTATIONS = "annotations/"
_BESIDE_IMAGES = "_annotations.coco.json"
_INSTANCES = "instances_"
# Other tasks on the same images.
_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
_WORKPLACE = STATE / "coco"
_RANKS = {"images": 0, "annotations": 1}
_ROW_SCHEMA = pa.schema(
    [pa.field("order", pa.string(), nullable=False), pa.field("text", pa.string(), nullable=False)]
)
_ROWS = 4096
_DETAILS = ("segmentation", "iscrowd", "keypoints", "attributes")


class Coco:
    """Images with boxes; as a class an image has that of its largest box."""

    def __init__(self, root: Path, uri: str) -> None:
        self._root = root
        self._tree = open_tree(root, uri)
        self._num_degenerate = 0

    def images(self) -> Iterator[RawImage]:
        """All images the annotation files list; one without a box has no class."""
        self._num_degenerate = 0
        top, files = annotation_files(self._tree)
        if not files:
            raise SourceError(f"{self._tree.uri} has no annotations/instances_*.json")
        for file in files:
            yield from self._listed(top, file)

    def stats(self) -> Iterator[FileStat]:
        """All files, or the archive."""
        return self._tree.stats()

    def volume(self) -> Volume:
        """All files."""
        return self._tree.volume()

    def remarks(self) -> list[str]:
        """Boxes that were left out."""
        return boxes_left_out(self._num_degenerate)

    def _listed(self, top: str, file: str) -> Iterator[RawImage]:
        where = f"{self._tree.uri}: {file}"
        split = split_in_name(file.rpartition("/")[2]) or split_in_name(file.rpartition("/")[0])
        folder: str | None = None
        with SortedRuns(self._root / _WORKPLACE, _ROW_SCHEMA, by="order") as rows:
            categories = self._sorted(file, rows, where)
            for image, annotations in _together(rows, where):
                name = image.get("file_name")
                if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/"):
                    raise SourceError(f"{where} has an image whose file_name is {name!r}")
                if folder is None:
                    folder = self._folder(top, file, name, where)
                entry = self._tree.find(folder + name)
                if entry is None:
                    raise SourceError(f"{where} lists {name}, but there is no {folder + name}")
                found = self._boxes(annotations, categories, where)
                yield self._image(entry, top, image, found, split)

    def _image(
        self,
        entry: Entry,
        top: str,
        image: dict[str, Any],
        found: list[LabelledBox],
        split: str | None,
    ) -> RawImage:
        whole: dict[str, Any] = {side: image[side] for side in ("width", "height") if side in image}
        return RawImage(
            entry.path.removeprefix(top),
            self._tree.uri_of(entry),
            entry.offset,
            entry.size_bytes,
            target=boxes.largest_label(found),
            group=None,
            split=split,
            annotation=boxes.as_json(found, whole),
            stamp=entry.stamp,
        )

    def _sorted(self, file: str, rows: SortedRuns, where: str) -> dict[Any, str]:
        """Add images and annotations to the rows; the names of the categories by their ids."""
        entry = self._tree.find(file)
        assert entry is not None
        categories: dict[Any, str] = {}
        held: list[tuple[str, str]] = []
        count = 0
        with self._tree.open(entry) as stream:
            for kind, item, text in items(stream, where):
                if kind == "categories":
                    categories[_field(item, "id", kind, where)] = _field(item, "name", kind, where)
                elif kind in _RANKS:
                    name = "id" if kind == "images" else "image_id"
                    number = _field(item, name, kind, where)
                    # An image is followed by its annotations in the order of the file.
                    held.append((f"{number!s:0>20} {_RANKS[kind]} {count:012d}", text))
                    count += 1
                if len(held) >= _ROWS:
                    rows.add_rows(held)
                    held = []
        rows.add_rows(held)
        return categories

    def _folder(self, top: str, file: str, name: str, where: str) -> str:
        """Where the images of a file lie: the first place that has the first of them."""
        called = file.rpartition("/")[2].removesuffix(".json").removeprefix(_INSTANCES)
        split = split_in_name(called)
        splits = [called, *(n for n in (*SPLIT_OF_FOLDER, "valid") if split_in_name(n) == split)]
        places = [f"{base}{n}/" for base in ("", "images/") for n in splits]
        beside = file.rpartition("/")[0] + "/" if "/" in file else ""
        for place in [beside, *(top + place for place in (*places, "images/", ""))]:
            if self._tree.find(place + name) is not None:
                return place
        raise SourceError(
            f"{where} lists {name}, which is in none of {', '.join(places)}images/ and the folder "
            "itself"
        )

    def _boxes(
        self, annotations: list[dict[str, Any]], categories: dict[Any, str], where: str
    ) -> list[LabelledBox]:
        every = [_box(each, categories, where) for each in annotations if "bbox" in each]
        found = [box for box in every if not boxes.is_degenerate(box)]
        self._num_degenerate += len(every) - len(found)
        return found


def annotation_files(tree: Tree) -> tuple[str, list[str]]:
    """The folder around everything, and the annotation files; none: the tree is no COCO set."""
    for folder, names in levels(tree):
        found = []
        if _ANNOTATIONS in names:
            inside = [n for n in tree.names(folder + _ANNOTATIONS) if n.endswith(".json")]
            chosen = [n for n in inside if n.startswith(_INSTANCES)]
            chosen = chosen or [n for n in inside if not n.startswith(_OTHER_TASKS)]
            found += [folder + _ANNOTATIONS + name for name in chosen]
        found += [folder + n for n in names if n.startswith(_INSTANCES) and n.endswith(".json")]
        places = ["", *(n for n in names if split_in_name(n.rstrip("/")) and n.endswith("/"))]
        found += [
            folder + place + _BESIDE_IMAGES
            for place in places
            if tree.has(folder + place + _BESIDE_IMAGES)
        ]
        if found:
            return folder, found
    return "", []


def _together(
    rows: SortedRuns, where: str
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each image with its annotations."""
    image: dict[str, Any] | None = None
    held: list[dict[str, Any]] = []
    current = ""
    for order, text in _texts(rows):
        number, rank, _ = order.rsplit(" ", 2)
        if rank == "0":
            if image is not None and number == current:
                raise SourceError(f"{where} has the image id {number.lstrip('0')} twice")
            if image is not None:
                yield image, held
            image, held, current = json.loads(text), [], number
        elif image is None or number != current:
            raise SourceError(
                f"{where} annotates the image {number.lstrip('0') or '0'}, which it does not list"
            )
        else:
            held.append(json.loads(text))
    if image is not None:
        yield image, held


def _texts(rows: SortedRuns) -> Iterator[tuple[str, str]]:
    for table in rows.merged():
        yield from zip(table["order"].to_pylist(), table["text"].to_pylist(), strict=True)


def _field(item: Any, name: str, kind: str, where: str) -> Any:
    value = item.get(name) if isinstance(item, dict) else None
    if not isinstance(value, int | str):
        raise SourceError(f"{where} has one among its {kind} without {name!r}")
    return value


def _box(each: dict[str, Any], categories: dict[Any, str], where: str) -> LabelledBox:
    category = _field(each, "category_id", "annotations", where)
    if category not in categories:
        raise SourceError(f"{where} has the category {category}, which it does not name")
    try:
        x, y, width, height = map(float, each["bbox"])
    except (TypeError, ValueError):
        told = f"{where} has the box {each['bbox']}, expected [x, y, width, height]"
        raise SourceError(told) from None
    details = {name: each[name] for name in _DETAILS if each.get(name) not in (None, [])}
    return LabelledBox(categories[category], (x, y, x + width, y + height), details)
