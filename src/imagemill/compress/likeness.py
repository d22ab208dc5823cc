"""Distillation of features: images that look alike to the teacher shall look alike to the student.

Shapes: B batch, D E features, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagemill.models.parts import linear_head_of
from imagemill.train.losses import Teacher


@dataclass(frozen=True)
class FeatureTeacher(Teacher):
    """A teacher that compares features in front of both heads too.

    features: Weight of that part.
    seen: What the student's head was given last.
    """

    features: float = 0.0
    seen: list[Tensor] = field(default_factory=list)

    @contextmanager
    def watching(self, student: nn.Module) -> Iterator[None]:
        """Look at a student's features while inside."""

        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.seen[:] = inputs[:1]

        handle = linear_head_of(student)[1].register_forward_pre_hook(look)
        try:
            yield
        finally:
            handle.remove()

    def blend(self, losses_B: Tensor, logits_BK: Tensor, images_BCHW: Tensor) -> Tensor:
        """The labels', the logits' and the features' losses together, [B].

        Source: Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation": needs no layer
        between features of different widths. Ours takes the features before the head, and the mean
        over a row of squared differences.
        """
        guide_BE: list[Tensor] = []
        _, head = linear_head_of(self.model)
        handle = head.register_forward_pre_hook(lambda _, inputs: guide_BE.append(inputs[0]))
        try:
            blended_B = super().blend(losses_B, logits_BK, images_BCHW)
        finally:
            handle.remove()
        apart_B = unlikeness(self.seen[0], guide_BE[0].detach())
        return blended_B + self.features * apart_B


def unlikeness(student_BD: Tensor, teacher_BE: Tensor) -> Tensor:
    """How differently two nets say which images of a batch are alike, [B], 0 for the same.

    Rows of the matrices of products between images are brought to unit length and compared.
    """
    rows = []
    for features in (student_BD, teacher_BE):
        flat = features.flatten(1).float()
        rows.append(F.normalize(flat @ flat.T, dim=1))
    return torch.square(rows[0] - rows[1]).sum(1)
