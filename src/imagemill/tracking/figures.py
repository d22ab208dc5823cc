"""Every figure of an evaluation, by the name it has in MLflow."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from imagemill.records import Evaluation

# Keys of an evaluation that hold figures themselves.
_MAPPINGS = (
    "worst_class",
    "val_worst_class",
    "paired",
    "val_paired",
    "corruption",
    "shift",
    "out_of_distribution",
)


def figures_of(evaluation: Evaluation) -> dict[str, float]:
    """Every number of an evaluation, by the name it has in MLflow.

    An interval gives `<name>_low` and `<name>_high`, a class `recall/<class>`, a key inside a
    mapping `<name>_<key>`; what is null is left out.
    """
    document = evaluation.model_dump(mode="json")
    figures = _numbers(document)
    for name in _MAPPINGS:
        inside = document.get(name) or {}
        figures |= _numbers({f"{name}_{key}": value for key, value in inside.items()})
    for scores in evaluation.per_class:
        # MLflow allows few characters in a name.
        label = quote(str(scores["class"]), safe=" ").replace("%", "_").replace("~", "_")
        figures[f"recall/{label}"] = float(scores["recall"])
    return figures


def _numbers(document: Mapping[str, Any]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, value in document.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            figures[name] = float(value)
        elif name.endswith("ci95") and value is not None:
            figures[f"{name}_low"], figures[f"{name}_high"] = map(float, value)
    return figures
