"""Training on several processes and machines."""

from typing import Self

from pydantic import Field, model_validator

from imagemill.params.section import Positive, Section


class NodesParams(Section):
    """Machines that train together, in a project folder that all of them share."""

    minimum: Positive = Field(description="Training goes on while so many are there.")
    maximum: Positive = Field(description="No more take part.")
    rendezvous: str = Field(
        pattern=r"^[^:\s]+:\d+$", description="HOST:PORT of the first machine, where all meet."
    )

    wait_seconds: float = Field(
        gt=0, description="When `minimum` are there, how long they wait for more."
    )

    @model_validator(mode="after")
    def _minimum_first(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum ({self.minimum}) is above maximum ({self.maximum})")
        return self


class AsynchronousParams(Section):
    """Each process sends its gradient when it has one and goes on with the weights it gets."""

    max_staleness: int | None = Field(
        ge=0,
        description="Steps a process may be ahead of the slowest before it waits (with s, a "
        "gradient is behind (processes - 1)(2s + 1) updates at most); null: any number.",
    )
