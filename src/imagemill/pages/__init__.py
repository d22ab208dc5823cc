"""What the pages we write have in common: one look, and one file that needs nothing else."""

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render(package: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> bytes:
    """The `page.html` of a package, filled in; every text from outside is escaped.

    Args:
        package: Whose page; it extends our `base.html`.
        filters: Name in the page -> function.
        values: What the page tells.
    """
    places = [PackageLoader(package, "."), PackageLoader(__name__, ".")]
    environment = Environment(
        loader=ChoiceLoader(places),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    return environment.get_template("page.html").render(values).encode()
