"""What a flow stage tells the world while it runs, with or without a Prefect server.

A flow is a plain function of (root, params, tracker). With a server up, `pipelines.prefect_tracker`
wraps it as a Prefect flow and its steps as tasks; without one, `Untracked` calls the same function
and nothing of Prefect is imported.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Tracker(Protocol):
    """Where steps, log lines and artifacts go."""

    def log(self, line: str) -> None:
        """One line for whoever watches the run."""

    def step(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function` as a named step (a Prefect task) and return its result."""

    def progress(self, fraction: float, description: str) -> None:
        """How far the stage is, 0..1."""

    def table(self, key: str, rows: Sequence[dict[str, Any]]) -> None:
        """A table artifact; `key` of lower-case letters, digits and dashes."""

    def image(self, key: str, path: Path) -> None:
        """A small picture as an artifact."""

    def link(self, key: str, url: str, text: str) -> None:
        """A link artifact."""


class Untracked:
    """No server: lines go to standard output, steps are plain calls, artifacts are left out."""

    def log(self, line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def step(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    def progress(self, fraction: float, description: str) -> None:
        pass

    def table(self, key: str, rows: Sequence[dict[str, Any]]) -> None:
        pass

    def image(self, key: str, path: Path) -> None:
        pass

    def link(self, key: str, url: str, text: str) -> None:
        pass
