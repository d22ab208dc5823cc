"""How a stage calls the steps it is made of, so that someone outside can watch them."""

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Step(Protocol):
    """Calls a function; a flow passes one that makes the call a task of its own."""

    def __call__(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...


def directly(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """The step of a stage nobody watches: a plain call."""
    return function(*args, **kwargs)
