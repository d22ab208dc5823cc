"""Stored weights into a network: the body whole or not at all, the head as far as classes agree.

Shapes: K classes, D features.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from imagemill.errors import IntegrityError
from imagemill.models.parts import head_of
from imagemill.records import Start, sha256_of_file

_MOST_NAMED = 5
_MEAN, _SCALE = "0.mean", "0.scale"

Tensors = dict[str, Tensor]


def put_weights(model: nn.Module, file: Path, start: Start, classes: Sequence[str]) -> list[str]:
    """Put stored weights, their normalisation among them, into a network.

    The rows of the head are taken over for classes of the same name; those of other classes stay
    as they are, and all do where the file's classes are not known. The filters of a network for
    colour are summed up for one that sees grey.

    Args:
        model: `build_model`'s Sequential(normalise, network); changed in place.
        file: A safetensors file in the names of its state dict.
        start: What is told of the file: its digest and its classes.
        classes: Of the network, K names.

    Returns:
        What was not simply taken over, a sentence each.

    Raises:
        IntegrityError: the file cannot be read, is not the one that was meant, or its body does
            not fit.
    """
    tensors, told = _read(file, start.sha256), []
    ours = model.state_dict()
    # Counters of batches that early files lack; nothing is computed from them.
    tensors |= {
        name: value
        for name, value in ours.items()
        if name.endswith("num_batches_tracked") and name not in tensors
    }
    stem = _stem_of(model)
    if _is_colour_for_grey(tensors.get(stem), ours[stem]):
        _sum_colours(tensors, stem)
        told.append(f"the filters of {stem} are summed over red, green and blue: images are grey")
    told += _fit_heads(tensors, ours, head_of(model), start.classes, classes)
    _check_fit(tensors, ours, file)
    model.load_state_dict(tensors)
    return told


def _read(file: Path, sha256: str | None) -> Tensors:
    try:
        if sha256 is not None and sha256_of_file(file) != sha256:
            raise IntegrityError(
                f"train.init_from: {file} has changed since the training was prepared; run it again"
            )
        tensors: Tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise IntegrityError(f"train.init_from: {file} cannot be read: {error}") from None
    return tensors


def _stem_of(model: nn.Module) -> str:
    """Name of the weights that meet the image first."""
    return next(
        f"{name}.weight"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    )


def _is_colour_for_grey(stored: Tensor | None, ours: Tensor) -> bool:
    if stored is None or stored.ndim != 4:
        return False
    return stored.shape[1] == 3 and ours.shape[1] == 1


def _sum_colours(tensors: Tensors, stem: str) -> None:
    """The same response to grey as to grey in three equal channels.

    Exact where the three are normalised alike; with statistics of their own, their means take
    their place.
    """
    scale_1C11 = tensors.get(_SCALE, torch.ones(1, 3, 1, 1))
    mean = scale_1C11.mean(1, keepdim=True)
    tensors[stem] = (tensors[stem] * (scale_1C11 / mean)).sum(1, keepdim=True)
    for name in (_MEAN, _SCALE):
        if name in tensors:
            tensors[name] = tensors[name].mean(1, keepdim=True)


def _fit_heads(
    tensors: Tensors,
    ours: Mapping[str, Tensor],
    head: str,
    theirs: Sequence[str] | None,
    classes: Sequence[str],
) -> list[str]:
    """Give the stored head our classes; heads that only training uses become new with it."""
    if theirs is not None and list(theirs) == list(classes):
        return []
    own = [name for name in ours if name.startswith(f"{head}.")]
    stored = tensors.get(f"{head}.weight")
    rows = [] if theirs is None else _shared(theirs, classes)
    for name in own:
        made = ours[name].clone()
        old = tensors.get(name)
        if rows and old is not None and old.shape[1:] == made.shape[1:]:
            new, before = map(list, zip(*rows, strict=True))
            made[new] = old[before]
        if not rows or old is None or old.shape[1:] == made.shape[1:]:
            tensors[name] = made
    if stored is not None:
        _renew_second_heads(tensors, ours, {*own}, len(stored), len(classes))
    if not rows:
        return ["the head is new"]
    return [f"the head keeps the rows of {len(rows)} of {len(classes)} classes, the others are new"]


def _shared(theirs: Sequence[str], classes: Sequence[str]) -> list[tuple[int, int]]:
    """(our id, their id) of each class both have."""
    known = {name: number for number, name in enumerate(theirs)}
    return [(number, known[name]) for number, name in enumerate(classes) if name in known]


def _renew_second_heads(
    tensors: Tensors, ours: Mapping[str, Tensor], own: set[str], before: int, now: int
) -> None:
    for name, value in ours.items():
        stored = tensors.get(name)
        if name in own or stored is None or stored.shape == value.shape or not stored.ndim:
            continue
        is_by_class = stored.shape[0] == before and value.shape[0] == now
        if is_by_class and stored.shape[1:] == value.shape[1:]:
            tensors[name] = value.clone()


def _check_fit(tensors: Tensors, ours: Mapping[str, Tensor], file: Path) -> None:
    wrong = [f"{name} is missing" for name in ours if name not in tensors]
    wrong += [f"{name} has no place" for name in tensors if name not in ours]
    wrong += [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
        for name, value in ours.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if wrong:
        more = f", and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise IntegrityError(
            f"train.init_from: {file} does not fit train.model and train.input_size: "
            f"{', '.join(wrong[:_MOST_NAMED])}{more}"
        )
