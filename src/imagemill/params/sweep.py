"""A search over training's settings."""

from typing import Literal, Self

from pydantic import Field, model_validator

from imagemill.params.section import Positive, Section, Seed


class RangeParams(Section):
    """Numbers between two; whole ones if both are whole."""

    low: int | float = Field(description="The smallest.")
    high: int | float = Field(description="The largest.")
    log: bool | None = Field(
        default=None, description="Draw evenly over orders of magnitude; absent: over the numbers."
    )

    @model_validator(mode="after")
    def _low_first(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, got {self.low}")
        return self


class ChoicesParams(Section):
    """One of some values."""

    choices: tuple[bool | int | float | str | None, ...] = Field(
        min_length=1, description="The values."
    )


class SweepParams(Section):
    """A study: trainings whose settings are drawn, the hopeless ones ended early."""

    trials: Positive = Field(description="Trainings, those that are ended early included.")
    epochs: Positive = Field(description="train.epochs of a trial.")
    seed: Seed = Field(description="Seed of what is drawn.")
    pruner: Literal["median", "hyperband"] | None = Field(
        description="Ends a trial early: median, if its best val top-1 so far is below the median "
        "of the others at that epoch; hyperband, by successive halving; null: none."
    )
    startup_trials: Positive = Field(description="Trials the median pruner lets end first.")
    space: dict[str, RangeParams | ChoicesParams] = Field(
        min_length=1, description="Key of params.yaml, such as train.learning_rate -> its values."
    )

    @model_validator(mode="after")
    def _only_training(self) -> Self:
        for key in self.space:
            if not key.startswith("train."):
                raise ValueError(
                    f"{key!r} cannot be swept: only keys of the section train, such as "
                    "train.learning_rate, since a trial is a training and nothing before it"
                )
        return self
