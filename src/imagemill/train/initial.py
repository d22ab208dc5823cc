"""Networks before their first step."""

import numpy as np
import torch
from torch import nn

from imagemill.errors import ParamsError
from imagemill.loading import SplitImages, to_input
from imagemill.models import INITIALISATIONS, build_model
from imagemill.models.fast import FastCifar
from imagemill.params import TrainParams
from imagemill.records import Architecture, ShardManifest

_WHITENING_IMAGES = 5000


def initial_model(
    architecture: Architecture,
    images: SplitImages,
    data: ShardManifest,
    train: TrainParams,
) -> nn.Sequential:
    """A network ready to be trained: the same for the same seed, on any rank.

    Args:
        architecture: Name and width.
        images: The train split; gives the input shape, and whitening its patches.
        data: Classes and pixel statistics.
        train: Seed and initialisation.

    Raises:
        UnknownNameError: no such model.
        InputSizeError: the images are smaller than the model can take.
        ParamsError: the model cannot take one of train.resolutions.
    """
    torch.manual_seed(train.seed)
    model = build_model(
        architecture,
        input_shape=images.input_shape,
        num_classes=len(data.classes),
        mean=data.pixel_mean,
        std=data.pixel_std,
    )
    INITIALISATIONS[train.initialisation](model)
    _whiten(model, images)
    _try_sizes(model, images, train)
    return model


def _try_sizes(model: nn.Sequential, images: SplitImages, train: TrainParams) -> None:
    """A net with a head for one size of features cannot see smaller images first."""
    channels = images.input_shape[0]
    model.eval()
    for stage in train.resolutions or ():
        try:
            with torch.inference_mode():
                model(torch.zeros(1, channels, stage.size, stage.size))
        except RuntimeError:
            raise ParamsError(
                f"train.resolutions: {train.model} cannot take images of {stage.size} px when it "
                f"was built for {images.input_shape[1]} px; choose a model that pools globally, "
                "such as fast_cifar or resnet20, or leave resolutions out"
            ) from None
    model.train()


def _whiten(model: nn.Sequential, images: SplitImages) -> None:
    """Let a network that wants to see data before training see some of train."""
    normalise, network = model
    if isinstance(network, FastCifar):
        count = min(len(images), _WHITENING_IMAGES)
        positions = np.linspace(0, len(images) - 1, count).astype(np.intp)
        network.whiten(normalise(torch.from_numpy(to_input(images.take(positions)))))
