"""What the parent and its decoding processes say to one another.

A message is eight bytes of length and a body: an Arrow stream there, JSON and records of fixed size
back. So nothing is unpickled.
"""

import io
import json
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa

from imagemill.audit.facts import FACTS, Facts

REQUEST_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)
# The first byte of an answer; a fault is told in text, the user's and ours.
ANSWER, USER_FAULT, FAULT = b"A", b"U", b"F"


def send(stream: IO[bytes], body: bytes) -> None:
    """Write one message."""
    stream.write(len(body).to_bytes(8, "little"))
    stream.write(body)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes | None:
    """Read one message; None when the other side is gone."""
    length = stream.read(8)
    if len(length) < 8:
        return None
    expected = int.from_bytes(length, "little")
    body = stream.read(expected)
    return body if len(body) == expected else None


def packed(rows: pa.RecordBatch) -> bytes:
    """Rows as an Arrow stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as out:
        out.write_batch(rows)
    return sink.getvalue()


def unpacked(body: bytes | memoryview) -> pa.RecordBatch:
    """The rows of an Arrow stream."""
    return pa.ipc.open_stream(body).read_next_batch()


class Answer(NamedTuple):
    """What a worker found out about the images of a request."""

    facts_N: Facts
    reasons: list[str | None]  # of faults


def written(answer: Answer) -> bytes:
    """An answer as bytes: to make an array of a list Arrow would import pandas, half a second."""
    texts = json.dumps(answer.reasons).encode()
    return len(texts).to_bytes(8, "little") + texts + answer.facts_N.tobytes()


def read(body: bytes | memoryview) -> Answer:
    """The answer that was written."""
    stop = 8 + int.from_bytes(body[:8], "little")
    return Answer(np.frombuffer(body[stop:], FACTS), json.loads(bytes(body[8:stop])))
