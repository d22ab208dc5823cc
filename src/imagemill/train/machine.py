"""What the machine can do for training, chosen once at the start of a process and said out loud."""

import ctypes
import os
import platform
from dataclasses import dataclass

import torch

from imagemill.params import TrainParams

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


@dataclass(frozen=True)
class Machine:
    """Where and how a process computes."""

    device: torch.device
    precision: torch.dtype
    channels_last: bool

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, self.precision, enabled=self.precision != torch.float32
        )

    def seed(self, number: int) -> None:
        """Of what layers draw, such as dropout. torch.manual_seed costs a hundred times as much."""
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index or 0].manual_seed(number)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        precision = str(self.precision).removeprefix("torch.")
        layout = "channels last" if self.channels_last else "channels first"
        return f"{self.device}, {precision}, {layout}, {torch.get_num_threads()} thread(s)"


def choose_machine(train: TrainParams, *, local_rank: int = 0) -> Machine:
    """Resolve train.device and train.precision on this machine and set its thread count.

    Args:
        train: device, precision, threads, channels_last.
        local_rank: Number of this process on its host; picks the GPU.
    """
    torch.set_num_threads(train.threads)
    use_cuda = train.device == "cuda" or (train.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(device)
    return Machine(device, _precision(train.precision, device), train.channels_last)


def _precision(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        wanted = "bfloat16" if computes_in_bfloat16(device) else "float32"
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return named[wanted]


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products run in hardware; emulated ones are slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, so that activations are not faulted in again at every step.

    Returns:
        Whether this C library has the switch (glibc on Linux).
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {_M_TRIM_THRESHOLD: 2**31 - 1, _M_MMAP_MAX: 0, _M_TOP_PAD: 64 * 2**20}
    return all(mallopt(name, value) for name, value in wanted.items())


def pin_to_core(local_rank: int, local_world: int) -> None:
    """Give each of several processes on a host its own share of the cores (Linux)."""
    if local_world == 1 or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    share = cores[
        local_rank * len(cores) // local_world : (local_rank + 1) * len(cores) // local_world
    ]
    if share:
        os.sched_setaffinity(0, share)
