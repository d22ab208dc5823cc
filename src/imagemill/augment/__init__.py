"""OPERATIONS and policies: the same code for copies on disk and for batches in training."""

from imagemill.augment.crop import RandomResizedCrop
from imagemill.augment.layers import Drawn
from imagemill.augment.operations import OPERATIONS, Operation
from imagemill.augment.policy import Policy, compile_policy

__all__ = ["OPERATIONS", "Drawn", "Operation", "Policy", "RandomResizedCrop", "compile_policy"]
