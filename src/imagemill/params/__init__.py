"""params.yaml as value objects: every knob with its type, range, unit and a sentence.

params.yaml is the one home of a value: no field here has a default, except those whose absence
means something of its own (`None`). Names of models, operations and the like are checked against
their tables by the rooms that own those tables.
"""

from imagemill.params.audit import AuditParams, ChecksParams, NearDuplicateParams
from imagemill.params.augment import AugmentParams, CopiesParams, OperationParams
from imagemill.params.compress import (
    BASE,
    CalibrateParams,
    CompressParams,
    DistilParams,
    EnsembleParams,
    FactoriseParams,
    FinetuneParams,
    FitParams,
    GradualParams,
    GuideParams,
    HalveParams,
    PruneParams,
    QuantizeParams,
    StepParams,
)
from imagemill.params.data import IngestParams, ShardParams, SplitParams
from imagemill.params.loading import LoadingParams
from imagemill.params.promote import PromoteParams
from imagemill.params.reading import PARAMS_FILE, Params, parse_params, read_params, read_yaml
from imagemill.params.results import EvaluateParams, ExplainParams, RegisterParams
from imagemill.params.sweep import ChoicesParams, RangeParams, SweepParams
from imagemill.params.topology import AsynchronousParams, NodesParams
from imagemill.params.training import (
    EarlyStoppingParams,
    EmaParams,
    OwnTrainParams,
    ResolutionParams,
    SelectionParams,
    TrainParams,
)
from imagemill.params.transfer import PretrainParams, TransferParams
from imagemill.params.watching import WatchParams

__all__ = [
    "BASE",
    "PARAMS_FILE",
    "AsynchronousParams",
    "AuditParams",
    "AugmentParams",
    "CalibrateParams",
    "ChecksParams",
    "ChoicesParams",
    "CompressParams",
    "CopiesParams",
    "DistilParams",
    "EarlyStoppingParams",
    "EmaParams",
    "EnsembleParams",
    "EvaluateParams",
    "ExplainParams",
    "FactoriseParams",
    "FinetuneParams",
    "FitParams",
    "GradualParams",
    "GuideParams",
    "HalveParams",
    "IngestParams",
    "LoadingParams",
    "NearDuplicateParams",
    "NodesParams",
    "OperationParams",
    "OwnTrainParams",
    "Params",
    "PretrainParams",
    "PromoteParams",
    "PruneParams",
    "QuantizeParams",
    "RangeParams",
    "RegisterParams",
    "ResolutionParams",
    "SelectionParams",
    "ShardParams",
    "SplitParams",
    "StepParams",
    "SweepParams",
    "TrainParams",
    "TransferParams",
    "WatchParams",
    "parse_params",
    "read_params",
    "read_yaml",
]
