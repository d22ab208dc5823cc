"""Registered models that a variant is made of, brought to this machine."""

from collections.abc import Iterable
from pathlib import Path

from imagemill.params import RegisterParams, StepParams
from imagemill.tracking.start import find_registered
from imagemill.tracking.versions import checked_folder

# What `ensemble.members` says -> its folder and version.
Members = dict[str, tuple[Path, int]]


def find_members(root: Path, settings: RegisterParams, chain: Iterable[StepParams]) -> Members:
    """The members that the steps of a chain name.

    Args:
        root: The project's root.
        settings: Which registry.
        chain: Of one variant.

    Raises:
        ParamsError: a member is not of the form models:/NAME@ALIAS or models:/NAME/VERSION.
        ServiceError: there is no registry yet.
        UnknownNameError: no version has this alias.
        IntegrityError: no such version, or its files are not those that were registered.
    """
    members: Members = {}
    for step in chain:
        for name in step.ensemble.members if step.ensemble else ():
            store, version = find_registered(root, settings, name, asked_by="ensemble.members")
            members[name] = (checked_folder(root, store, version)[0], version.number)
    return members
