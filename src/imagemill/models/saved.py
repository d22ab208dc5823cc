"""Models on disk: safetensors beside a model.json, opened again without pickle."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from imagemill.errors import IntegrityError
from imagemill.models.low_rank import fit_to_ranks
from imagemill.models.shortcut import fit_to_shortcuts
from imagemill.models.table import build_model
from imagemill.records import ModelCard, sha256_of_file, write_bytes

WEIGHTS = "model.safetensors"
CARD = "model.json"

Shapes = Mapping[str, Sequence[int]]


def save_weights(path: Path, model: nn.Module) -> None:
    """Write parameters and buffers as safetensors, whole or not at all; same in, same out."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    write_bytes(path, save(tensors))


def read_card(folder: Path) -> ModelCard:
    """The model.json of a model's folder.

    Raises:
        IntegrityError: it is missing or damaged.
    """
    return ModelCard.read(folder / CARD)


def load_model(folder: Path) -> tuple[nn.Module, ModelCard]:
    """Open the float32 form of a saved model, in evaluation mode.

    Channels removed by pruning are recognised by the shapes of the stored tensors.

    Raises:
        IntegrityError: a file is missing, or its bytes are not those on record.
    """
    card = read_card(folder)
    path = folder / WEIGHTS
    check_file(path, card.files.get(WEIGHTS))
    tensors = load_file(path)
    channels = card.input_shape[0]
    model = build_model(
        card.architecture,
        input_shape=card.input_shape,
        num_classes=len(card.classes),
        mean=[0.0] * channels,  # the stored tensors hold the real ones
        std=[1.0] * channels,
    )
    fit_to_shapes(model, {name: value.shape for name, value in tensors.items()})
    model.load_state_dict(tensors)
    return model.eval(), card


def check_file(path: Path, expected_sha256: str | None) -> None:
    """Refuse a file that is not the one on record.

    Raises:
        IntegrityError: missing, unlisted or different.
    """
    if expected_sha256 is None:
        raise IntegrityError(f"{path.parent / CARD} lists no {path.name}")
    if not path.is_file():
        raise IntegrityError(f"{path} is missing; `dvc repro` or `dvc pull` brings it back")
    actual = sha256_of_file(path)
    if actual != expected_sha256:
        raise IntegrityError(
            f"{path} has sha256 {actual[:12]}, {CARD} says {expected_sha256[:12]}: refused. "
            "Make it again with `dvc repro` or take it from the cache with `dvc checkout`"
        )


def fit_to_shapes(model: nn.Module, shapes: Shapes) -> None:
    """Shrink convolutions, norms and linear layers in place to the given tensor shapes, split
    those that were stored as two, and write shortcuts that were stored with weights.

    Args:
        model: A freshly built net in its full width.
        shapes: State-dict name -> shape.
    """
    fit_to_shortcuts(model, shapes)
    fit_to_ranks(model, shapes)
    for name, layer in model.named_modules():
        shape = shapes.get(f"{name}.weight")
        weight = getattr(layer, "weight", None)
        if shape is None or weight is None or tuple(weight.shape) == tuple(shape):
            continue
        _resize(layer, shape)


def _resize(layer: nn.Module, shape: Sequence[int]) -> None:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    layer.weight = nn.Parameter(torch.empty(tuple(shape)), requires_grad=weight.requires_grad)
    if isinstance(bias, Tensor):
        layer.bias = nn.Parameter(torch.empty(shape[0]))
    if isinstance(layer, nn.Conv2d):
        if layer.groups == layer.in_channels > 1:  # each channel has filters of its own
            layer.groups = shape[0] * layer.groups // layer.out_channels
        layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape[0], shape[1]
    elif isinstance(layer, nn.BatchNorm2d):
        layer.num_features = shape[0]
        layer.running_mean = torch.zeros(shape[0])
        layer.running_var = torch.ones(shape[0])
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(shape)
