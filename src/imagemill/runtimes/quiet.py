"""OpenVINO without its reports to the vendor.

`import openvino` alone tells www.google-analytics.com that it was imported, and leaves an id in the
home folder; there is no variable against it, and the vendor's opt-out command is a file in the home
folder of each user. It does without the package that sends, though, if that cannot be imported.
"""

import sys
from types import ModuleType

_SENDER = "openvino_telemetry"


def keep_quiet() -> None:
    """Make the sender unimportable in this process, for openvino and nncf; call it before them.

    Where someone else imported it before, it is theirs, and left to them.
    """
    sys.modules.setdefault(_SENDER, None)  # type: ignore[arg-type]


def quiet_openvino() -> ModuleType:
    """The package `openvino`, which reports nothing in this process."""
    keep_quiet()
    import openvino

    module: ModuleType = openvino
    return module
