"""Accuracy on a split while training runs, in the precision of training."""

import numpy as np
import torch
from torch import nn

from imagemill.loading import SplitImages
from imagemill.train.machine import Machine

_BATCH = 500


@torch.inference_mode()
def top1(model: nn.Module, images: SplitImages, machine: Machine) -> float:
    """Share of images whose class gets the largest logit; the model's mode is put back."""
    training = model.training
    model.eval()
    hits = 0
    for start in range(0, len(images), _BATCH):
        positions_B = np.arange(start, min(start + _BATCH, len(images)))
        pixels = torch.from_numpy(images.take(positions_B)).to(machine.device)
        images_BCHW = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
        with machine.autocast():
            logits_BK = model(images_BCHW)
        targets_B = torch.from_numpy(images.targets_N[positions_B]).to(machine.device)
        hits += int((logits_BK.argmax(1) == targets_B).sum())
    model.train(training)
    return hits / len(images)
