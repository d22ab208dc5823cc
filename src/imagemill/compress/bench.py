"""What the methods of compression share: the workbench, and models on it.

A method reads one model folder and writes another; a chain passes folders from hand to hand. So
each step starts from exactly what a file holds, and a graph goes on to be quantized without torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imagemill.loading import SplitImages, open_split
from imagemill.params import BASE, Params
from imagemill.records import MODELS, Architecture, ModelCard, sha256_of_file

if TYPE_CHECKING:
    from torch import nn

CARD, WEIGHTS, GRAPH = "model.json", "model.safetensors", "model.onnx"


@dataclass(frozen=True)
class Bench:
    """Where a chain is worked on.

    root: The project's root.
    params: All sections.
    log: Gets one line of text.
    progress: Gets the share of the running step, 0..1, and the step's name.
    members: What `ensemble.members` names -> its folder and its version.
    """

    root: Path
    params: Params
    log: Callable[[str], None]
    progress: Callable[[float, str], None]
    members: Mapping[str, tuple[Path, int]] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        """Folder of the trained model."""
        return self.root / MODELS / BASE

    def images(self, split: str) -> SplitImages:
        """A split as the base sees it; compression reads train and val, never test."""
        assert split in {"train", "val"}, "test is only ever reported"
        shape = ModelCard.read(self.base / CARD).input_shape
        return open_split(self.root, split, input_shape=shape, loading=self.params.loading)


class Method(Protocol):
    """One way to make a net smaller or faster."""

    def __call__(self, source: Path, target: Path, step: Any, bench: Bench) -> None:
        """Read the model in folder `source`, write the new one to the empty folder `target`.

        Args:
            source: A model folder with model.json.
            target: An empty folder.
            step: The method's section of the chain, such as `params.PruneParams`.
            bench: The workbench.
        """


def spread(targets_N: NDArray[np.int64], count: int) -> NDArray[np.intp]:
    """Positions of at most `count` images, in proportion to the classes; the same every time.

    Args:
        targets_N: Class ids of images sorted by key.
        count: How many, at least 1.
    """
    by_class = np.argsort(targets_N, kind="stable")
    chosen = np.linspace(0, len(by_class) - 1, min(count, len(by_class))).round().astype(np.intp)
    return np.sort(by_class[chosen])


def open_float(folder: Path, bench: Bench) -> tuple["nn.Module", ModelCard]:
    """The eager net in a model folder; first makes torch use the threads and memory of training."""
    import torch

    from imagemill.models import load_model
    from imagemill.train.machine import keep_freed_memory

    torch.set_num_threads(bench.params.train.threads)
    if bench.params.train.keep_memory:
        keep_freed_memory()
    return load_model(folder)


def save_float(
    folder: Path, model: "nn.Module", like: ModelCard, architecture: Architecture
) -> None:
    """Write an eager net as a model folder.

    Args:
        folder: Where to.
        model: float32, in evaluation mode.
        like: The card it takes over all else from.
        architecture: Its full form; tensor shapes tell what pruning removed.
    """
    from imagemill.models import count_macs, count_parameters, save_weights

    save_weights(folder / WEIGHTS, model)
    save_card(
        folder,
        like,
        [WEIGHTS],
        architecture=architecture,
        runtime="eager",
        num_parameters=count_parameters(model),
        macs=count_macs(model, like.input_shape),
    )


def save_card(folder: Path, like: ModelCard, files: Sequence[str], **changes: Any) -> None:
    """Write model.json for what is in the folder.

    Args:
        folder: Holds `files`.
        like: The card it takes over all else from.
        files: Names; the first is the one its runtime loads.
        changes: Fields of the card that differ.
    """
    digests = {name: sha256_of_file(folder / name) for name in files}
    told = {"files": digests, "file": files[0], "sha256": digests[files[0]], **changes}
    like.model_copy(update=told).write(folder / CARD)
