"""Pickles of plain data, read without running anything they say.

CIFAR's Python files are pickles of dicts, lists, numbers, texts and arrays of bytes. Of the pickle
machine only the opcodes these need exist here, and of numpy's names only stand-ins: no constructor
of any library is called, so a hostile file can do nothing but be refused.
"""

import io
import pickle
import struct
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import SourceError

_OPCODES = (
    b"".join(
        [
            pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP,
            pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE,
            pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1,
            pickle.SHORT_BINSTRING, pickle.BINSTRING, pickle.BINUNICODE, pickle.SHORT_BINUNICODE,
            pickle.SHORT_BINBYTES, pickle.BINBYTES,
            pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS,
            pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS,
            pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
            pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE,
            pickle.GET, pickle.BINGET, pickle.LONG_BINGET,
            pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD,
        ]
    )
)  # fmt: skip


class _Type:
    """Stands for numpy.dtype: bytes are the only numbers there are."""

    def __init__(self, name: Any, *_: Any) -> None:
        text = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
        if text not in ("u1", "|u1", "uint8"):
            raise ValueError(f"an array of {text}, not of bytes")

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment: bytes have none."""


class _Array:
    """Stands for an array that numpy would have built."""

    levels: NDArray[np.uint8]

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, content = state
        if not isinstance(kind, _Type) or not isinstance(content, bytes):
            raise ValueError("an array of something else than bytes")
        order = "F" if is_fortran else "C"
        self.levels = np.frombuffer(content, np.uint8).reshape(shape, order=order)  # type: ignore[call-overload]


class _ArrayClass:
    """Stands for the name numpy.ndarray, which is only ever handed to `_empty_array`."""


def _empty_array(*_: Any) -> _Array:
    return _Array()


def _latin_bytes(text: Any, *_: Any) -> bytes:
    """What `_codecs.encode` does in pickles that Python 3 wrote for Python 2."""
    if not isinstance(text, str):
        raise ValueError("bytes written as something else than text")
    return text.encode("latin-1")


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _latin_bytes,
}


class _Reader(pickle._Unpickler):
    """The one written in Python: its table of opcodes can be cut down."""

    dispatch: ClassVar[dict[int, Any]] = {
        code: pickle._Unpickler.dispatch[code] for code in _OPCODES
    }

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in, or a refusal by name."""
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None

    def load_build(self) -> None:
        """Give a stand-in its state; nothing else has any."""
        stack: list[Any] = self.stack  # type: ignore[attr-defined]
        state = stack.pop()
        if not isinstance(stack[-1], _Type | _Array):
            raise _RefusedError(f"the state of a {type(stack[-1]).__name__}")
        stack[-1].__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build


class _RefusedError(Exception):
    """A pickle asks for something that plain data does not need."""


def read_plain(content: bytes, where: str) -> dict[str, Any]:
    """The dict in a pickle.

    Args:
        content: All bytes of the file.
        where: Its name for messages.

    Returns:
        Keys as text; values are numbers, texts (as bytes, if Python 2 wrote them), lists, and
        arrays uint8.

    Raises:
        SourceError: it is no such pickle, is cut short, or asks for code to be run.
    """
    try:
        found = _Reader(io.BytesIO(content), encoding="bytes").load()
    except _RefusedError as refused:
        raise SourceError(
            f"{where} asks for {refused} to be run, which no image file needs; it was not, and "
            "this file should not be trusted"
        ) from None
    except KeyError as unknown:
        raise SourceError(f"{where} is no pickle of plain data (opcode {unknown})") from None
    except (
        ArithmeticError, AttributeError, EOFError, IndexError, TypeError, ValueError,
        pickle.UnpicklingError, struct.error,
    ) as error:  # fmt: skip
        raise SourceError(f"{where} is damaged, cut short or no pickle: {error}") from None
    if not isinstance(found, dict):
        raise SourceError(f"{where} holds a {type(found).__name__}, expected a dict")
    return {_as_text(name): _unwrapped(value) for name, value in found.items()}


def _unwrapped(value: Any) -> Any:
    return getattr(value, "levels", None) if isinstance(value, _Array) else value


def _as_text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
