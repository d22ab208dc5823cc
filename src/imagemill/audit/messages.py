"""What the parent and its decoding processes say to one another.

A message is eight bytes of length and a body: JSON there, JSON and records of fixed size back. So
nothing is unpickled, and a worker starts without Arrow.
"""

import json
from typing import IO, NamedTuple

import numpy as np

from imagemill.audit.facts import FACTS, Facts

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


class Question(NamedTuple):
    """One image to look at."""

    uri: str
    offset: int
    size_bytes: int
    sha256: str
    is_file: bool  # as of `sources.entries.is_own_file`


def packed(questions: list[Question]) -> bytes:
    """Questions as bytes."""
    return json.dumps(questions).encode()


def unpacked(body: bytes) -> list[Question]:
    """The questions that were packed."""
    return [Question(*fields) for fields in json.loads(body)]


class Answer(NamedTuple):
    """What a worker found out about the images of a request."""

    facts_N: Facts
    reasons: list[str | None]  # of faults


def written(answer: Answer) -> bytes:
    """An answer as bytes."""
    texts = json.dumps(answer.reasons).encode()
    return len(texts).to_bytes(8, "little") + texts + answer.facts_N.tobytes()


def read(body: bytes | memoryview) -> Answer:
    """The answer that was written."""
    stop = 8 + int.from_bytes(body[:8], "little")
    return Answer(np.frombuffer(body[stop:], FACTS), json.loads(bytes(body[8:stop])))
