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
from pathlib import Path

import cv2
import pyarrow as pa

from imagemill.audit.decode import prepare
from imagemill.audit.measure import measure
from imagemill.audit.messages import (
    ANSWER,
    FAULT,
    USER_FAULT,
    Answer,
    receive,
    send,
    unpacked,
    written,
)
from imagemill.errors import IntegrityError, UserError
from imagemill.params import AuditParams
from imagemill.sources import RawReader

# Private memory a worker may have: with libraries it stays below 1 GB whatever it is fed.
MOST_BYTES = 800_000_000


def main() -> None:
    """Answer requests until there are no more."""
    root, params = Path(sys.argv[1]), AuditParams.model_validate_json(sys.argv[2])
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
    with RawReader(root) as reader:
        while (request := receive(sys.stdin.buffer)) is not None:
            send(answers, _answer(request, reader, params))


def _answer(request: bytes, reader: RawReader, params: AuditParams) -> bytes:
    try:
        contents = _contents(unpacked(request), reader, params.decode_seconds)
        return ANSWER + written(Answer(*measure(contents, max_pixels=params.max_pixels)))
    except UserError as error:
        return USER_FAULT + str(error).encode()
    except Exception:
        # The parent raises this again; here nobody would see it.
        return FAULT + traceback.format_exc().encode()


def _contents(rows: pa.RecordBatch, reader: RawReader, seconds: float) -> Iterator[bytes]:
    """Bytes of image after image; each has its own time until the next one is asked for."""
    try:
        for uri, offset, size_bytes, sha256 in zip(
            *(column.to_pylist() for column in rows.columns), strict=True
        ):
            # Not a handler but the default action, for it also ends a decoder that never returns.
            # Computing time, since a busy machine is not the image's fault.
            signal.setitimer(signal.ITIMER_PROF, seconds)
            content = reader.read(uri, offset, size_bytes)
            if hashlib.sha256(content).hexdigest() != sha256:
                raise IntegrityError(f"{uri} changed since `ingest` read it; run `imagemill scan`")
            yield content
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
