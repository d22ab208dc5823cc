"""What a version has to show before it becomes champion."""

from pydantic import Field

from imagemill.params.section import Fraction, Section


class PromoteParams(Section):
    """The policy of `imagemill promote`. A limit that is null is not asked for.

    A limit on something that was not measured refuses: what cannot be checked is no reason to
    trust.
    """

    min_gain: float = Field(
        ge=-1,
        le=1,
        description="Least gain of top-1 on val over the champion, as a fraction; a negative one "
        "is a loss that is accepted for a smaller or faster model.",
    )
    max_p: float = Field(
        gt=0,
        le=1,
        description="Largest p of the one-sided test that the gain is above min_gain; 1 asks for "
        "no significance.",
    )
    min_class_recall: Fraction | None = Field(
        description="Least recall of the worst class on val, a fraction."
    )
    max_ece: Fraction | None = Field(description="Largest calibration error on val, a fraction.")
    max_relative_corruption_error: float | None = Field(
        gt=0,
        description="Largest error over the common corruptions, relative to the base's (1 = same).",
    )
    max_latency_ms: float | None = Field(
        gt=0, description="Largest p50 at batch 1, milliseconds, in the runtime it ships in."
    )
    max_size_bytes: int | None = Field(
        gt=0, description="Largest size of the files its runtime loads, bytes."
    )
    wait_for_person: bool = Field(
        description="Whether a promotion waits in the Prefect UI until somebody agrees."
    )
    wait_seconds: int = Field(gt=0, description="Longest wait for that, seconds; then: refused.")
