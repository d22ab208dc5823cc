"""From shards to arrays."""

from typing import Literal, Self

from pydantic import Field, model_validator

from imagemill.params.section import Positive, Section


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
