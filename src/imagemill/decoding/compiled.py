"""The compiled part of decoding, where it was built.

`native` is None without it; then Python does the same, more slowly (docs/loading.md).
"""

import logging
from functools import cache
from typing import Any

native: Any
try:
    from imagemill.decoding import _native as native  # type: ignore[attr-defined,no-redef]
except ImportError:
    native = None


def has_compiled_part() -> bool:
    """Whether it was built and is in use."""
    return native is not None


@cache
def tell_if_missing() -> None:
    """Say once in a process that the compiled part is missing, and how to get it."""
    if native is None:
        logging.getLogger("imagemill").warning(
            "images are decoded in pure Python; for the compiled decoder install a C compiler and "
            "libjpeg-turbo's headers (Debian: libjpeg-dev), then `pip install -e .` again"
        )
