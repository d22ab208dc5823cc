"""What a model costs: parameters and multiply-accumulates."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Learned and frozen weights, buffers (running statistics) left out."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image.

    Args:
        model: In evaluation mode; float32.
        input_shape: Channels, height, width.
    """
    training = model.training
    model.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *input_shape))
    model.train(training)
    return int(counter.get_total_flops()) // 2
