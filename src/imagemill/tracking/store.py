"""The MLflow store of a project. Beside what MLflow itself calls (`loader`) the one file that
imports mlflow: import it where it is needed.

MLflow keeps one tracking and one registry address per process; a `Store` sets both to its own
before the calls that read them, so that several stores can be open in one process.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import mlflow
import numpy as np
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.store.entities import PagedList
from mlflow.types import Schema, TensorSpec
from sqlalchemy.exc import SQLAlchemyError

from imagemill.errors import ServiceError
from imagemill.params import RegisterParams
from imagemill.tracking.address import (
    ARTIFACTS,
    is_server,
    local_path,
    resolve_uri,
    without_password,
)
from imagemill.tracking.entries import DataSet, Point, RunStatus, Stored, Version
from imagemill.tracking.opening import open_address

T = TypeVar("T")

LOADER = "imagemill.tracking.loader"

# What one call of MLflow takes at most.
_POINTS_PER_CALL = 1000
_PARAMS_PER_CALL = 100

logging.getLogger("mlflow").setLevel(logging.WARNING)


class Store:
    """The runs of one experiment and the versions of one registered model."""

    def __init__(self, root: Path, settings: RegisterParams) -> None:
        """Open the store; a missing database file gets its schema (5 to 10 s).

        Args:
            root: The project's root.
            settings: The section `register`.

        Raises:
            ParamsError: an address of an unknown kind.
            ServiceError: the store cannot be reached or is not one of MLflow's.
        """
        self._root = root.resolve()
        self._settings = settings
        self._uri = resolve_uri(self._root, settings.tracking_uri)
        self._shown = without_password(settings.tracking_uri)
        open_address(self._root, settings.tracking_uri, _make_schema)
        with self._asking():
            self._client = mlflow.MlflowClient(self._uri, self._uri)
            self._experiment_id = self._find_or_make_experiment()

    # Runs ------------------------------------------------------------------------------------

    def find_runs(self, tags: Mapping[str, str], *, status: str | None = None) -> list[str]:
        """Ids of the runs that carry all these tags (and have this status), newest first."""
        terms = _terms(tags) + ([f"attributes.status = '{status}'"] if status else [])
        with self._asking():
            runs = self._client.search_runs([self._experiment_id], " and ".join(terms))
        return [run.info.run_id for run in runs]

    def start_run(self, name: str, tags: Mapping[str, str], *, parent: str | None) -> str:
        """Begin a run, nested under `parent` if there is one; returns its id."""
        nested = {} if parent is None else {"mlflow.parentRunId": parent}
        with self._asking():
            run = self._client.create_run(
                self._experiment_id, run_name=name, tags={**tags, **nested}
            )
        return str(run.info.run_id)

    def end_run(self, run_id: str, status: RunStatus) -> None:
        """Say how a run ended."""
        with self._asking():
            self._client.set_terminated(run_id, status)

    @contextmanager
    def running(self, name: str, tags: Mapping[str, str], *, parent: str) -> Iterator[str]:
        """A run that is finished at the end of the block, or failed if the block fails."""
        run_id = self.start_run(name, tags, parent=parent)
        try:
            yield run_id
        except BaseException:
            self.end_run(run_id, "FAILED")
            raise
        self.end_run(run_id, "FINISHED")

    def nest_run(self, run_id: str, parent: str) -> None:
        """Put a run under another one."""
        self.log(run_id, tags={"mlflow.parentRunId": parent})

    def parent_of(self, run_id: str) -> str | None:
        """The run a run is nested under."""
        with self._asking():
            parent = self._client.get_run(run_id).data.tags.get("mlflow.parentRunId")
        return None if parent is None else str(parent)

    def delete_run(self, run_id: str) -> None:
        """Put a run into MLflow's bin (`mlflow gc` empties it)."""
        with self._asking():
            self._client.delete_run(run_id)

    def log(
        self,
        run_id: str,
        *,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        model_id: str | None = None,
        data: DataSet | None = None,
    ) -> None:
        """Write metrics, parameters and tags in as few calls as MLflow allows.

        Args:
            run_id: The run they belong to.
            points: Metric values.
            params: Parameters; one that is already there must have the same value.
            tags: Tags; one that is already there gets the new value.
            model_id: The logged model the points are about.
            data: The data set the points were measured on.
        """
        now = _now_ms()
        metrics = [
            Metric(
                point.name,
                point.value,
                now,
                point.step,
                model_id=model_id,
                dataset_name=data.name if data else None,
                dataset_digest=data.short_digest if data else None,
            )
            for point in points
        ]
        settings = [Param(name, value) for name, value in (params or {}).items()]
        marks = [RunTag(name, value) for name, value in (tags or {}).items()]
        with self._asking():
            for start in range(0, len(metrics), _POINTS_PER_CALL):
                self._client.log_batch(run_id, metrics=metrics[start : start + _POINTS_PER_CALL])
            for start in range(0, len(settings), _PARAMS_PER_CALL):
                self._client.log_batch(run_id, params=settings[start : start + _PARAMS_PER_CALL])
            if marks:
                self._client.log_batch(run_id, tags=marks)

    def link_data(self, run_id: str, data: DataSet, *, context: str) -> None:
        """Tie a run to the data set it used."""
        entry = Dataset(
            name=data.name, digest=data.short_digest, source_type="local", source=data.source
        )
        with self._asking():
            self._client.log_inputs(
                run_id, [DatasetInput(entry, [InputTag("mlflow.data.context", context)])]
            )

    def add_picture(self, run_id: str, path: Path) -> None:
        """Keep a picture with a run."""
        with self._asking():
            self._client.log_artifact(run_id, str(path), "pictures")

    # Models ----------------------------------------------------------------------------------

    def add_model(
        self,
        run_id: str,
        folder: Path,
        *,
        name: str,
        input_shape: tuple[int, int, int],
        num_classes: int,
        requirements: Sequence[str],
        tags: Mapping[str, str],
    ) -> str:
        """Copy a model's folder into the store, in the form `mlflow.pyfunc` opens without pickle.

        Args:
            run_id: The run the model belongs to.
            folder: models/<variant>.
            name: What the logged model is called.
            input_shape: (C, H, W) of its float32 input.
            num_classes: Columns of its float32 output.
            requirements: pip requirements of whoever loads it.
            tags: Tags of the logged model, also written into its MLmodel.

        Returns:
            The id of the logged model.
        """
        image, logits = np.dtype(np.float32), np.dtype(np.float32)
        signature = ModelSignature(
            Schema([TensorSpec(image, (-1, *input_shape))]),
            Schema([TensorSpec(logits, (-1, num_classes))]),
        )
        with self._asking(), warnings.catch_warnings():
            # The signature says all an example would, and an example would be run once more.
            warnings.filterwarnings("ignore", message=".*input example.*")
            model = self._client.create_logged_model(
                self._experiment_id, name=name, source_run_id=run_id, tags=dict(tags)
            )
            Model.log(
                artifact_path=None,
                flavor=mlflow.pyfunc,
                run_id=run_id,
                model_id=model.model_id,
                loader_module=LOADER,
                data_path=str(folder),
                signature=signature,
                metadata=dict(tags),
                pip_requirements=list(requirements),
            )
        return str(model.model_id)

    def add_version(
        self, run_id: str, model_id: str, tags: Mapping[str, str], *, description: str
    ) -> Version:
        """Make a logged model the next version of the registered model."""
        name = self._settings.model_name
        with self._asking():
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name)
            version = self._client.create_model_version(
                name,
                f"models:/{model_id}",
                run_id=run_id,
                tags=dict(tags),
                description=description,
                model_id=model_id,
            )
        return self._as_version(version)

    def find_versions(self, tags: Mapping[str, str]) -> list[Version]:
        """Versions that carry all these tags and whose files are still there, newest first."""
        name = self._settings.model_name
        wanted = " and ".join([f"name = '{name}'", *_terms(tags)])
        with self._asking():
            found = self._client.search_model_versions(wanted)
            versions = [self._as_version(version) for version in found]
        return sorted(filter(_is_whole, versions), key=lambda version: -version.number)

    def tag_version(self, number: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with self._asking():
            for key, value in tags.items():
                self._client.set_model_version_tag(
                    self._settings.model_name, str(number), key, value
                )

    def describe_version(self, number: int, text: str) -> None:
        """Replace the description (markdown) of a version."""
        with self._asking():
            self._client.update_model_version(self._settings.model_name, str(number), text)

    def aliases(self) -> dict[str, Version]:
        """Alias -> version, as far as the files of the version are still there."""
        name = self._settings.model_name
        with self._asking():
            models = self._client.search_registered_models(f"name = '{name}'")
            named = dict(models[0].aliases) if models else {}
            versions = {
                alias: self._as_version(self._client.get_model_version(name, str(number)))
                for alias, number in named.items()
            }
        return {alias: version for alias, version in versions.items() if _is_whole(version)}

    def set_alias(self, alias: str, number: int) -> None:
        """Point an alias at a version."""
        with self._asking():
            self._client.set_registered_model_alias(self._settings.model_name, alias, str(number))

    def drop_alias(self, alias: str) -> None:
        """Take an alias away from whichever version holds it."""
        with self._asking():
            self._client.delete_registered_model_alias(self._settings.model_name, alias)

    def figures(self, version: Version) -> dict[str, float]:
        """Every metric of a version's run as it was measured last."""
        with self._asking():
            metrics = self._client.get_run(version.run_id).data.metrics
        return {str(name): float(value) for name, value in metrics.items()}

    def model_tags(self) -> dict[str, str]:
        """Tags of the registered model; none where there is no such model yet."""
        with self._asking():
            models = self._client.search_registered_models(f"name = '{self._settings.model_name}'")
        return {str(key): str(value) for key, value in models[0].tags.items()} if models else {}

    def tag_model(self, key: str, value: str) -> None:
        """Set a tag of the registered model."""
        with self._asking():
            self._client.set_registered_model_tag(self._settings.model_name, key, value)

    def fetch(self, version: Version, into: Path) -> Path:
        """The files of a version in a local folder: where they are, or downloaded `into` one."""
        local = local_path(version.location)
        if local is not None:
            return local
        with self._asking():
            return Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=version.location,
                    dst_path=str(into),
                    tracking_uri=self._uri,
                    registry_uri=self._uri,
                )
            )

    # What is there ---------------------------------------------------------------------------

    def needed(self) -> tuple[set[str], set[str]]:
        """Ids of the runs and of the logged models that any version refers to."""
        with self._asking():
            found = _all_pages(
                lambda token: self._client.search_model_versions(
                    f"name = '{self._settings.model_name}'", page_token=token
                )
            )
        runs = {str(version.run_id) for version in found}
        return runs, {str(version.source).removeprefix("models:/") for version in found}

    def stored_runs(self, kind: str) -> list[Stored]:
        """Runs with this tag `kind` that are at an end, one way or another."""
        with self._asking():
            found = _all_pages(
                lambda token: self._client.search_runs(
                    [self._experiment_id], " and ".join(_terms({"kind": kind})), page_token=token
                )
            )
        return [
            Stored(
                id=run.info.run_id,
                name=str(run.info.run_name),
                parent=run.data.tags.get("mlflow.parentRunId"),
                began_ms=int(run.info.start_time),
                location=str(run.info.artifact_uri),
            )
            for run in found
            if run.info.status != "RUNNING"
        ]

    def stored_models(self) -> list[Stored]:
        """Logged models of the experiment."""
        with self._asking():
            found = _all_pages(
                lambda token: self._client.search_logged_models(
                    [self._experiment_id], page_token=token
                )
            )
        return [
            Stored(
                id=str(model.model_id),
                name=str(model.name),
                parent=model.source_run_id,
                began_ms=int(model.creation_timestamp),
                location=str(model.artifact_location),
            )
            for model in found
        ]

    def delete_model(self, model_id: str) -> None:
        """Put a logged model into MLflow's bin."""
        with self._asking():
            self._client.delete_logged_model(model_id)

    # Inside ----------------------------------------------------------------------------------

    def _as_version(self, version: ModelVersion) -> Version:
        location = self._client.get_model_version_download_uri(version.name, str(version.version))
        return Version(
            number=int(version.version),
            run_id=str(version.run_id),
            tags={str(key): str(value) for key, value in version.tags.items()},
            model_id=str(version.source).removeprefix("models:/"),
            location=str(location),
        )

    def _find_or_make_experiment(self) -> str:
        name = self._settings.experiment
        experiment = self._client.get_experiment_by_name(name) or self._make_experiment(name)
        expected = self._artifacts()
        if expected is not None and experiment.artifact_location != expected:
            raise ServiceError(
                f"experiment {name!r} in {self._shown} keeps its files in "
                f"{experiment.artifact_location}, expected {expected}: the project was moved or "
                "copied. Delete mlflow.db and mlartifacts/ here and run `imagemill run`: the "
                "registry is filled again from models/ and reports/"
            )
        if experiment.lifecycle_stage == LifecycleStage.DELETED:
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _make_experiment(self, name: str) -> Experiment:
        try:
            self._client.create_experiment(name, artifact_location=self._artifacts())
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # made by another process just now
                raise
        experiment = self._client.get_experiment_by_name(name)
        assert experiment is not None
        return experiment

    def _artifacts(self) -> str | None:
        """Where an experiment of ours keeps its files; None: where the server wants them."""
        if is_server(self._uri):
            return None
        return str(self._root / ARTIFACTS)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """MLflow's and the database's complaints become one sentence."""
        mlflow.set_tracking_uri(self._uri)
        mlflow.set_registry_uri(self._uri)
        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise ServiceError(
                f"the MLflow store {self._shown} cannot be used: {first_line}"
            ) from error


def _all_pages(page: Callable[[str | None], PagedList[T]]) -> list[T]:
    found: list[T] = []
    token: str | None = None
    while True:
        entries = page(token)
        found += entries
        token = entries.token or None
        if token is None:
            return found


def _make_schema(file: Path) -> None:
    address = f"sqlite:///{file}"
    mlflow.MlflowClient(address, address).search_experiments(max_results=1)


def _is_whole(version: Version) -> bool:
    """Whether the files of a version are there, as far as that can be seen from here."""
    local = local_path(version.location)
    return local is None or (local / "MLmodel").is_file()


def _terms(tags: Mapping[str, str]) -> list[str]:
    assert not any("'" in value for value in tags.values()), "tags searched by are names or digests"
    return [f"tags.`{key}` = '{value}'" for key, value in tags.items()]


def _now_ms() -> int:
    return int(time.time() * 1000)
