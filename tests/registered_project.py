"""A finished project that is registered in a store of its own, to be copied by tests."""

import shutil
from pathlib import Path

import mlflow
from finished_project import make_project, write_evaluation

from imagemill import tracking
from imagemill.params import Params, PromoteParams

NAME = "imagemill-digits"


class Registered:
    """A project whose four variants are versions 1 to 4; int8 (4) is champion."""

    def __init__(self, root: Path, empty_store: Path) -> None:
        self.root = root
        shutil.copy(empty_store, root / "mlflow.db")
        self.params = make_project(root)
        self.register()
        self.client = mlflow.MlflowClient(self.uri, self.uri)

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    def register(self) -> None:
        tracking.register(self.root, self.params, log=lambda line: None)

    def aliases(self) -> dict[str, int]:
        """Where every alias points."""
        held = self.client.get_registered_model(NAME).aliases
        return {alias: int(number) for alias, number in held.items()}

    def with_policy(self, **limits: object) -> Params:
        """The params with other limits in the section `promote`."""
        policy = PromoteParams.model_validate(self.params.promote.model_dump() | limits)
        return self.params.model_copy(update={"promote": policy})

    def measure(self, variant: str, **figures: object) -> None:
        """Measure a variant again, and register what was found."""
        known: dict[str, object] = {"latency_ms_p50": 1.0, "verdict": "accepted"}
        write_evaluation(self.root, variant, **(known | figures))
        self.register()
