"""Images on their way into shards: where they come from, how they are split and packed."""

from typing import Self

from pydantic import Field, model_validator

from imagemill.params.section import Positive, Section, Seed


class IngestParams(Section):
    """Where the raw images come from."""

    source: str = Field(
        min_length=1,
        description="A built-in name (digits, torchvision:NAME), or the path or address (s3://, "
        "http://) of a folder, an archive (.tar .tar.gz .tgz .zip), a table (.csv .parquet) or "
        "shards (train-{000..009}.tar). Relative paths start at the project's root.",
    )


class SplitParams(Section):
    """How images without a given split are assigned to train, val and test."""

    seed: Seed = Field(description="Seed of the assignment hash.")
    val_ratio: float = Field(
        gt=0, lt=1, description="Share of train held out as val where none is given."
    )
    test_ratio: float = Field(
        gt=0, lt=1, description="Share of all images held out as test where none is given."
    )
    drop_near_duplicates: bool = Field(
        description="Whether train images that nearly equal an image of a given test or val "
        "(and val images that nearly equal one of test) are left out."
    )

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Self:
        if self.val_ratio + self.test_ratio >= 1:
            raise ValueError(
                "val_ratio + test_ratio must stay below 1: nothing is left to train on"
            )
        return self


class ShardParams(Section):
    """How images are packed into WebDataset tars. A shard closes at whichever limit comes first."""

    max_images: Positive = Field(description="Images in one shard at most.")
    max_bytes: Positive = Field(description="Bytes of raw images in one shard at most.")
    max_side: Positive | None = Field(
        description="Images with a longer side are shrunk to it, pixels; null keeps all raw bytes."
    )
    strip_metadata: bool = Field(
        description="Take out what identifies people, places and cameras (EXIF, XMP, comments); "
        "pixels, orientation and colour profile stay."
    )
