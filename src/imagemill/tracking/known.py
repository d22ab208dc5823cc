"""The registry's versions as `trace`, `forget` and `compare` want them."""

from pathlib import Path

from imagemill.params import Params
from imagemill.trace import Known
from imagemill.tracking.versions import has_store, open_store


def known_versions(root: Path, params: Params) -> list[Known]:
    """Every version whose files are there, newest first; none where there is no registry yet.

    Raises:
        ServiceError: the registry cannot be used.
    """
    if not has_store(root, params.register_):
        return []
    store = open_store(root, params.register_)
    held: dict[int, list[str]] = {}
    for alias, version in store.aliases().items():
        held.setdefault(version.number, []).append(alias)
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
