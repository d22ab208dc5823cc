"""From shards to a model: loading, training, and training to review labels."""

from typing import Literal, Self

from pydantic import Field, model_validator

from imagemill.params.section import Fraction, Positive, Section, Seed


class LoadingParams(Section):
    """From shards to arrays."""

    resize: Literal["antialias", "linear", "reduced"] = Field(
        description="Kernel that brings images to train.input_size, each another training input: "
        "antialias (averages under a triangle), reduced (faster: halves, then interpolates) or "
        "linear (interpolates, aliases when shrinking)."
    )
    decoder: Literal["cpu", "nvjpeg"] = Field(
        description="nvjpeg: in training on a CUDA device JPEGs are decoded there, and differ by a "
        "few levels; elsewhere, and for all other images, cpu."
    )
    cache_bytes: int = Field(
        ge=0,
        description="Decoded uint8 images of a split are kept in .imagemill/ and mapped to memory "
        "if they need no more than this; larger splits are decoded on the fly.",
    )
    workers: int = Field(
        ge=0,
        le=64,
        description="Decoding processes of each training process; 0: it decodes itself. Results do "
        "not depend on it, and a split in the decoded cache needs none.",
    )
    stall_seconds: float = Field(
        gt=0,
        description="A decoding process or a download that gets nowhere for so long is given up.",
    )
    ledger: bool = Field(
        description="Count what every epoch consumes and stop if an image is missing or doubled."
    )
    layout: Literal["local", "streaming"] = Field(
        description="local: shards in data/. streaming: shards fetched from `remote` when needed."
    )
    remote: str | None = Field(
        description="Streaming: a folder or address (s3://, https://) with a copy of data/; null "
        "in the local layout."
    )
    stream_cache_bytes: Positive = Field(
        description="Streaming: bytes of shards kept in .imagemill/stream at most."
    )
    window_shards: Positive = Field(
        description="Streaming: number of shards an epoch mixes with one another at a time."
    )

    @model_validator(mode="after")
    def _streams_from_somewhere(self) -> Self:
        if self.layout == "streaming" and not self.remote:
            raise ValueError("layout: streaming needs remote, the folder or address of the shards")
        return self

    @property
    def order(self) -> str:
        """What the order of training depends on beside seed and samples."""
        return "all" if self.layout == "local" else f"window of {self.window_shards} shards"


class TrainParams(Section):
    """The base model and how it is trained."""

    model: str = Field(description="A name in imagemill.models.MODELS.")
    input_size: Positive = Field(description="Height and width the model sees, pixels.")
    initialisation: Literal["he", "xavier", "default"] = Field(
        description="Weights at the start: He, Xavier (Glorot), or torch's own."
    )
    init_from: str | None = Field(
        default=None, description="A safetensors file to start from instead of random weights."
    )
    epochs: Positive = Field(description="Passes over train.")
    batch_size: Positive = Field(
        description="Global batch: images per optimiser step over all processes."
    )
    loss: Literal["cross_entropy", "mse"] = Field(description="mse: on softmax against one-hot.")
    label_smoothing: float = Field(
        ge=0, lt=1, description="Mass moved from the label to all classes."
    )
    optimizer: Literal["sgd", "nesterov", "adam", "adamw", "muon"] = Field(
        description="muon: filters by Muon, everything else by Nesterov SGD."
    )
    learning_rate: float = Field(gt=0, description="Peak learning rate.")
    momentum: float = Field(ge=0, lt=1, description="Momentum of sgd, nesterov and muon.")
    weight_decay: float = Field(
        ge=0, description="Decoupled for adamw and muon, L2 for the others."
    )
    schedule: Literal["one_cycle", "constant"] = Field(
        description="one_cycle: linear up over warmup, then linear down to 0."
    )
    warmup: Fraction = Field(description="Share of all steps spent warming up (one_cycle).")
    seed: Seed = Field(description="Seed of initialisation and order.")
    processes: Positive = Field(description="Processes of torch.distributed.run.")
    threads: Positive = Field(description="CPU threads of each process.")
    device: Literal["auto", "cpu", "cuda"] = Field(description="auto: cuda where torch sees a GPU.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        description="Autocast type; auto: bfloat16 where the machine computes in it."
    )
    channels_last: bool = Field(description="Memory layout NHWC for convolutions.")
    keep_memory: bool = Field(
        description="Linux: let glibc keep freed memory instead of returning it at every step."
    )
    checkpoint_seconds: float = Field(gt=0, description="Time between checkpoints, seconds.")

    @model_validator(mode="after")
    def _processes_share_the_batch(self) -> Self:
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of processes ({self.processes})"
            )
        if self.loss == "mse" and self.label_smoothing:
            raise ValueError("label_smoothing belongs to cross_entropy; set it to 0 with mse")
        return self


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
