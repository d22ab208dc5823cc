"""Tensors of a checkpoint that lie on several ranks: each writes its shards, any number reads them.

torch's distributed checkpoints in safetensors form, so nothing has to be unpickled.
"""

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from imagemill.train.checkpoint import WHOLE, Tensors
from imagemill.train.ranks import own_part


def write_shards(folder: Path, tensors: Tensors) -> None:
    """Write what of the tensors lies on this rank; the work of all ranks together.

    Args:
        folder: The same on all ranks.
        tensors: Sharded ones, and others that are equal on all ranks.
    """
    # A second of imports that only sharded training has to pay.
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read_tensors(folder: Path, like: Tensors) -> Tensors:
    """What `write_whole` or `write_shards` wrote, whole or sharded as in `like`.

    Args:
        folder: Of a checkpoint.
        like: The state of this training by name. An optimiser that has not stepped has none yet:
            its values are sharded as the parameter they belong to.
    """
    is_sharded = any(own_part(value) is not value for value in like.values())
    if (folder / WHOLE).is_file() and not is_sharded:
        return load_file(folder / WHOLE)
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors: Tensors = {}
    for name, entry in stored.items():
        assert isinstance(entry, TensorStorageMetadata), "safetensors hold nothing else"
        found = torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
        tensors[name] = _empty(name, found, like)
    with warnings.catch_warnings():
        # Each rank reads for itself, which torch takes for a mistake.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return tensors


def _empty(name: str, stored: Tensor, like: Tensors) -> Tensor:
    """A tensor to read a stored one into."""
    if name in like:
        return torch.empty_like(like[name])
    kind, _, rest = name.partition(".")
    parameter = like.get(f"model.{rest.rpartition('.')[0]}") if kind == "optimizer" else None
    if parameter is not None and parameter.shape == stored.shape:
        return torch.empty_like(parameter, dtype=stored.dtype)
    return torch.empty_like(stored, device="cpu")
