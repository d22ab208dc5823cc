"""Registered versions as folders whose bytes are those that were registered."""

from pathlib import Path
from typing import TYPE_CHECKING

from imagemill import records
from imagemill.errors import IntegrityError, ServiceError, UnknownNameError
from imagemill.params import RegisterParams
from imagemill.records import ModelCard
from imagemill.tracking.address import sqlite_file
from imagemill.tracking.entries import Version

if TYPE_CHECKING:
    from imagemill.tracking.store import Store

DOWNLOADS = records.STATE / "registry"


def open_store(root: Path, settings: RegisterParams) -> "Store":
    """The registry that is there.

    Raises:
        ServiceError: there is none yet, or it cannot be used.
    """
    if not has_store(root, settings):
        file = sqlite_file(root, settings.tracking_uri)
        raise ServiceError(
            f"there is no registry yet: {file} does not exist; `imagemill run` makes it"
        )
    from imagemill.tracking.store import Store

    return Store(root, settings)


def has_store(root: Path, settings: RegisterParams) -> bool:
    """Whether there is a registry, as far as that can be seen without asking it."""
    file = sqlite_file(root, settings.tracking_uri)
    return file is None or file.is_file()


def named_version(store: "Store", model_name: str, alias: str) -> Version:
    """The version an alias names.

    Args:
        store: Where to look.
        model_name: Of the registered model, for messages.
        alias: Such as champion.

    Raises:
        ServiceError: nothing is registered yet.
        UnknownNameError: no version has this alias.
    """
    versions = store.aliases()
    if not versions:
        raise ServiceError(
            f"{model_name!r} has no registered version yet; `imagemill run` makes one"
        )
    if alias not in versions:
        raise UnknownNameError("alias", alias, versions)
    return versions[alias]


def checked_folder(root: Path, store: "Store", version: Version) -> tuple[Path, ModelCard]:
    """The folder of a version, once its bytes are known to be those registered.

    Raises:
        IntegrityError: they are not.
    """
    fetched = store.fetch(version, root / DOWNLOADS / version.tags["sha256"])
    folder = fetched / "data" / version.tags["variant"]
    card_path = folder / "model.json"
    _compare(card_path, version.tags["card_sha256"], version)
    card = ModelCard.read(card_path)
    _compare(folder / card.file, version.tags["sha256"], version)
    return folder, card


def _compare(path: Path, expected: str, version: Version) -> None:
    if not path.is_file():
        raise IntegrityError(f"{path} of version {version.number} is missing in the registry")
    actual = records.sha256_of_file(path)
    if actual != expected:
        raise IntegrityError(
            f"{path} is not what was registered as version {version.number}: sha256 {actual[:12]}, "
            f"the registry says {expected[:12]}; refused. Delete mlflow.db and mlartifacts/, then "
            "`imagemill run` fills the registry again from models/"
        )
