"""Random changes of images, on disk and on the fly."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from imagemill.params.section import Fraction, Positive, Section, Seed


class OperationParams(Section):
    """One random operation of an augmentation policy."""

    operation: str = Field(description="A name in docs/augmentation.md.")
    probability: Fraction = Field(description="Chance that the operation is applied to an image.")
    alternate: bool | None = Field(
        default=None,
        description="Of the images it hits in one epoch none is hit in the next, and all others "
        "are: each is seen both ways (Jordan 2024). Needs probability 0.5; in augment.online only.",
    )
    range: tuple[float, float] | None = Field(
        default=None,
        description="Lowest and highest strength, drawn evenly, in the operation's unit; "
        "absent for operations without a strength (flips). random_resized_crop: share of the area.",
    )
    ratio: tuple[float, float] | None = Field(
        default=None, description="random_resized_crop: width over height, lowest and highest."
    )
    count: Positive | None = Field(
        default=None, description="rand_augment: operations an image gets."
    )
    magnitude: Annotated[int, Field(ge=0, le=30)] | None = Field(
        default=None, description="rand_augment: how strong they are, 0 to 30."
    )
    width: Positive | None = Field(default=None, description="augmix: number of chains.")
    depth: Positive | None = Field(default=None, description="augmix: operations a chain at most.")
    severity: Annotated[int, Field(ge=1, le=10)] | None = Field(
        default=None, description="augmix: how strong they are at most, 1 to 10."
    )
    alpha: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="mixup, cutmix: shares are Beta(alpha, alpha); augmix: of its weights. Large "
        "values mix evenly, small ones leave one image nearly alone.",
    )

    @model_validator(mode="after")
    def _low_before_high(self) -> Self:
        for name in ("range", "ratio"):
            pair = getattr(self, name)
            if pair is not None and pair[0] > pair[1]:
                raise ValueError(f"{name} must be [low, high], got {list(pair)}")
        if self.ratio is not None and self.ratio[0] <= 0:
            raise ValueError(f"ratio must be positive, got {list(self.ratio)}")
        return self

    @model_validator(mode="after")
    def _alternates_by_halves(self) -> Self:
        if self.alternate and self.probability != 0.5:
            raise ValueError(f"alternate needs probability 0.5, got {self.probability:g}")
        return self


class CopiesParams(Section):
    """How many offline copies of each training image are written: a number, or a mapping."""

    default: int = Field(ge=0, description="Copies of an image; 0 writes none.")
    classes: dict[str, Annotated[int, Field(ge=0)]] | None = Field(
        default=None, description="Other numbers for some classes, by name."
    )
    even_out: Positive | None = Field(
        default=None,
        description="Give smaller classes more copies, so that originals and copies together come "
        "to as many as those of the largest class; this many an image at most.",
    )

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_the_default(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"default": value}
        if not isinstance(value, Mapping | CopiesParams):
            raise ValueError(
                "must be a whole number, or a mapping such as {default: 1, classes: {rare: 4}}, "
                f"got {value!r}"
            )
        return value

    @property
    def most(self) -> int:
        """Copies an image can get."""
        return max(self.default, self.even_out or 0, *(self.classes or {}).values())


class AugmentParams(Section):
    """Augmentation: written to disk before training (offline) and drawn on the fly (online)."""

    seed: Seed = Field(description="Seed of all draws.")
    copies: CopiesParams = Field(
        description="Offline copies written per training image; 0 switches it off. "
        "Or {default: 1, classes: {rare: 4}}, or {default: 0, even_out: 4}."
    )
    offline: tuple[OperationParams, ...] = Field(
        description="Operations applied, in order, to each copy."
    )
    online: tuple[OperationParams, ...] = Field(
        description="Operations applied, in order, to each training image of each batch."
    )

    @model_validator(mode="after")
    def _copies_differ_from_originals(self) -> Self:
        if self.copies.most and not self.offline:
            raise ValueError("copies need at least one operation under offline")
        return self
