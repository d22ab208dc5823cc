"""A few steps under torch's profiler, as a trace Chrome (chrome://tracing) and Perfetto read."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

WARM_UP_STEPS = 5


class Trace:
    """Records steps.

    Args:
        path: The trace, JSON.
        device: Where training computes.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self._path = path
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(activities=activities, record_shapes=True)
        self._profiler.start()

    def close(self) -> Path:
        """Stop, and write what was recorded."""
        self._profiler.stop()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}")
        self._profiler.export_chrome_trace(str(temporary))
        temporary.replace(self._path)
        return self._path
