"""What a trace consists of, as records that print themselves as JSON or as lines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

_SHOWN = 10  # keys, children or shards named in the lines for people; --json has all

Role = Literal["trained on", "chosen on", "measured on"]
ROLES: Mapping[str, Role] = {"train": "trained on", "val": "chosen on", "test": "measured on"}


@dataclass(frozen=True)
class Known:
    """A model that may have seen an image: a registered version, or one in models/ alone."""

    variant: str
    parent: str | None
    version: int | None  # None: not registered
    aliases: tuple[str, ...]
    data_digest: str
    sha256: str
    git_rev: str | None

    def __str__(self) -> str:
        number = "not registered" if self.version is None else f"version {self.version}"
        made = f", made from {self.parent}" if self.parent else ""
        held = f", {', '.join(self.aliases)}" if self.aliases else ""
        return f"{self.variant} ({number}{held}{made})"


@dataclass(frozen=True)
class Place:
    """Where the bytes of an image are."""

    shard: str  # relative to data/; of a raw image: its uri
    member: str | None
    offset: int
    size_bytes: int
    sha256: str

    def __str__(self) -> str:
        member = f", member {self.member}" if self.member else ""
        return (
            f"{self.shard}{member}, {self.size_bytes} bytes at {self.offset}, "
            f"sha256 {self.sha256[:12]}"
        )


@dataclass(frozen=True)
class Child:
    """An augmented copy."""

    key: str
    operations: str
    place: Place


@dataclass(frozen=True)
class ImageTrace:
    """One image, from its source to the models."""

    key: str
    target: str | None
    group: str | None
    raw: Place
    set_aside: str | None  # check and reason, where it is in no shard
    split: str | None
    role: Role | None
    place: Place | None
    parent: str | None  # the original, if this is an augmented copy
    children: tuple[Child, ...]
    models: tuple[Known, ...]
    of_other_data: tuple[Known, ...]  # whether these saw it is not known from the data that is here
    kind: Literal["image"] = "image"

    def lines(self) -> Iterator[str]:
        yield f"image {self.key}: {self.target or 'without a label'}"
        yield f"  raw      {self.raw}"
        if self.parent:
            yield f"  copy of  {self.parent}"
        if self.set_aside:
            yield f"  set aside by {self.set_aside}"
        if self.place:
            yield f"  shard    {self.place} ({self.split})"
        yield from _some("  copy     ", [f"{one.key}: {one.place}" for one in self.children])
        yield from _some(f"  {self.role}: ", list(map(str, self.models)))
        yield from _some("  of other data, may have seen it: ", list(map(str, self.of_other_data)))


@dataclass(frozen=True)
class ShardTrace:
    """One tar of shards, and the images in it."""

    path: str  # relative to data/
    sha256: str
    num_samples: int
    split: str
    keys: tuple[str, ...]
    models: tuple[Known, ...]
    kind: Literal["shard"] = "shard"

    def lines(self) -> Iterator[str]:
        yield f"shard {self.path}: {self.num_samples} images of {self.split}"
        yield from _some("  image    ", list(self.keys))
        yield from _some(f"  {ROLES.get(self.split, 'seen by')}: ", list(map(str, self.models)))


@dataclass(frozen=True)
class VersionTrace:
    """One model: what it was made from, what was made from it, and the shards it saw."""

    model: Known
    made_from: tuple[Known, ...]  # its parent first, the base last
    children: tuple[Known, ...]
    num_images: dict[str, int]  # by split; empty where its data is not the present data
    shards: tuple[str, ...]
    kind: Literal["version"] = "version"

    def lines(self) -> Iterator[str]:
        yield f"model {self.model}: sha256 {self.model.sha256[:12]}"
        yield from _some("  made from ", list(map(str, self.made_from)))
        yield from _some("  parent of ", list(map(str, self.children)))
        yield f"  data     {self.model.data_digest[:12]}{self._where()}"
        yield from _some("  shard    ", list(self.shards))

    def _where(self) -> str:
        if self.num_images:
            return ": " + ", ".join(f"{count} {split}" for split, count in self.num_images.items())
        commit = self.model.git_rev
        hint = f"; `git checkout {commit[:12]}` and `dvc checkout` bring it back" if commit else ""
        return f", not the data that is here now{hint}"


Trace = ImageTrace | ShardTrace | VersionTrace


def as_json(found: Trace) -> dict[str, Any]:
    """A trace as a document."""
    return asdict(found)


def _some(head: str, entries: Sequence[str]) -> Iterator[str]:
    yield from (f"{head}{entry}" for entry in entries[:_SHOWN])
    if len(entries) > _SHOWN:
        yield f"{head}... and {len(entries) - _SHOWN} more (--json has all)"
