"""Every environment variable we set: what keeps the machine quiet, and Prefect's settings."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from imagemill import records

PREFECT_HOME = records.STATE / "prefect"

# Names our own processes use among themselves.
PARENT_FLOW_RUN = "IMAGEMILL_PARENT_FLOW_RUN"  # id of the `repro` run a stage belongs to
FAILURE_FILE = "IMAGEMILL_FAILURE_FILE"  # where a stage writes why it stopped

CONSOLE_LEVEL = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"

# No library we bring may call home or ask the network for news.
SWITCHES: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "ITERATIVE_DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "DVC_STUDIO_OFFLINE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

_PREFECT: Mapping[str, str] = {
    # An ephemeral server would cost every stage 20 seconds.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    # A failed run keeps its exception; JSON instead of Prefect's default, a pickle.
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    # Two retries wait 6 seconds for a server that went away, the default of five wait a minute.
    "PREFECT_CLIENT_MAX_RETRIES": "2",
    # Our own lines reach the terminal; Prefect's echo of them would be the second time.
    CONSOLE_LEVEL: "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


def quiet_environment(inherited: Mapping[str, str], root: Path) -> dict[str, str]:
    """`inherited` with every switch set, Prefect at home in the project, the venv first on PATH."""
    return {
        **inherited,
        **SWITCHES,
        **_PREFECT,
        "PREFECT_HOME": str(root / PREFECT_HOME),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",
        # A proxy for the outside must not be asked for our own services.
        "NO_PROXY": _with_loopback(inherited.get("NO_PROXY", inherited.get("no_proxy", ""))),
        "no_proxy": _with_loopback(inherited.get("no_proxy", inherited.get("NO_PROXY", ""))),
    }


def server_environment(inherited: Mapping[str, str], root: Path, port: int) -> dict[str, str]:
    """The environment of a local Prefect server on `port`."""
    settings = quiet_environment(inherited, root)
    del settings[CONSOLE_LEVEL]
    url = api_url(port)
    # Without its own address the page of a server off port 4200 stays blank.
    return settings | {"PREFECT_API_URL": url, "PREFECT_SERVER_UI_API_URL": url}


def api_url(port: int) -> str:
    """Address of the API of a local Prefect server."""
    return f"http://127.0.0.1:{port}/api"


def _with_loopback(hosts: str) -> str:
    named = [host for host in hosts.split(",") if host]
    return ",".join(dict.fromkeys([*named, "127.0.0.1", "localhost"]))
