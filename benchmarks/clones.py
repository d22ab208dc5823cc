"""Clones of this project that a benchmark works in."""

import shutil
from pathlib import Path

_PLACE = "src/imagemill/decoding"


def take_compiled_decoder(project: Path, clone: Path) -> None:
    """Bring what an installation builds and git does not hold.

    Args:
        project: Where it was built.
        clone: Of the project.
    """
    for built in (project / _PLACE).glob("_native*"):
        shutil.copy(built, clone / _PLACE)
