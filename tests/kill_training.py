"""Kill training at random moments: `python tests/kill_training.py 20`.

So often on one process: SIGKILL at a random moment of a random step, while a checkpoint is written
after each. What goes on from there must end with the bits of a training that nobody killed. And as
often on 1, 2 or 4 ranks with `ddp`: all are killed after a random step, and 1, 2 or 4 others go on;
no sample may be missing or come twice in any epoch, and weights must be those of one process to
1e-5: float32 sums in another order.
"""

import os
import random
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from made_shards import make_shards
from rank_groups import killed_together, together
from strategy_runs import Ended, Run, run

from imagemill.train.ranks import Ranks

SETTINGS = {
    "epochs": 3,
    "batch_size": 7,
    "ema": {"decay": 0.9, "every": 2},
    "clip_norm": 1.0,
    "checkpoint_seconds": 1e-6,
}
STEPS = 27
RANKS = (1, 2, 4)


class Outcome(NamedTuple):
    """What a killed training ended with."""

    said: str
    missing: int
    duplicate: int
    difference: float  # the largest of a weight


def killed_alone(root: Path, expected: Ended, seed: int) -> Outcome:
    """One process; the difference has to be 0."""
    draw = random.Random(seed)
    step, inside = draw.randrange(1, STEPS), draw.random() * 0.01
    asked = _asked(root, "single", root / f"alone-{seed}")
    killed_together(1, root, run_until_killed, step, inside, asked)
    (ended,) = together(1, root, run_asked, asked)
    said = f"1 rank killed {inside * 1000:.1f} ms after step {step}"
    return _outcome(said, ended, expected)


def killed_ranks(root: Path, expected: Ended, seed: int) -> Outcome:
    """Ranks, all killed, and others that go on."""
    draw = random.Random(seed)
    before, after, step = draw.choice(RANKS), draw.choice(RANKS), draw.randrange(2, STEPS)
    asked = _asked(root, "ddp", root / f"ranks-{seed}")
    killed_together(before, root, run_until_killed, step, 0.0, asked)
    ended = together(after, root, run_asked, asked)[0]
    return _outcome(f"{before} ranks killed after step {step}, then {after}", ended, expected)


def run_until_killed(ranks: Ranks, step: int, seconds: float, asked: Run) -> None:
    """Train; SIGKILL to this process so long after a step."""

    def beat(done: int) -> None:
        if done == step and seconds:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        elif done == step:
            ranks.meet()  # or others would have an error first
            os.kill(os.getpid(), signal.SIGKILL)

    run(ranks, **asked, beat=beat)
    signal.pause()  # the training was over first


def run_asked(ranks: Ranks, asked: Run) -> Ended:
    """Train to the end."""
    return run(ranks, **asked)


def whole(root: Path) -> Ended:
    """What nobody kills."""
    return run(None, **_asked(root, "single", None))


def _asked(root: Path, strategy: str, checkpoints: Path | None) -> Run:
    return Run(root=root, strategy=strategy, checkpoints=checkpoints, **SETTINGS)


def _outcome(said: str, ended: Ended, expected: Ended) -> Outcome:
    return Outcome(
        f"{said}, on from step {ended.resumed_at} of {STEPS}",
        sum(account["missing"] for account in ended.accounts),
        sum(account["duplicate"] for account in ended.accounts),
        max(
            float((ended.weights[name] - value).abs().max())
            for name, value in expected.weights.items()
        ),
    )


def main(number: int) -> int:
    """So many of each kind, a line each; 1 if one was not as it has to be."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_shards(root)
        expected = whole(root)
        for kind, tolerance in ((killed_alone, 0.0), (killed_ranks, 1e-5)):
            for seed in range(number):
                got = kind(root, expected, seed)
                wrong += got.missing + got.duplicate > 0 or got.difference > tolerance
                print(
                    f"{got.said}: missing {got.missing}, duplicate {got.duplicate}, "
                    f"weights differ by {got.difference:.1g}",
                    flush=True,
                )
    print(f"{2 * number} killed trainings, {wrong} not as they have to be")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
