"""No process outlives the one it works for."""

import ctypes
import os
import platform
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask Linux to end this process when its parent ends, however that happens.

    To Linux the parent is the thread that started the process: start it from one that stays.

    Args:
        parent: Its process id; if it is gone already, this process ends now.
    """
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            raise SystemExit(1)
