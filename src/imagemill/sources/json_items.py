"""The items of the lists in a large JSON object, one at a time.

`json.load` takes about six times the size of a COCO file in memory; this takes the largest item.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from imagemill.errors import SourceError

_CHUNK_BYTES = 1 << 20
_MAX_ITEM_CHARACTERS = 1 << 28
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
# A number may go on in the next chunk; everything else ends by itself.
_REST_OF_NUMBER = re.compile(r"[-+0-9.eE]*\Z")


def items(stream: BinaryIO, where: str) -> Iterator[tuple[str, Any, str]]:
    """Walk a JSON object whose values are lists.

    Args:
        stream: Bytes of the file.
        where: Its name for messages.

    Yields:
        (name of the list, one of its items, its text); for a value that is no list, (name, the
        value, its text).

    Raises:
        SourceError: damaged, cut short, or no object.
    """
    text = _Text(stream, where)
    text.expect("{")
    if text.peek() == "}":
        return
    while True:
        name, _ = text.value()
        text.expect(":")
        if text.peek() == "[":
            text.expect("[")
            while text.peek() != "]":
                yield name, *text.value()
                if text.peek() != "]":
                    text.expect(",")
            text.expect("]")
        else:
            yield name, *text.value()
        if text.peek() == "}":
            return
        text.expect(",")


class _Text:
    """A text of which only the part that is being read is held."""

    def __init__(self, stream: BinaryIO, where: str) -> None:
        self._stream = stream
        self._where = where
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._held, self._at = "", 0

    def peek(self) -> str:
        """The next character that is no space."""
        while True:
            space = _SPACE.match(self._held, self._at)
            assert space is not None
            self._at = space.end()
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                raise SourceError(f"{self._where} is cut short: its JSON does not end")

    def expect(self, character: str) -> None:
        """Go past a character."""
        found = self.peek()
        if found != character:
            raise SourceError(
                f"{self._where} is no JSON as COCO writes it: expected {character!r}, got {found!r}"
            )
        self._at += 1

    def value(self) -> tuple[Any, str]:
        """Go past a value and return it with its text."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._held, self._at)
            except RecursionError:
                raise SourceError(f"{self._where} is nested too deep") from None
            except json.JSONDecodeError as error:
                if len(self._held) - self._at > _MAX_ITEM_CHARACTERS or not self._more():
                    raise SourceError(f"{self._where} is damaged or cut short: {error}") from None
                continue
            is_open = isinstance(value, int | float) and _REST_OF_NUMBER.match(self._held, end)
            if is_open and self._more():
                continue
            text = self._held[self._at : end]
            self._at = end
            return value, text

    def _more(self) -> bool:
        # The longer an item, the more at once: it is decoded anew each time.
        content = self._stream.read(max(_CHUNK_BYTES, len(self._held) - self._at))
        try:
            text = self._decode.decode(content, final=not content)
        except UnicodeDecodeError as error:
            raise SourceError(f"{self._where} is no UTF-8 text: {error}") from None
        if content:
            self._held, self._at = self._held[self._at :] + text, 0
        return bool(content)
