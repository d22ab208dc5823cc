"""What every model costs, pinned in pinned.json: `python -m imagemill.models.pin` writes it again.

Nets are built and run on torch's meta device, where shapes are worked out and nothing is computed.
"""

from pathlib import Path

import torch
from pydantic import RootModel

from imagemill.models.contract import Model
from imagemill.models.cost import count_macs, count_parameters
from imagemill.models.table import MODELS, build_model
from imagemill.records import Architecture, Record, write_json

PINNED = Path(__file__).with_name("pinned.json")


class Cost(Record):
    """A row of pinned.json.

    parameters, macs: Counted on the net; multiply-accumulates of one image.
    input_shape: Channels, height, width.
    source: Where the model was published.
    published_parameters, published_giga_macs: As printed by the source, or for torchvision's nets
        by its documentation of their weights; None: it prints none.
    """

    parameters: int
    macs: int
    input_shape: tuple[int, int, int]
    num_classes: int
    source: str
    published_parameters: str | None
    published_giga_macs: str | None


class Costs(RootModel[dict[str, Cost]]):
    """pinned.json: name in MODELS -> cost at the size it was published for."""


def read_pinned() -> dict[str, Cost]:
    """The rows of pinned.json."""
    return Costs.model_validate_json(PINNED.read_bytes()).root


def cost_of(name: str) -> Cost:
    """Count one model."""
    model = MODELS[name]
    channels, size, num_classes = model.standard
    shape = (channels, size, size)
    with torch.device("meta"):
        network = build_model(
            Architecture(name=name, arguments={"width": 1.0}),
            input_shape=shape,
            num_classes=num_classes,
            mean=[0.5] * channels,
            std=[0.5] * channels,
        )
    parameters, giga_macs = _published(name, model)
    return Cost(
        parameters=count_parameters(network),
        macs=count_macs(network, shape),
        input_shape=shape,
        num_classes=num_classes,
        source=model.source,
        published_parameters=parameters,
        published_giga_macs=giga_macs,
    )


def _published(name: str, model: Model) -> tuple[str | None, str | None]:
    if model.weights is None:
        return model.published_parameters, None
    from torchvision.models import get_model_weights

    told = get_model_weights(name)[model.weights.name.split(".")[1]].meta
    return f"{told['num_params']:,}", f"{told['_ops']:.3f}"


def main() -> None:
    """Write pinned.json."""
    write_json(PINNED, {name: cost_of(name).model_dump(mode="json") for name in MODELS})


if __name__ == "__main__":
    main()
