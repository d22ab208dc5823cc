"""Accuracy on a split while training runs, in the precision of training, by all ranks together."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imagemill.loading import SplitImages, images_at_once
from imagemill.train.machine import Machine
from imagemill.train.ranks import ALONE, Ranks

_MOST = 500  # images a turn


@torch.no_grad()
def top1(
    model: nn.Module,
    images: SplitImages,
    machine: Machine,
    ranks: Ranks = ALONE,
    beat: Callable[[], None] = lambda: None,
) -> float:
    """Share of images whose class gets the largest logit; the model's mode is put back.

    Every rank judges a part, and all take the same number of turns: where weights are sharded a
    forward pass is the work of all ranks.

    Args:
        model: Images in 0..1 [B, C, H, W] -> logits [B, K].
        images: The split.
        machine: Where to compute.
        ranks: Those that judge together.
        beat: Called at each turn.
    """
    training = model.training
    model.eval()
    hits = torch.zeros((), dtype=torch.int64, device=machine.device)
    at_once = images_at_once(*images.input_shape[1:], most=_MOST)
    for positions_B, counts in _turns(len(images), at_once, ranks):
        beat()
        pixels = torch.from_numpy(images.take(positions_B)).to(machine.device)
        images_BCHW = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
        with machine.autocast():
            logits_BK = model(images_BCHW)
        targets_B = torch.from_numpy(images.targets_N[positions_B]).to(machine.device)
        hits += (logits_BK.argmax(1) == targets_B).sum() * counts
    model.train(training)
    return int(ranks.summed(hits)) / len(images)


def _turns(count: int, at_once: int, ranks: Ranks) -> Iterator[tuple[NDArray[np.intp], bool]]:
    """Positions of each turn of a rank, and whether they count: the last turn may find no more."""
    stride = at_once * ranks.world
    for start in range(ranks.rank * at_once, -(-count // stride) * stride, stride):
        if start < count:
            yield np.arange(start, min(start + at_once, count)), True
        else:
            yield np.arange(min(at_once, count)), False
