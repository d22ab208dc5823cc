"""Fine-tuning: rates by depth, and blocks that join in one by one from the head down.

What learns at a step is a pure function of the step, so a resumed training goes on as it would
have.
"""

import math

from torch import nn
from torch.optim import Optimizer

from imagemill.models.parts import blocks_of
from imagemill.params import TransferParams
from imagemill.train.optimizers import share_rates


class Thawing:
    """Says how fast each block of the body learns, and from when on.

    Args:
        model: Its parameters learn but for those that never do.
        transfer: Mode finetune.
        total_steps: Of the training.

    Source: Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification"
    (discriminative rates, gradual unfreezing); ours thaws by steps instead of epochs.
    """

    def __init__(self, model: nn.Module, transfer: TransferParams, total_steps: int) -> None:
        assert transfer.body_rate is not None, "params refuse finetune without it"
        self._model = model
        self._blocks = blocks_of(model)
        parameters = dict(model.named_parameters())
        self._learned = [
            [parameters[name] for name in block.parameters if parameters[name].requires_grad]
            for block in self._blocks
        ]
        decay = 1.0 if transfer.layer_decay is None else transfer.layer_decay
        count = len(self._blocks)
        depths = [count - 1 - number for number in range(count)]  # blocks between it and the head
        self.shares = [transfer.body_rate * decay**depth for depth in depths]
        span = (transfer.unfreeze or 0.0) * total_steps
        self.turns = [
            math.ceil(span * (depth + 1) / count) if share > 0 else total_steps
            for depth, share in zip(depths, self.shares, strict=True)
        ]

    def share_rates(self, optimizer: Optimizer) -> None:
        """Give an optimiser, before its first step, the rate of each block."""
        shares = {
            name: share
            for block, share in zip(self._blocks, self.shares, strict=True)
            for name in block.parameters
        }
        share_rates(optimizer, self._model, shares)

    def before(self, step: int) -> None:
        """Let learn what learns at a step, and rest what rests.

        A block at rest is as in evaluation: its running statistics stay, and no gradient is
        computed for it.
        """
        for block, learned, turn in zip(self._blocks, self._learned, self.turns, strict=True):
            awake = step >= turn
            for parameter in learned:
                parameter.requires_grad_(awake)
            for module in block.modules:
                if module.training != awake:
                    module.train(awake)
