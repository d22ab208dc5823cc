"""Fixtures shared by the whole suite."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def repository() -> Path:
    """The checkout under test."""
    return REPOSITORY


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project root with the params.yaml we ship."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with a schema and nothing else in it: copied, since making it is slow."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with shards and a base that was trained for a second; copy it to change it."""
    from trained_project import make_trained_project

    root = tmp_path_factory.mktemp("trained")
    make_trained_project(root)
    return root


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """API address of one real Prefect server for the whole session; it takes ten seconds."""
    from toy_project import environment, wait_for

    from pipelines.server import Lease

    root = tmp_path_factory.mktemp("prefect")
    lease = Lease.open(root, environment(root), port=None)
    try:
        wait_for(lease.is_ready, "the Prefect server")
        yield lease.api_url
    finally:
        lease.close()


@pytest.fixture(scope="session")
def prefect_database(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of that server."""
    return next(tmp_path_factory.getbasetemp().glob("prefect*/.imagemill/prefect/prefect.db"))


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A project whose stages take no time."""
    from toy_project import make_toy

    make_toy(tmp_path)
    return tmp_path
