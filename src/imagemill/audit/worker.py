"""The process that decodes: `python -m imagemill.audit.worker`, started by `audit.pool`.

Requests come on standard input and answers go to standard output. The input ends when the parent
does, however it ends, and then this process ends too.
"""

import hashlib
import os
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from imagemill.audit.decode import prepare
from imagemill.audit.measure import measure
from imagemill.audit.messages import (
    ANSWER,
    FAULT,
    USER_FAULT,
    Answer,
    Question,
    receive,
    send,
    unpacked,
    written,
)
from imagemill.errors import IntegrityError, SourceError, UserError

if TYPE_CHECKING:
    from imagemill.sources import RawReader

# Private memory a worker may have: with libraries it stays below 1 GB whatever it is fed.
MOST_BYTES = 800_000_000


def main() -> None:
    """Answer requests until there are no more."""
    root, max_pixels, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    # Ctrl-C reaches the whole process group; the parent decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    # C libraries print what they think of broken files; the answers must stay clean of it.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    cv2.setNumThreads(1)  # there is a worker for each CPU
    prepare()
    raw = _Raw(root)
    while (request := receive(sys.stdin.buffer)) is not None:
        send(answers, _answer(unpacked(request), raw, max_pixels=max_pixels, seconds=seconds))


class _Raw:
    """The bytes of images; what knows of archives, tables and addresses is loaded for those."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, image: Question) -> bytes:
        """The bytes of one image."""
        if not image.is_file:
            return self._reader.read(image.uri, image.offset, image.size_bytes)
        try:
            with (self._root / image.uri).open("rb") as file:
                return file.read(image.size_bytes)
        except OSError as error:
            raise SourceError(f"cannot read {image.uri}: {error.strerror}") from None

    @cached_property
    def _reader(self) -> "RawReader":
        from imagemill.sources import RawReader

        return RawReader(self._root)


def _answer(questions: list[Question], raw: _Raw, *, max_pixels: int, seconds: float) -> bytes:
    try:
        contents = _contents(questions, raw, seconds)
        return ANSWER + written(Answer(*measure(contents, max_pixels=max_pixels)))
    except UserError as error:
        return USER_FAULT + str(error).encode()
    except Exception:
        # The parent raises this again; here nobody would see it.
        return FAULT + traceback.format_exc().encode()


def _contents(questions: list[Question], raw: _Raw, seconds: float) -> Iterator[bytes]:
    """Bytes of image after image; each has its own time until the next one is asked for."""
    try:
        for image in questions:
            # Not a handler but the default action, for it also ends a decoder that never returns.
            # Computing time, since a busy machine is not the image's fault.
            signal.setitimer(signal.ITIMER_PROF, seconds)
            content = raw.read(image)
            if hashlib.sha256(content).hexdigest() != image.sha256:
                raise IntegrityError(
                    f"{image.uri} changed since `ingest` read it; run `imagemill scan`"
                )
            yield content
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
