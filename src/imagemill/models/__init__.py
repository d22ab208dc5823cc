"""MODELS: networks by name, and how they are built, saved, measured and opened again.

Every model takes float32 images [B, C, H, W] in 0..1, normalises them itself with the statistics
of train, and returns logits [B, K]; while training `split_outputs` takes them apart.
"""

from imagemill.models.contract import (
    Arguments,
    Model,
    Outputs,
    PublishedWeights,
    Shape,
    split_outputs,
)
from imagemill.models.cost import count_macs, count_parameters
from imagemill.models.initialisation import INITIALISATIONS
from imagemill.models.saved import check_file, fit_to_shapes, load_model, read_card, save_weights
from imagemill.models.shortcut import restore_shortcuts, write_shortcuts
from imagemill.models.table import (
    MODELS,
    build_model,
    check_architecture,
    check_prunable,
    model_named,
)

__all__ = [
    "INITIALISATIONS",
    "MODELS",
    "Arguments",
    "Model",
    "Outputs",
    "PublishedWeights",
    "Shape",
    "build_model",
    "check_architecture",
    "check_file",
    "check_prunable",
    "count_macs",
    "count_parameters",
    "fit_to_shapes",
    "load_model",
    "model_named",
    "read_card",
    "restore_shortcuts",
    "save_weights",
    "split_outputs",
    "write_shortcuts",
]
