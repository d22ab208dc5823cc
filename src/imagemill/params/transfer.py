"""Weights from elsewhere, few labels and no labels."""

from typing import Literal, Self

from pydantic import Field, model_validator

from imagemill.params.section import Fraction, Positive, Section


class TransferParams(Section):
    """What becomes of a body that was trained on something else; new classes get a new head."""

    mode: Literal["features", "finetune", "prototypes"] = Field(
        description="features: the body is frozen, its features are computed once and a linear "
        "head learns on them. finetune: everything learns. prototypes: the head compares with the "
        "mean feature of each class, nothing is trained."
    )
    body_rate: Fraction | None = Field(
        default=None, description="finetune: rate of the body's last layers relative to the head's."
    )
    layer_decay: Fraction | None = Field(
        default=None, description="finetune: factor of the rate from a block to the one before it."
    )
    unfreeze: Fraction | None = Field(
        default=None,
        description="finetune: share of all steps until the whole body learns; blocks join one by "
        "one from the last. Absent: all learn from the start.",
    )
    passes: Positive | None = Field(
        default=None,
        description="features: how often train is augmented anew to learn from; absent: images are "
        "taken as they are.",
    )
    images_per_class: Positive | None = Field(
        default=None, description="Few-shot: take so many images of each class of train."
    )

    @property
    def freezes(self) -> bool:
        """Whether parts of the body rest for a while in mode finetune, or always."""
        return bool(self.unfreeze) or self.body_rate == 0

    @model_validator(mode="after")
    def _rates_belong_to_finetune(self) -> Self:
        tuned = (self.body_rate, self.layer_decay, self.unfreeze)
        if self.mode == "finetune" and self.body_rate is None:
            raise ValueError(
                "mode finetune needs body_rate (1: the body learns as fast as the head)"
            )
        if self.mode != "finetune" and any(value is not None for value in tuned):
            raise ValueError("body_rate, layer_decay and unfreeze belong to mode finetune")
        if self.mode != "features" and self.passes is not None:
            raise ValueError("passes belong to mode features")
        return self


class PretrainParams(Section):
    """Contrastive learning on `unlabelled` and train: two views of an image agree.

    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning" (SimCLR).
    """

    epochs: Positive = Field(description="Passes over both splits.")
    batch_size: Positive = Field(description="Images of a step; each is seen twice.")
    learning_rate: float = Field(gt=0, description="Peak rate of the same optimiser and schedule.")
    temperature: float = Field(gt=0, description="Of the softmax over similarities.")
    projection: Positive = Field(description="Numbers in the projection that is compared.")
