"""What is written down while a model trains."""

from pydantic import Field

from imagemill.params.section import Positive, Section


class WatchParams(Section):
    """TensorBoard files, norms and traces; images/s, memory and waiting are always measured."""

    tensorboard: bool = Field(description="Write event files below .imagemill/tensorboard.")
    norms_every: Positive | None = Field(
        description="Steps between measurements of gradient and activation norms; null: none."
    )
    profile_steps: Positive | None = Field(
        description="Write a torch profiler trace of so many steps; null: none."
    )
