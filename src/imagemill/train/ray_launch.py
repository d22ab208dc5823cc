"""`python -m imagemill.train.ray_launch JOB`: a training on the Ray cluster that is up.

The function each worker calls is the one torch.distributed.run's processes call. The job's folder,
and so the project, must lie where all machines of the cluster see it.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from imagemill.train.job import ERROR, STOPPED, Job

STOP, _STATE = "stop", "ray"
_TO_BE_RESUMED = 75


def train_worker(settings: dict[str, Any]) -> None:
    """What Ray Train calls on each worker.

    Raises:
        RuntimeError: the worker cannot go on; Ray starts the group again.
    """
    from imagemill.train.stopping import FileRequest
    from imagemill.train.worker import run_rank

    job = Job.read(Path(settings["job"]))
    status = run_rank(job, FileRequest(job.folder / STOP))
    if status == 1:
        raise RuntimeError(f"rank {os.environ['RANK']} failed; see its log")


def main(job_file: Path) -> int:
    """Train on the cluster; 0 done, 2 a mistake of the user's, 75 to be resumed, 1 otherwise."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    job = Job.read(job_file)
    (job.folder / STOP).unlink(missing_ok=True)

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        (job.folder / STOP).touch()

    try:
        ray.init(address="auto", runtime_env={"env_vars": _environment()})
    except ConnectionError:
        said = "train.launcher is ray, but no Ray cluster is up: `ray start --head` starts one"
        (job.folder / ERROR).write_text(said, encoding="utf-8")
        return 2
    # After ray.init, which has handlers of its own.
    signal.signal(signal.SIGTERM, ask_to_stop)
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # in Ray
    uses_gpus = job.train.device != "cpu" and there.get("GPU", 0) > 0
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": str(job_file)},
        torch_config=TorchConfig(backend="nccl" if uses_gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=job.train.processes,
            use_gpu=uses_gpus,
            resources_per_worker={"CPU": job.train.threads} | ({"GPU": 1} if uses_gpus else {}),
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(
            name=job.folder.name,
            storage_path=str(job.folder / _STATE),
            failure_config=FailureConfig(max_failures=job.train.restarts),
        ),
    )
    trainer.fit()
    if (job.folder / ERROR).is_file():
        return 2
    return _TO_BE_RESUMED if (job.folder / STOPPED).is_file() else 0


def _environment() -> dict[str, str]:
    """What workers must have as this process has it."""
    return {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
