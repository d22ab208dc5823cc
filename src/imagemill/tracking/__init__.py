"""Runs, versions and aliases in MLflow. Importing this room imports no mlflow: its verbs do."""

import os

from imagemill.tracking.curves import Curves, open_curves
from imagemill.tracking.known import Measured, known_versions, measured_versions
from imagemill.tracking.prediction import predict, predict_stream
from imagemill.tracking.promotion import preview, promote, roll_back
from imagemill.tracking.registration import compare_link, compare_url, register
from imagemill.tracking.sweeps import SweepRuns, open_sweep
from imagemill.tracking.upkeep import is_missing_versions, prepare_store
from imagemill.tracking.waste import Held, Waste, drop_waste, find_waste, held_by_aliases

# Read by mlflow while it is imported, which none of the above does.
_SWITCHES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # What is said on standard output is for us to choose.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # The requirements of a model are given, not guessed from a lock file nearby.
    "MLFLOW_UV_AUTO_DETECT": "false",
}
for _name, _value in _SWITCHES.items():
    os.environ.setdefault(_name, _value)

__all__ = [
    "Curves",
    "Held",
    "Measured",
    "SweepRuns",
    "Waste",
    "compare_link",
    "compare_url",
    "drop_waste",
    "find_waste",
    "held_by_aliases",
    "is_missing_versions",
    "known_versions",
    "measured_versions",
    "open_curves",
    "open_sweep",
    "predict",
    "predict_stream",
    "prepare_store",
    "preview",
    "promote",
    "register",
    "roll_back",
]
