"""Training on several processes and machines."""

from typing import Self

from pydantic import Field, model_validator

from imagemill.params.section import Positive, Section


class NodesParams(Section):
    """Machines that train together; each runs the same command with its own `data/`."""

    minimum: Positive = Field(description="Training goes on while so many are there.")
    maximum: Positive = Field(description="No more take part.")
    rendezvous: str = Field(
        pattern=r"^[^:\s]+:\d+$", description="HOST:PORT of the first machine, where all meet."
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
        description="Updates by others a gradient may be behind, before its process waits for the "
        "slower ones; null: any number.",
    )
