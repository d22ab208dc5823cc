"""The process that decodes: `python -m imagemill.audit.worker`, started by `audit.pool`.

Requests come on standard input and answers go to standard output. The input ends when the parent
does, however it ends, and then this process ends too.
"""

import hashlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from imagemill.audit.decode import Verdict, judge, prepare
from imagemill.audit.messages import (
    ANSWER,
    FAULT,
    USER_FAULT,
    VERDICT_SCHEMA,
    packed,
    receive,
    send,
    unpacked,
)
from imagemill.errors import IntegrityError, UserError
from imagemill.params import AuditParams
from imagemill.sources import RawReader


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
    prepare(params.max_pixels)
    with RawReader(root) as reader:
        while (request := receive(sys.stdin.buffer)) is not None:
            send(answers, _answer(request, reader, params))


def _answer(request: bytes, reader: RawReader, params: AuditParams) -> bytes:
    try:
        return ANSWER + packed(_judged(unpacked(request), reader, params))
    except UserError as error:
        return USER_FAULT + str(error).encode()
    except Exception:
        # The parent raises this again; here nobody would see it.
        return FAULT + traceback.format_exc().encode()


def _judged(rows: pa.RecordBatch, reader: RawReader, params: AuditParams) -> pa.RecordBatch:
    verdicts = []
    for frame in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        # Not a handler but the default action, for it also ends a decoder that never returns.
        # Computing time, since a busy machine is not the image's fault.
        signal.setitimer(signal.ITIMER_PROF, params.decode_seconds)
        verdicts.append(_verdict(reader, params, _Frame(*frame)))
    signal.setitimer(signal.ITIMER_PROF, 0)
    columns = {
        name: [verdict[place] for verdict in verdicts]
        for place, name in enumerate(VERDICT_SCHEMA.names)
    }
    return pa.RecordBatch.from_pydict(columns, schema=VERDICT_SCHEMA)


class _Frame(NamedTuple):
    """One row of a request."""

    uri: str
    offset: int
    size_bytes: int
    sha256: str


def _verdict(reader: RawReader, params: AuditParams, frame: _Frame) -> Verdict:
    if frame.size_bytes == 0:
        return Verdict("zero_byte", "the file is empty")
    if frame.size_bytes > params.max_bytes:
        return Verdict("over_large", f"{frame.size_bytes} bytes, more than {params.max_bytes}")
    content = reader.read(frame.uri, frame.offset, frame.size_bytes)
    if hashlib.sha256(content).hexdigest() != frame.sha256:
        raise IntegrityError(f"{frame.uri} changed since `ingest` read it; run `imagemill scan`")
    return judge(content)


if __name__ == "__main__":
    main()
