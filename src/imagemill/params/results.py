"""What is found out about models, and where it is told."""

from typing import Literal

from pydantic import Field

from imagemill.params.section import NotNegative, Positive, Section, Seed


class EvaluateParams(Section):
    """How quality and cost are measured."""

    views: tuple[Literal["identity", "mirror", "up", "down", "left", "right"], ...] = Field(
        min_length=1,
        description="Test-time views whose probabilities are averaged; shifts are one pixel. "
        "[identity] is plain prediction. Latency counts all of them.",
    )
    calibration_bins: Positive = Field(description="Equal-width confidence bins of ECE.")
    threads: Positive = Field(description="Threads of every runtime while it is timed.")
    latency_rounds: Positive = Field(description="Single-image calls timed per variant.")
    throughput_batch: Positive = Field(description="Batch size of the throughput figure.")
    throughput_rounds: Positive = Field(description="Batches timed per variant.")
    corruption_images: NotNegative = Field(
        description="Images of val shown under 15 common corruptions in 5 severities; 0: none."
    )
    slices: tuple[str, ...] = Field(
        description="Columns that test is cut by: group, extension, size_bytes, review, width, "
        "height, mode, format, brightness, contrast, pixels, aspect, annotation.<key>."
    )
    shift: str | None = Field(
        description="A source of other images of the same classes, as `ingest.source` names one; "
        "null: none. Its content is on record by digest, not watched by DVC."
    )
    out_of_distribution: str | None = Field(
        description="A source of images of none of the classes; null: none."
    )
    outside_images: Positive = Field(description="Images taken of either at most.")


class ExplainParams(Section):
    """Pictures of what the base model looks at."""

    images: Positive = Field(description="Number of test images shown.")
    seed: Seed = Field(description="Seed of their choice.")


class RegisterParams(Section):
    """Where runs and versions go."""

    model_name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Registered model.")
    experiment: str = Field(min_length=1, description="MLflow experiment.")
    tracking_uri: str = Field(
        min_length=1,
        description="sqlite:///<file> (from the project's root), postgresql://... or http(s)://...",
    )


class ReportParams(Section):
    """The one-page report."""

    title: str = Field(min_length=1, description="Heading of the page.")
