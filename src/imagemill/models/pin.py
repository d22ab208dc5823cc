"""What every model costs, and where it was published: `python -m imagemill.models.pin`.

Writes `pinned.json` beside this file. Costs are those at the input and the classes a model was
published for, worked out without computing anything (on torch's meta device).
"""

import json
from pathlib import Path
from typing import Any

import torch

from imagemill.models.cost import count_macs, count_parameters
from imagemill.models.table import MODELS, build_model
from imagemill.records import Architecture, write_bytes

PINNED = Path(__file__).with_name("pinned.json")


def facts(name: str) -> dict[str, Any]:
    """A row of pinned.json.

    Args:
        name: In MODELS.
    """
    row = MODELS[name]
    channels, side, classes = row.standard
    shape = (channels, side, side)
    with torch.device("meta"):
        model = build_model(
            Architecture(name=name, arguments={"width": 1.0}),
            input_shape=shape,
            num_classes=classes,
            mean=[0.5] * channels,
            std=[0.25] * channels,
        )
        macs = count_macs(model, shape)
    return {
        "input_shape": list(shape),
        "classes": classes,
        "parameters": count_parameters(model),
        "macs": macs,
        "source": row.source,
        "published_parameters": row.published_parameters,
        "weights": row.weights.name if row.weights else None,
    }


def main() -> None:
    """Write the file anew."""
    rows = {name: facts(name) for name in MODELS}
    write_bytes(PINNED, (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
