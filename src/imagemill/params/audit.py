"""What makes an image unfit for training: the checks, their thresholds, and what each does."""

from typing import Literal, Self

from pydantic import Field, model_validator

from imagemill.params.section import Fraction, Positive, Section


class CheckParams(Section):
    """What an audit check does with an image it finds."""

    action: Literal["warn", "quarantine", "fail"] = Field(
        description="warn: listed in data/audit/warnings.parquet and kept; quarantine: left out; "
        "fail: the run stops."
    )


class StrictCheckParams(Section):
    """A check whose images cannot stay."""

    action: Literal["quarantine", "fail"] = Field(
        description="quarantine: left out; fail: the run stops."
    )


class SizeParams(CheckParams):
    """Images that are very small or very large."""

    min_side: Positive = Field(description="Least width and height, pixels.")
    max_side: Positive = Field(description="Greatest width and height, pixels.")

    @model_validator(mode="after")
    def _something_is_between(self) -> Self:
        if self.min_side > self.max_side:
            raise ValueError(
                f"min_side ({self.min_side}) must not be above max_side ({self.max_side})"
            )
        return self


class AspectParams(CheckParams):
    """Images that are very wide or very high."""

    max_ratio: float = Field(ge=1, description="Longer side over shorter side, at most.")


class ModeParams(CheckParams):
    """Ways of storing pixels that hint at something odd, though all of them can be read."""

    unexpected: tuple[
        Literal["grey", "palette", "alpha", "cmyk", "sixteen_bit", "animated"], ...
    ] = Field(description="The ways that are found by this check.")


class BlurParams(CheckParams):
    """Images without a sharp edge; 64 pixels and more on the shorter side."""

    min_sharpness: Fraction = Field(
        description="Least value of the Laplacian's 99th percentile at 256 pixels, 0 to 1."
    )


class DarkParams(CheckParams):
    """Images without a bright spot."""

    min_highlight: Fraction = Field(
        description="Least brightness of the 99th percentile of the pixels, 0 to 1."
    )


class BrightParams(CheckParams):
    """Images without a dark spot."""

    max_shadow: Fraction = Field(
        description="Greatest brightness of the 5th percentile of the pixels, 0 to 1."
    )


class InformationParams(CheckParams):
    """Images of next to one brightness."""

    min_entropy: float = Field(ge=0, le=8, description="Least entropy of the brightness, bits.")


class NearDuplicateParams(CheckParams):
    """Images that differ in size, compression or a slight crop only."""

    min_side: int = Field(
        ge=64, description="Images with a shorter side below this (pixels) are not compared."
    )
    max_distance: int = Field(
        ge=0, le=16, description="Bits of the 64-bit perceptual hash that may differ."
    )
    max_colour: Fraction = Field(
        description="Greatest mean difference of the colours of a 4x4 grid, 0 to 1."
    )


class WholeCheckParams(Section):
    """What a check of the data set as a whole does."""

    action: Literal["warn", "fail"] = Field(
        description="warn: told in data/audit/report.json; fail: the run stops."
    )


class BalanceParams(WholeCheckParams):
    """Classes of very different size."""

    max_ratio: float = Field(ge=1, description="Images of the largest class over the smallest.")


class VolumeParams(WholeCheckParams):
    """Classes of few images."""

    min_images: Positive = Field(description="Least number of images of a class.")


class DiversityParams(WholeCheckParams):
    """Classes whose images are all alike."""

    min_spread: float = Field(
        ge=0, description="Least root mean square distance of a class's descriptors to their mean."
    )


class ChecksParams(Section):
    """The checks of the audit: thresholds, and what each does."""

    unreadable: StrictCheckParams = Field(description="Empty, broken, cut off or far too large.")
    extension: CheckParams = Field(description="A file name that speaks of another format.")
    size: SizeParams
    aspect: AspectParams
    mode: ModeParams
    blur: BlurParams
    dark: DarkParams
    bright: BrightParams
    low_information: InformationParams
    identifying: CheckParams = Field(
        description="Metadata that lead to people or places: positions, serial numbers, names."
    )
    duplicate: CheckParams = Field(description="The same bytes as another image.")
    leak: StrictCheckParams = Field(description="The same bytes in two given splits.")
    label_conflict: CheckParams = Field(description="The same bytes under two labels.")
    near_duplicate: NearDuplicateParams
    near_leak: CheckParams = Field(description="Near duplicates in two given splits.")
    near_label_conflict: CheckParams = Field(description="Near duplicates under two labels.")
    group_leak: CheckParams = Field(description="A group in two given splits.")
    class_balance: BalanceParams
    class_volume: VolumeParams
    diversity: DiversityParams


class AuditParams(Section):
    """What makes an image unfit for training."""

    quarantine_budget: Fraction = Field(
        description="Largest fraction of images that may be quarantined before the run stops."
    )
    max_pixels: Positive = Field(
        description="Images with more pixels (width x height) are quarantined undecoded."
    )
    max_bytes: Positive = Field(description="Files larger than this (bytes) are quarantined.")
    decode_seconds: float = Field(gt=0, description="Time limit for decoding one image, seconds.")
    contact_sheet_images: Positive = Field(
        description="Number of images on the contact sheet, spread over the classes."
    )
    checks: ChecksParams = Field(description="What is looked for, and what happens then.")
