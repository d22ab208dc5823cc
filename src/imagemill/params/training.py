"""The base model and how it is trained.

A section or number that may be left out, or be null, is off without it.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from imagemill.params.section import Fraction, Positive, Section, Seed
from imagemill.params.topology import AsynchronousParams, NodesParams
from imagemill.params.transfer import PretrainParams, TransferParams
from imagemill.params.watching import WatchParams


class EmaParams(Section):
    """An average of the weights over the last steps; it is what is judged and kept."""

    decay: float = Field(gt=0, lt=1, description="Weight of the old average at an update.")
    every: Positive = Field(description="Steps between updates.")


class EarlyStoppingParams(Section):
    """Stop when val does not get better, and keep the weights of the best epoch."""

    patience: Positive = Field(
        description="Looks at val (an epoch each, without validate_every) without a gain until "
        "training stops."
    )
    min_gain: Fraction = Field(description="Gain of val top-1 that counts as one.")


class ResolutionParams(Section):
    """From here on the net sees its images in another size: small ones first cost less."""

    start: Fraction = Field(description="Share of all steps that are over when it begins.")
    size: Positive = Field(description="Height and width, pixels; input_size at most.")


class SelectionParams(Section):
    """Learn from the hard images of a batch alone: the others cost no computation."""

    keep: Positive = Field(
        description="Images learned from in each group: those whose last loss was largest."
    )
    of: Positive = Field(description="Images of a group, neighbours in the order of training.")
    start: Fraction = Field(description="Share of all steps that are over when it begins.")
    end: Fraction = Field(description="Share of all steps that are over when it ends.")

    @model_validator(mode="after")
    def _something_is_left_out(self) -> Self:
        if self.keep >= self.of:
            raise ValueError(f"keep must be less than of, got {self.keep} of {self.of}")
        if self.start >= self.end:
            raise ValueError(f"start must be before end, got {self.start} and {self.end}")
        return self


class TrainParams(Section):
    """The base model and how it is trained."""

    model: str = Field(description="A name in imagemill.models.MODELS.")
    width: float | None = Field(
        default=None, gt=0, le=8, description="Width relative to the full form; absent: 1."
    )
    input_size: Positive = Field(description="Height and width the model sees, pixels.")
    resolutions: tuple[ResolutionParams, ...] | None = Field(
        default=None, description="Smaller sizes to begin with; absent: input_size throughout."
    )
    selection: SelectionParams | None = Field(
        default=None, description="Which images of a batch are learned from; absent: all."
    )
    dropout: Fraction | None = Field(
        default=None, description="Share of features dropped before the last layer."
    )
    stochastic_depth: Fraction | None = Field(
        default=None, description="Share of samples for which the last residual block is skipped."
    )
    initialisation: Literal["he", "xavier", "default"] = Field(
        description="Weights at the start: He, Xavier (Glorot), or torch's own."
    )
    init_from: str | None = Field(
        default=None,
        description="Start from stored weights: a safetensors file, models:/NAME@ALIAS, `champion` "
        "(of register.model_name, if there is one yet), or `published` weights of the model.",
    )
    transfer: TransferParams | None = Field(
        default=None, description="What becomes of the stored weights; absent: all are trained."
    )
    pretrain: PretrainParams | None = Field(
        default=None, description="Learn from images without labels first."
    )
    epochs: Positive = Field(description="Passes over train.")
    batch_size: Positive = Field(
        description="Global batch: images per optimiser step over all processes."
    )
    accumulate: Positive | None = Field(
        default=None, description="Parts a process computes its batch in, for less memory."
    )
    loss: Literal["cross_entropy", "mse"] = Field(description="mse: on softmax against one-hot.")
    label_smoothing: float = Field(
        ge=0, lt=1, description="Mass moved from the label to all classes."
    )
    optimizer: Literal["sgd", "nesterov", "adam", "adamw", "rmsprop", "muon"] = Field(
        description="muon: filters by Muon, everything else by Nesterov SGD."
    )
    learning_rate: float = Field(gt=0, description="Peak learning rate.")
    momentum: float = Field(ge=0, lt=1, description="Of sgd, nesterov, rmsprop and muon.")
    weight_decay: float = Field(
        ge=0, description="Decoupled for adamw and muon, L2 for the others."
    )
    norm_weight_decay: float | None = Field(
        default=None, ge=0, description="The same for norms and biases; absent: weight_decay."
    )
    l1: float | None = Field(
        default=None, gt=0, description="Weight of the sum of absolute weights in the loss."
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="Largest norm of the gradient; longer ones are shortened."
    )
    schedule: Literal["one_cycle", "cosine", "step", "constant"] = Field(
        description="After warming up: one_cycle falls linearly to 0, cosine on a half wave, step "
        "at `milestones`, constant stays."
    )
    warmup: Fraction = Field(description="Share of all steps in which the rate rises linearly.")
    milestones: tuple[Fraction, ...] | None = Field(
        default=None, description="Shares of all steps at which `step` divides the rate by ten."
    )
    ema: EmaParams | None = Field(default=None, description="Average of the weights.")
    validate_every: Positive | None = Field(
        default=None,
        description="Epochs from one look at val to the next; the last one is always "
        "looked at. Absent: 1.",
    )
    early_stopping: EarlyStoppingParams | None = Field(
        default=None, description="Stop when val no longer gains."
    )
    max_loss: float | None = Field(
        default=None, gt=0, description="A step's loss above this counts as exploded and stops."
    )
    seed: Seed = Field(description="Seed of initialisation and order.")
    strategy: Literal["single", "ddp", "fsdp", "parameter_server"] = Field(
        description="How processes come to the same weights: single (one process), ddp (all-reduce "
        "of gradients), fsdp (weights sharded), parameter_server (rank 0 keeps them)."
    )
    asynchronous: AsynchronousParams | None = Field(
        default=None, description="parameter_server: nobody waits; absent: synchronous."
    )
    processes: Positive = Field(description="Processes on each node.")
    nodes: NodesParams | None = Field(default=None, description="Several machines; absent: one.")
    launcher: Literal["torchrun", "ray"] = Field(
        description="torchrun: torch.distributed.run. ray: Ray Train, on a cluster that is up."
    )
    synchronise_norms: bool | None = Field(
        default=None,
        description="Batch norm over the global batch instead of each process's own part.",
    )
    threads: Positive = Field(description="CPU threads of each process.")
    device: Literal["auto", "cpu", "cuda"] = Field(description="auto: cuda where torch sees a GPU.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        description="Autocast type; auto: bfloat16 where the machine computes in it. float16 "
        "scales the loss."
    )
    channels_last: bool = Field(description="Memory layout NHWC for convolutions.")
    compile: bool | None = Field(
        default=None, description="Let torch.compile write the step; needs a C++ compiler."
    )
    keep_memory: bool = Field(
        description="Linux: let glibc keep freed memory instead of returning it at every step."
    )
    checkpoint_seconds: float = Field(gt=0, description="Time between checkpoints, seconds.")
    keep_checkpoints: Positive = Field(description="Newest checkpoints kept; the best one beside.")
    restarts: int = Field(
        ge=0, le=100, description="Times a group that lost a process starts again by itself."
    )
    timeout_seconds: float = Field(
        gt=0, description="A process that gets nowhere for so long hangs, and is named."
    )
    watch: WatchParams = Field(description="What is written down while it trains.")

    @model_validator(mode="after")
    def _loss_fits(self) -> Self:
        if self.loss == "mse" and self.label_smoothing:
            raise ValueError("label_smoothing belongs to cross_entropy; set it to 0 with mse")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if (self.schedule == "step") != (self.milestones is not None):
            raise ValueError("milestones belong to schedule: step, and it needs them")
        if self.milestones and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise, got {list(self.milestones)}")
        return self

    @model_validator(mode="after")
    def _topology_fits(self) -> Self:
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of processes ({self.processes})"
            )
        if self.strategy == "single" and (self.processes > 1 or self.nodes):
            raise ValueError(
                f"strategy single is one process, got processes: {self.processes}"
                f"{' and nodes' if self.nodes else ''}; choose ddp, fsdp or parameter_server"
            )
        if self.launcher == "ray" and self.nodes:
            raise ValueError("launcher ray knows its machines: leave nodes out")
        return self

    @model_validator(mode="after")
    def _strategy_fits(self) -> Self:
        if self.asynchronous and self.strategy != "parameter_server":
            raise ValueError("asynchronous belongs to strategy parameter_server")
        if self.asynchronous and self.synchronise_norms:
            raise ValueError(
                "synchronise_norms needs processes that wait for each other; leave "
                "asynchronous or synchronise_norms out"
            )
        if self.asynchronous and self.selection:
            raise ValueError(
                "selection needs processes that tell each other their losses at every step; leave "
                "asynchronous or selection out"
            )
        if self.precision == "float16" and self.strategy in ("fsdp", "parameter_server"):
            raise ValueError(
                f"float16 scales the loss by what all gradients say, which {self.strategy} does "
                "not put together; use bfloat16, or strategy ddp"
            )
        return self

    @model_validator(mode="after")
    def _resolutions_rise(self) -> Self:
        previous = None
        for stage in self.resolutions or ():
            if stage.size > self.input_size:
                raise ValueError(
                    f"a resolution of {stage.size} px is above input_size ({self.input_size})"
                )
            if previous is None and stage.start > 0:
                raise ValueError("the first of resolutions starts at 0")
            if previous is not None and stage.start <= previous:
                raise ValueError("the starts of resolutions must rise")
            previous = stage.start
        return self

    @model_validator(mode="after")
    def _weights_to_transfer(self) -> Self:
        if self.transfer and not (self.init_from or self.pretrain):
            raise ValueError("transfer needs weights: set init_from or pretrain")
        return self

    @model_validator(mode="after")
    def _transfer_fits(self) -> Self:
        if self.transfer is None or self.transfer.mode != "finetune":
            return self
        if self.optimizer == "muon":
            raise ValueError(
                "muon brings filters to a norm of its own, which undoes what a body has learned; "
                "choose another optimizer for mode finetune"
            )
        if self.transfer.freezes and self.strategy not in ("single", "ddp"):
            raise ValueError(
                f"unfreeze and body_rate: 0 work with strategy single or ddp, got {self.strategy}"
            )
        return self

    def changed(self, own: "OwnTrainParams | None") -> Self:
        """The same but for what a step of a chain sets anew.

        Raises:
            ValidationError: the two do not go together.
        """
        if own is None:
            return self
        keys = self.model_dump(exclude_unset=True) | own.model_dump(exclude_unset=True)
        return self.model_validate(keys)

    def validates_after(self, epoch: int, epochs: int) -> bool:
        """Whether val is looked at after an epoch, counted from 1, of so many."""
        return epoch % (self.validate_every or 1) == 0 or epoch == epochs

    def size_at(self, step: int, total_steps: int) -> int:
        """Height and width the net sees at a step, pixels."""
        size = self.input_size
        for stage in self.resolutions or ():
            if step >= stage.start * total_steps:
                size = stage.size
        return size


class OwnTrainParams(Section):
    """Keys of `train` that a step of a chain sets anew; what is absent stays as in `train`."""

    batch_size: Positive | None = Field(default=None, description="As train.batch_size.")
    label_smoothing: float | None = Field(default=None, description="As train.label_smoothing.")
    resolutions: tuple[ResolutionParams, ...] | None = Field(
        default=None, description="As train.resolutions; null: input_size throughout."
    )
    selection: SelectionParams | None = Field(
        default=None, description="As train.selection; null: all images."
    )
    optimizer: str | None = Field(default=None, description="As train.optimizer.")
    momentum: float | None = Field(default=None, description="As train.momentum.")
    weight_decay: float | None = Field(default=None, description="As train.weight_decay.")
    norm_weight_decay: float | None = Field(default=None, description="As train.norm_weight_decay.")
    clip_norm: float | None = Field(default=None, description="As train.clip_norm.")
    schedule: str | None = Field(default=None, description="As train.schedule.")
    warmup: Fraction | None = Field(default=None, description="As train.warmup.")
    milestones: tuple[Fraction, ...] | None = Field(
        default=None, description="As train.milestones."
    )
    ema: EmaParams | None = Field(default=None, description="As train.ema.")
