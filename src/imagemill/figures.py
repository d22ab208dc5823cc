"""Pictures that matplotlib drew, as files."""

from pathlib import Path

from matplotlib.figure import Figure

from imagemill.records import publishing

_DPI = 110


def save_figure(figure: Figure, path: Path) -> None:
    """As PNG without the version of what drew it: the same figures give the same bytes.

    Raises:
        DiskError: the folder cannot be written, or the disk is full.
    """
    with publishing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
