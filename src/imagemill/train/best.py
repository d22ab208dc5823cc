"""The best epoch on val so far, and whether it is time to stop."""

from imagemill.params import EarlyStoppingParams


class Best:
    """Keeps count of looks at val, each at the end of an epoch.

    Args:
        settings: When to stop; None: never.
    """

    def __init__(self, settings: EarlyStoppingParams | None) -> None:
        self._settings = settings
        self.top1: float | None = None
        self.step: int | None = None
        self.stale = 0  # looks since one that gained

    def take(self, top1: float, step: int) -> bool:
        """Count a look.

        Args:
            top1: On val.
            step: Steps taken at its end.

        Returns:
            Whether it is the best so far.
        """
        gain = self._settings.min_gain if self._settings else 0.0
        if self.top1 is None or top1 > self.top1 + gain:
            self.top1, self.step, self.stale = top1, step, 0
            return True
        self.stale += 1
        return False

    def resume(self, top1: float | None, best_step: int | None, stale: int) -> None:
        """Take up what a checkpoint says.

        Args:
            top1, best_step: Of the best epoch before it.
            stale: Looks since.
        """
        self.top1, self.step, self.stale = top1, best_step, stale

    @property
    def is_over(self) -> bool:
        """Whether training should stop."""
        return self._settings is not None and self.stale >= self._settings.patience
