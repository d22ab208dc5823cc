"""What a model costs: parameters and multiply-accumulates."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Learned and frozen weights, buffers (running statistics) left out."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image.

    Args:
        model: float32, on any device; on "meta" nothing is computed.
        input_shape: Channels, height, width.
    """
    training = model.training
    model.eval()
    image = torch.zeros(1, *input_shape, device=next(model.parameters()).device)
    with _attention_in_parts(), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(image)
    model.train(training)
    return int(counter.get_total_flops()) // 2


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """torch's fused attention hides its matrix products from the counter."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
