"""Training to review labels."""

from pydantic import Field

from imagemill.params.section import Positive, Section


class LabelReviewParams(Section):
    """Which labels a person should look at again."""

    enabled: bool = Field(
        description="Off: the stage writes an empty list. On: it trains `folds` times."
    )
    folds: int = Field(
        ge=2, le=100, description="Parts held out in turn; a model is trained without each."
    )
    epochs: Positive = Field(description="Passes of each of these trainings.")
    include_test: bool = Field(
        description="Look at test too; its images are never trained on. See docs/labels.md first."
    )
    pictures: Positive = Field(description="Suggestions shown on the page at most; all are listed.")
