"""Facts about stopping and going on: a few seeds of `python tests/kill_loader.py`."""

from pathlib import Path

import pytest
from kill_loader import killed, simulated


@pytest.mark.parametrize("seed", range(20))
def test_a_stopped_run_consumes_each_sample_once(seed: int) -> None:
    """Stopped anywhere and resumed on other ranks and workers: the batches of the whole run."""
    outcome = simulated(seed)
    assert outcome.is_exact, outcome.said


def test_killed_processes_are_gone_on_with_exactly(tmp_path: Path) -> None:
    """SIGKILL to all ranks in the middle of an epoch, other ranks and workers resume: exact."""
    outcome = killed(7, tmp_path)
    assert outcome.is_exact, outcome.said
