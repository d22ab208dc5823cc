"""An Optuna study in a file of the project."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.errors import ParamsError
from imagemill.params import RangeParams, SweepParams
from imagemill.records import STATE

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna import Trial
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial

STORAGE = STATE / "sweep.db"
COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
_FAILED = "failed"  # by itself, and why


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    number: From 0.
    state: complete, pruned or failed.
    val_top1: Of its last epoch; None: it failed before one was over.
    epochs: Finished.
    values: What was drawn.
    reason: Why it failed, in the training's own words.
    """

    number: int
    state: str
    val_top1: float | None
    epochs: int
    values: dict[str, Any]
    reason: str | None = None


class Draw:
    """A trial that is under way."""

    def __init__(self, trial: "Trial", settings: SweepParams) -> None:
        self.trial = trial
        self.number = trial.number
        self.values = {key: self._drawn(key, values) for key, values in settings.space.items()}

    def report(self, val_top1: float, epoch: int) -> bool:
        """Tell how it stands after an epoch; returns whether it should go on."""
        self.trial.report(val_top1, epoch)
        return not self.trial.should_prune()

    def _drawn(self, key: str, values: Any) -> Any:
        if not isinstance(values, RangeParams):
            return self.trial.suggest_categorical(key, values.choices)
        log = bool(values.log)
        if isinstance(values.low, int) and isinstance(values.high, int):
            return self.trial.suggest_int(key, values.low, values.high, log=log)
        return self.trial.suggest_float(key, values.low, values.high, log=log)


class Study:
    """Asks what to try next, and remembers what came of it.

    Args:
        root: The project's root.
        name: Of the study; one of this name that was stopped goes on.
        settings: The section `sweep`.

    Raises:
        ParamsError: Optuna is not installed.
    """

    def __init__(self, root: Path, name: str, settings: SweepParams) -> None:
        optuna = _optuna()
        self.name, self._settings = name, settings
        (root / STORAGE).parent.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{root / STORAGE}"
        self._study: OptunaStudy = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )
        # One seed would draw the first trials again when the study goes on.
        seed = settings.seed + len(self._study.trials)
        self._study.sampler = optuna.samplers.TPESampler(seed=seed)
        self._study.pruner = _pruner(settings)
        self._take_up()

    @property
    def remaining(self) -> int:
        """Trials that are still to be made."""
        return max(0, self._settings.trials - len(self.outcomes()))

    def draw(self) -> Draw:
        """The next trial."""
        return Draw(self._study.ask(), self._settings)

    def tell(self, draw: Draw, outcome: Outcome) -> None:
        """How a trial ended."""
        from optuna.trial import TrialState

        if outcome.state == FAILED:
            draw.trial.set_user_attr(_FAILED, outcome.reason)
        states = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}
        value = outcome.val_top1 if outcome.state == COMPLETE else None
        self._study.tell(draw.trial, value, state=states[outcome.state])

    def outcomes(self) -> list[Outcome]:
        """Trials that are over, in their order; those that were cut off are not."""
        return [_outcome(trial) for trial in self._study.trials if _is_over(trial)]

    def _take_up(self) -> None:
        """Try again what was under way when the study was stopped."""
        from optuna.trial import TrialState

        for trial in self._study.get_trials(states=[TrialState.RUNNING]):
            self._study.tell(trial.number, state=TrialState.FAIL)
            self._study.enqueue_trial(trial.params)


def _is_over(trial: "FrozenTrial") -> bool:
    """Optuna has one word for a trial that failed and one that was cut off."""
    return trial.state.name in ("COMPLETE", "PRUNED") or _FAILED in trial.user_attrs


def _outcome(trial: "FrozenTrial") -> Outcome:
    last = max(trial.intermediate_values, default=0)
    names = {"COMPLETE": COMPLETE, "PRUNED": PRUNED}
    return Outcome(
        number=trial.number,
        state=names.get(trial.state.name, FAILED),
        val_top1=trial.intermediate_values.get(last),
        epochs=last,
        values=dict(trial.params),
        reason=trial.user_attrs.get(_FAILED),
    )


def _pruner(settings: SweepParams) -> "BasePruner":
    from optuna import pruners

    if settings.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=settings.startup_trials)
    if settings.pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=settings.epochs)
    return pruners.NopPruner()


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise ParamsError(
            "a sweep needs Optuna: pip install 'imagemill[sweeps]' --constraint constraints.txt"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
