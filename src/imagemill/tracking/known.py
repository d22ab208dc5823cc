"""The registry's versions as `trace`, `forget` and `compare` want them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.params import Params
from imagemill.trace import Known
from imagemill.tracking.standings import find_version
from imagemill.tracking.versions import has_store, open_store

if TYPE_CHECKING:
    from imagemill.tracking.store import Store


@dataclass(frozen=True)
class Measured:
    """A version and every number the registry has of it."""

    version: int
    variant: str
    aliases: tuple[str, ...]
    verdict: str
    run_id: str
    data_digest: str
    figures: Mapping[str, float]  # metrics of its run, as they were measured last


def measured_versions(root: Path, params: Params, names: Sequence[str]) -> list[Measured]:
    """Versions with their figures, oldest first.

    Args:
        root: The project's root.
        params: Of them `register`.
        names: Numbers, aliases or variants; none: all there are.

    Raises:
        UnknownNameError: no version goes by a name.
        ServiceError: there is no registry, or it cannot be used.
    """
    store = open_store(root, params.register_)
    chosen = [find_version(store, name) for name in names] or store.find_versions({})
    held = _held(store)
    found = {
        one.number: Measured(
            version=one.number,
            variant=one.tags["variant"],
            aliases=tuple(sorted(held.get(one.number, []))),
            verdict=one.tags["verdict"],
            run_id=one.run_id,
            data_digest=one.tags["data_digest"],
            figures=store.figures(one),
        )
        for one in chosen
    }
    return [found[number] for number in sorted(found)]


def known_versions(root: Path, params: Params) -> list[Known]:
    """Every version whose files are there, newest first; none where there is no registry yet.

    Raises:
        ServiceError: the registry cannot be used.
    """
    if not has_store(root, params.register_):
        return []
    store = open_store(root, params.register_)
    held = _held(store)
    return [
        Known(
            variant=version.tags["variant"],
            parent=version.tags.get("parent"),
            version=version.number,
            aliases=tuple(sorted(held.get(version.number, []))),
            data_digest=version.tags["data_digest"],
            sha256=version.tags["sha256"],
            git_rev=version.tags.get("git_rev"),
        )
        for version in store.find_versions({})
    ]


def _held(store: "Store") -> dict[int, list[str]]:
    held: dict[int, list[str]] = {}
    for alias, version in store.aliases().items():
        held.setdefault(version.number, []).append(alias)
    return held
