"""Find what a name stands for, and follow it in both directions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from imagemill import records
from imagemill.errors import SourceError, UnknownNameError
from imagemill.records import MODELS, ModelCard, ShardManifest, sha256_of_file
from imagemill.tars import members
from imagemill.trace.entries import (
    ROLES,
    Child,
    ImageTrace,
    Known,
    Place,
    ShardTrace,
    Trace,
    VersionTrace,
)

_ADDRESS = "models:/"


def trace(root: Path, name: str, registered: Sequence[Known]) -> Trace:
    """Everything upstream and downstream of a file, a key or a model.

    Args:
        root: The project's root.
        name: Path of a raw image, of a shard or of a model's file; a key; a version number, an
            alias or a variant.
        registered: What the registry holds, newest first.

    Raises:
        UnknownNameError: nothing goes by this name.
        SourceError: the file is no image of this project.
        IntegrityError: there is no data here yet.
    """
    models = [*registered, *_unregistered(root, registered)]
    model = _model(root, name, models)
    if model is not None:
        return _version(root, model, models)
    manifest = ShardManifest.read(root / records.SHARD_MANIFEST)
    shard = _below_data(root, name)
    if shard in {entry.path for entry in manifest.shards}:
        return _shard(root, manifest, str(shard), _of(models, manifest))
    row = _manifest_row(root, name)
    if row is None:
        copy = _rows(root / records.AUGMENTED_INDEX, key=name)
        if copy and copy[0]["parent_key"]:
            return _image(root, _known_row(root, copy[0]["parent_key"]), copy[0], models, manifest)
        raise _unknown(root, name, models)
    return _image(root, row, None, models, manifest)


# Images --------------------------------------------------------------------------------------


def _image(
    root: Path,
    row: Mapping[str, Any],
    copy: Mapping[str, Any] | None,
    models: Sequence[Known],
    manifest: ShardManifest,
) -> ImageTrace:
    key = row["key"]
    originals = _rows(root / records.SHARD_INDEX, key=key)
    frame = copy or (originals[0] if originals else None)
    children = [] if copy else _rows(root / records.AUGMENTED_INDEX, parent_key=key)
    split = str(frame["split"]) if frame else None
    return ImageTrace(
        key=frame["key"] if frame else key,
        target=row["target"],
        group=row["group"],
        raw=Place(row["uri"], None, row["offset"], row["size_bytes"], row["sha256"]),
        set_aside=None if frame else _set_aside(root, key),
        split=split,
        role=ROLES.get(split or ""),
        place=_place(root, frame) if frame else None,
        parent=key if copy else None,
        children=tuple(
            Child(child["key"], child["operations"] or "", _place(root, child))
            for child in children
        ),
        models=_of(models, manifest) if frame and split in ROLES else (),
        of_other_data=tuple(one for one in models if one.data_digest != manifest.digest),
    )


def _of(models: Sequence[Known], manifest: ShardManifest) -> tuple[Known, ...]:
    return tuple(one for one in models if one.data_digest == manifest.digest)


def _place(root: Path, frame: Mapping[str, Any]) -> Place:
    path = root / records.DATA / frame["shard"]
    offset = frame["offset"]
    found = (one.name for one in members(path) if one.offset == offset) if path.is_file() else ()
    return Place(
        frame["shard"], next(iter(found), None), offset, frame["size_bytes"], frame["sha256"]
    )


def _set_aside(root: Path, key: str) -> str | None:
    for table in (records.QUARANTINE, records.DROPPED):
        for row in _rows(root / table, key=key):
            return f"{row['check']}: {row['reason']}"
    return None


def _manifest_row(root: Path, name: str) -> dict[str, Any] | None:
    """The image with this key, this uri, or the bytes of this file."""
    manifest = root / records.MANIFEST
    for column in ("key", "uri"):
        for row in _rows(manifest, **{column: name}):
            return row
    path = Path(name)
    path = path if path.is_absolute() else root / path
    if not path.is_file():
        return None
    for row in _rows(manifest, sha256=sha256_of_file(path)):
        return row
    raise SourceError(
        f"{name} is no image of this project: no row of {records.MANIFEST} has its bytes; "
        "`imagemill scan` and `dvc repro` bring it in"
    )


def _known_row(root: Path, key: str) -> dict[str, Any]:
    return _rows(root / records.MANIFEST, key=key)[0]


def _rows(path: Path, **wanted: str) -> list[dict[str, Any]]:
    """Rows of a table in which a column has a value; none where there is no such file."""
    if not path.is_file():
        return []
    conditions = [(column, "==", value) for column, value in wanted.items()]
    rows: list[dict[str, Any]] = pq.read_table(path, filters=conditions).to_pylist()
    return rows


# Shards and models ---------------------------------------------------------------------------


def _shard(root: Path, manifest: ShardManifest, path: str, models: tuple[Known, ...]) -> ShardTrace:
    (entry,) = (entry for entry in manifest.shards if entry.path == path)
    rows = _rows(root / records.SHARD_INDEX, shard=path)
    split = str(rows[0]["split"]) if rows else "no split"
    keys = tuple(str(row["key"]) for row in rows)
    return ShardTrace(path, entry.sha256, entry.num_samples, split, keys, models)


def _version(root: Path, model: Known, models: Sequence[Known]) -> VersionTrace:
    related = [one for one in models if one.data_digest == model.data_digest]
    made_from: list[Known] = []
    parent = model.parent
    while parent is not None:
        found = next((one for one in related if one.variant == parent), None)
        if found is None or found in made_from:
            break
        made_from.append(found)
        parent = found.parent
    path = root / records.SHARD_MANIFEST
    manifest = ShardManifest.read(path) if path.is_file() else None
    is_here = manifest is not None and manifest.digest == model.data_digest
    splits = manifest.splits if manifest is not None and is_here else {}
    shards = manifest.shards if manifest is not None and is_here else []
    return VersionTrace(
        model=model,
        made_from=tuple(made_from),
        children=tuple(one for one in related if one.parent == model.variant),
        num_images={split: size.num_samples for split, size in splits.items()},
        shards=tuple(entry.path for entry in shards),
    )


def _model(root: Path, name: str, models: Sequence[Known]) -> Known | None:
    wanted = name
    if name.startswith(_ADDRESS):
        wanted = name.replace("@", "/").rpartition("/")[2]
    for one in models:
        if wanted in (str(one.version), *one.aliases):
            return one
    for one in models:
        if wanted == one.variant:
            return one
    path = Path(name) if Path(name).is_absolute() else root / name
    below = _relative(path, root / MODELS)
    card = root / MODELS / below.parts[0] / "model.json" if below and below.parts else None
    if card is None or not card.is_file():
        return None
    sha256 = ModelCard.read(card).sha256
    return next(one for one in models if one.sha256 == sha256)


def _unregistered(root: Path, registered: Sequence[Known]) -> list[Known]:
    known = {(one.variant, one.sha256, one.data_digest) for one in registered}
    cards = [ModelCard.read(path) for path in sorted((root / MODELS).glob("*/model.json"))]
    return [
        Known(card.variant, card.parent, None, (), card.data_digest, card.sha256, None)
        for card in cards
        if (card.variant, card.sha256, card.data_digest) not in known
    ]


def _below_data(root: Path, name: str) -> str | None:
    path = Path(name) if Path(name).is_absolute() else root / name
    below = _relative(path, root / records.DATA)
    return name if below is None else below.as_posix()


def _relative(path: Path, folder: Path) -> Path | None:
    path, folder = path.resolve(), folder.resolve()
    return path.relative_to(folder) if path.is_relative_to(folder) else None


def _unknown(root: Path, name: str, models: Sequence[Known]) -> UnknownNameError:
    keys = [str(row) for row in pq.read_table(root / records.MANIFEST, columns=["key"])["key"][:20]]
    names = {one.variant for one in models} | {str(one.version) for one in models if one.version}
    return UnknownNameError("image, shard or model", name, [*names, *keys[:5]])
