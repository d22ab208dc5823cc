"""What is told to the MLflow store and asked of it, without mlflow."""

from dataclasses import dataclass
from typing import Literal

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

_SHOWN_DIGEST = 36  # characters MLflow has room for


@dataclass(frozen=True)
class Point:
    """One value of one metric."""

    name: str
    value: float
    step: int


@dataclass(frozen=True)
class DataSet:
    """What MLflow is told about the data."""

    name: str
    digest: str  # sha256
    source: str

    @property
    def short_digest(self) -> str:
        """As much of the digest as MLflow stores; the tag `data_digest` has all of it."""
        return self.digest[:_SHOWN_DIGEST]


@dataclass(frozen=True)
class Version:
    """One version of the registered model."""

    number: int
    run_id: str
    model_id: str
    tags: dict[str, str]
    location: str  # of its files: a local path or the address of an artifact store


@dataclass(frozen=True)
class Stored:
    """A run or a logged model that is in the store."""

    id: str
    name: str
    parent: str | None  # of a run: the one it is nested under; of a model: its run
    began_ms: int
    location: str  # of its files
