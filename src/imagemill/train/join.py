"""`python -m imagemill.train.join`: help with a training that another machine began.

Run in the project's folder, which all machines share, while the first machine's `train` stage runs.
"""

import sys
import time
from pathlib import Path

from imagemill.errors import ParamsError, TrainingError, UserError
from imagemill.params import Params, read_params
from imagemill.train.job import begun_job
from imagemill.train.launch import run_group

_POLL_SECONDS = 0.5


def join(root: Path, params: Params) -> int:
    """Start this machine's processes, and stay until they are done.

    Returns:
        The status of torch.distributed.run.

    Raises:
        ParamsError: the training is of one machine.
        TrainingError: no machine has begun it within `train.timeout_seconds`.
    """
    if params.train.nodes is None:
        raise ParamsError("train.nodes is not set: this training is of one machine")
    deadline = time.monotonic() + params.train.timeout_seconds
    while (job := begun_job(root, params)) is None:
        if time.monotonic() > deadline:
            raise TrainingError(
                f"no training with these settings has begun in {root}: start `train` on the first "
                "machine, in the folder that all machines share"
            )
        time.sleep(_POLL_SECONDS)
    return run_group(job, job.train.processes, lambda: None, _say)


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201  # this is a command


def main() -> int:
    """0 done, 2 a mistake of the user's, otherwise the status of torch.distributed.run."""
    root = Path.cwd()
    try:
        return join(root, read_params(root))
    except UserError as error:
        _say(str(error))
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
