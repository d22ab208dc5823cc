"""Where a training starts: `train.init_from` brought to a file on this machine."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.errors import IntegrityError, ParamsError
from imagemill.params import BASE, Params, RegisterParams
from imagemill.records import RANDOM, Start, sha256_of_file
from imagemill.tracking.entries import Version
from imagemill.tracking.versions import checked_folder, has_store, named_version, open_store
from imagemill.train.origin import CHAMPION, WEIGHTS, Origin, local_origin

if TYPE_CHECKING:
    from imagemill.tracking.store import Store

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<number>\d+))")


def find_start(root: Path, params: Params) -> Origin:
    """What `train.init_from` names, with the file it stands for.

    A registered model whose file is no float net (INT8) stands for the base it was made from, and
    so does the champion always: a smaller net's weights do not fit the model that is trained.

    Args:
        root: The project's root.
        params: Of them `train` and `register`.

    Raises:
        ParamsError: `models:/...` is not of a known form, or nobody publishes such weights.
        ServiceError: a registered model is asked for and there is no registry.
        UnknownNameError: no version has this alias.
        IntegrityError: files are not those that were registered or published.
        SourceError: a file is missing, or published weights cannot be fetched.
    """
    wanted = params.train.init_from
    if wanted == CHAMPION:
        return _champion(root, params.register_)
    if wanted is None or not wanted.startswith("models:/"):
        return local_origin(root, params.train)
    store, version = find_registered(root, params.register_, wanted, asked_by="train.init_from")
    return _origin(root, store, version, wanted, whole_net=False)


def find_registered(
    root: Path, settings: RegisterParams, wanted: str, *, asked_by: str
) -> tuple["Store", Version]:
    """The version that `models:/...` names, and the registry it is in.

    Args:
        root: The project's root.
        settings: Which registry.
        wanted: models:/NAME@ALIAS or models:/NAME/VERSION.
        asked_by: The knob, for messages.

    Raises:
        ParamsError: it is of no known form.
        ServiceError: there is no registry.
        UnknownNameError: no version has this alias.
        IntegrityError: there is no such version, or its files are gone.
    """
    match = _REGISTERED.fullmatch(wanted)
    if match is None:
        raise ParamsError(
            f"{asked_by}: expected models:/NAME@ALIAS or models:/NAME/VERSION, got {wanted!r}"
        )
    name = match["name"]
    store = open_store(root, settings.model_copy(update={"model_name": name}))
    if match["alias"]:
        return store, named_version(store, name, match["alias"])
    number = int(match["number"])
    for version in store.find_versions({}):
        if version.number == number:
            return store, version
    raise IntegrityError(f"{asked_by}: {name} has no version {number}, or its files are gone")


def _champion(root: Path, settings: RegisterParams) -> Origin:
    """The champion's base; nothing where there is no champion yet."""
    if has_store(root, settings):
        store = open_store(root, settings)
        version = store.aliases().get(CHAMPION)
        if version is not None:
            name = f"models:/{settings.model_name}@{CHAMPION}"
            return _origin(root, store, version, name, whole_net=True)
    note = f"{settings.model_name} has no {CHAMPION} yet"
    return Origin(RANDOM.model_copy(update={"note": note}), None)


def _origin(root: Path, store: "Store", version: Version, name: str, *, whole_net: bool) -> Origin:
    folder, card = checked_folder(root, store, version)
    note = None
    if version.tags["variant"] != BASE and (whole_net or WEIGHTS not in card.files):
        base = _base_of(store, version)
        note = f"of {version.tags['variant']}, version {version.number}, the base"
        folder, card = checked_folder(root, store, base)
        version = base
    file = folder / WEIGHTS
    expected = card.files.get(WEIGHTS)
    if expected is None or not file.is_file() or sha256_of_file(file) != expected:
        raise IntegrityError(
            f"{file} of version {version.number} is not the file its model.json names: refused"
        )
    start = Start(
        kind="registered",
        name=name,
        version=version.number,
        sha256=expected,
        classes=card.classes,
        note=note,
    )
    return Origin(start, file)


def _base_of(store: "Store", version: Version) -> Version:
    """The base that was registered with a version."""
    parent = store.parent_of(version.run_id)
    for base in store.find_versions({"variant": BASE}):
        if store.parent_of(base.run_id) == parent:
            return base
    raise IntegrityError(
        f"the base that version {version.number} was made from is no longer in the registry; name "
        "other weights in train.init_from"
    )
