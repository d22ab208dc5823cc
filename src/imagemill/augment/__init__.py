"""OPERATIONS and policies: the same code for copies on disk and for batches in training."""

from imagemill.augment.operations import OPERATIONS, Operation
from imagemill.augment.policy import Drawn, Policy, compile_policy

__all__ = ["OPERATIONS", "Drawn", "Operation", "Policy", "compile_policy"]
