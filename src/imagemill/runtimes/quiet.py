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

    Raises:
        AssertionError: the sender was imported already, by someone else.
    """
    assert sys.modules.get(_SENDER) is None, f"{_SENDER} was imported before imagemill's runtimes"
    sys.modules[_SENDER] = None  # type: ignore[assignment]


def quiet_openvino() -> ModuleType:
    """The package `openvino`, which reports nothing in this process."""
    keep_quiet()
    import openvino

    module: ModuleType = openvino
    return module
