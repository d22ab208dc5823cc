"""What is found out about models, and where it is told."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from imagemill.params.section import NotNegative, Positive, Section, Seed

# Of a side: more than nothing, at most all of it.
Share = Annotated[float, Field(gt=0, le=1)]


class EvaluateParams(Section):
    """How quality and cost are measured."""

    views: tuple[Literal["identity", "mirror", "up", "down", "left", "right"], ...] = Field(
        min_length=1,
        description="Test-time views whose probabilities are averaged; shifts are a 32nd of "
        "the side, at least a pixel. [identity] is plain prediction. Latency counts all of them.",
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
    """What a model looks at, and whether the pictures of it mean anything."""

    variant: str = Field(description="base or a name in compress.variants: what is explained.")
    images: Positive = Field(description="Test images shown, and mistakes shown beside train.")
    judged_images: Positive = Field(
        description="Test images over which methods are judged, those shown among them."
    )
    seed: Seed = Field(description="Seed of all choices and random maps.")
    layers: tuple[str, ...] | None = Field(
        min_length=1,
        description="Layers whose feature maps are drawn; null: the first convolution.",
    )
    integration_steps: Positive = Field(
        ge=2, description="Points on the path of integrated gradients."
    )
    occlusion_window: Share = Field(description="Side of the covered patch, of the image's side.")
    occlusion_stride: Share = Field(description="Distance of the patches, of the image's side.")
    deletion_steps: Positive = Field(
        ge=2, description="Steps in which all pixels are deleted or inserted."
    )
    blur: Share = Field(
        description="Standard deviation of the blur insertion starts from, of the image's side."
    )
    random_maps: Positive = Field(description="Random maps an image that methods have to beat.")
    test_images: Positive = Field(
        ge=10, description="Test images among which to choose, and whose embeddings are looked at."
    )
    train_images: Positive = Field(
        ge=10, description="Train images for neighbours and surrogates, copies left out."
    )
    neighbours: Positive = Field(description="Nearest train images shown beside a mistake.")
    tree_depth: Positive = Field(description="Depth of the decision tree that imitates the net.")
    trees: Positive = Field(description="Trees of the random forest on the embeddings.")
    boosting_rounds: Positive | None = Field(
        description="Rounds of gradient boosting, a tree a class in each; null: leave it out."
    )

    @model_validator(mode="after")
    def _shown_are_judged(self) -> Self:
        if self.judged_images < self.images:
            raise ValueError(
                f"judged_images ({self.judged_images}) must be at least images ({self.images}): "
                "those shown are among those judged"
            )
        return self


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
