"""From drawn values to params."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from imagemill.errors import ParamsError
from imagemill.params import ChoicesParams, Params, RangeParams, SweepParams, parse_params

Values = Mapping[str, Any]


def settings_of(params: Params) -> SweepParams:
    """The section `sweep`.

    Raises:
        ParamsError: there is none, or a key or value of its space is not one of params.yaml's.
    """
    if params.sweep is None:
        raise ParamsError("params.yaml has no section sweep; docs/sweeps.md shows one")
    for key, values in params.sweep.space.items():
        for value in _extremes(values):
            with_values(params, {key: value})
    return params.sweep


def with_values(params: Params, values: Values) -> Params:
    """The params of a trial.

    Args:
        params: All of params.yaml.
        values: Dotted key -> value.

    Raises:
        ParamsError: no such key, or a value it cannot have.
    """
    assert params.sweep is not None
    document = params.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for key, value in {"train.epochs": params.sweep.epochs, **values}.items():
        *sections, name = key.split(".")
        place = document
        for section in sections:
            if not isinstance(place.get(section), dict):
                raise ParamsError(f"sweep.space: {key!r} is in no section of params.yaml")
            place = place[section]
        place[name] = value
    told = ", ".join(f"{key}: {value}" for key, value in values.items())
    return parse_params(document, where=f"sweep.space with {told}")


def study_name(params: Params, data_digest: str) -> str:
    """The same for the same search: over this space, on this data, from these settings."""
    assert params.sweep is not None
    said = {
        "sweep": params.sweep.model_dump(mode="json", exclude={"trials"}),
        "train": params.train.model_dump(mode="json", exclude={"watch", "epochs"}),
        "augment": params.augment.model_dump(mode="json"),
        "loading": params.loading.resize,
        "data": data_digest,
    }
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    return f"{params.train.model}-{digest[:12]}"


def _extremes(values: RangeParams | ChoicesParams) -> tuple[Any, ...]:
    return (values.low, values.high) if isinstance(values, RangeParams) else values.choices
