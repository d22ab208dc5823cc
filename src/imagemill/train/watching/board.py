"""Training curves as TensorBoard's event files: `tensorboard --logdir .imagemill/tensorboard`."""

import shutil
from collections.abc import Mapping
from pathlib import Path


class Board:
    """Event files of one training.

    Args:
        folder: Where they are.
        first: Step training begins with. Those of an earlier attempt stay up to it, and are gone
            where it begins anew: no curve folds back.
    """

    def __init__(self, folder: Path, first: int) -> None:
        # Half a second of CPU time that only those pay who want it.
        from torch.utils.tensorboard import SummaryWriter

        if first == 0:
            shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder), purge_step=first + 1 if first else None)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a step, by name; what stands before a slash is a group."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
