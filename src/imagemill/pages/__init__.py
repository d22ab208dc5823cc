"""What the pages we write have in common: one look, and one file that needs nothing else."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render(package: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> bytes:
    """The `page.html` of a package, filled in; every text from outside is escaped.

    Args:
        package: Whose page; it extends our `base.html`.
        filters: Name in the page -> function.
        values: What the page tells.
    """
    environment = _environment(package)
    environment.filters.update(filters)
    return environment.get_template("page.html").render(values).encode()


@cache
def _environment(package: str) -> Environment:
    """Kept with the pages it has compiled, which takes longer than filling one in."""
    places = [PackageLoader(package, "."), PackageLoader(__name__, ".")]
    return Environment(
        loader=ChoiceLoader(places),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
