"""The state of a file on disk, by which it is known again without reading it."""

import os


def stamp_of(status: os.stat_result) -> str:
    """The state of a file on disk: whatever rewrites or replaces it changes this."""
    return f"{status.st_mtime_ns} {status.st_ino} {status.st_size}"
