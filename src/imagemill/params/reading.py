"""params.yaml as a whole: read, checked, and all its mistakes told at once."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from imagemill.errors import ParamsError, UnknownNameError
from imagemill.params.audit import AuditParams
from imagemill.params.augment import AugmentParams
from imagemill.params.compress import BASE, CompressParams
from imagemill.params.data import IngestParams, ShardParams, SplitParams
from imagemill.params.label_review import LabelReviewParams
from imagemill.params.loading import LoadingParams
from imagemill.params.promote import PromoteParams
from imagemill.params.results import EvaluateParams, ExplainParams, RegisterParams, ReportParams
from imagemill.params.section import Section
from imagemill.params.sweep import SweepParams
from imagemill.params.training import TrainParams

PARAMS_FILE = "params.yaml"


class Params(Section):
    """All of params.yaml, one section a stage."""

    ingest: IngestParams
    audit: AuditParams
    split: SplitParams
    shard: ShardParams
    augment: AugmentParams
    loading: LoadingParams
    train: TrainParams
    label_review: LabelReviewParams
    compress: CompressParams
    evaluate: EvaluateParams
    explain: ExplainParams
    register_: RegisterParams = Field(alias="register")
    promote: PromoteParams
    report: ReportParams
    sweep: SweepParams | None = Field(default=None, description="`imagemill sweep`, if wanted.")

    @model_validator(mode="after")
    def _explained_exists(self) -> Self:
        if self.explain.variant not in self.variants:
            unknown = UnknownNameError("variant", self.explain.variant, self.variants)
            raise ValueError(f"explain.variant: {unknown}")
        return self

    @model_validator(mode="after")
    def _steps_can_train(self) -> Self:
        for name, chain in self.compress.variants.items():
            for number, step in enumerate(chain):
                try:
                    self.train.changed(step.own_training)
                except ValidationError as error:
                    told = "; ".join(_tell(dict(fault)) for fault in error.errors())
                    place = f"compress.variants.{name}.{number}.{step.method}.train"
                    raise ValueError(f"{place}: {told}") from None
        return self

    @property
    def variants(self) -> tuple[str, ...]:
        """The base model and its children, in the order of params.yaml."""
        return (BASE, *self.compress.variants)


def read_params(root: Path) -> Params:
    """Read and check `root/params.yaml`.

    Raises:
        ParamsError: no such file, not YAML, an unknown key, a wrong type, a broken rule.
    """
    return parse_params(read_yaml(root / PARAMS_FILE), where=PARAMS_FILE)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML 1.2 mapping (as DVC reads it).

    Raises:
        ParamsError: no such file, or not a YAML mapping.
    """
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(
            f"there is no {path.name} in {path.parent.resolve()}; run from the project's root, "
            "or put a recipe in place with `make recipe RECIPE=digits`"
        ) from None
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        first_line = " ".join(str(error).split())
        raise ParamsError(f"{path.name} cannot be read as YAML: {first_line}") from None
    if not isinstance(document, dict):
        raise ParamsError(
            f"{path.name} must be a mapping of sections, got {type(document).__name__}"
        )
    return document


def parse_params(document: Mapping[str, Any], *, where: str) -> Params:
    """Check a parsed params file; all its mistakes are told at once.

    Raises:
        ParamsError: an unknown key, a wrong type, a broken rule.
    """
    try:
        return Params.model_validate(document)
    except ValidationError as error:
        told = "; ".join(_tell(dict(fault)) for fault in error.errors())
        raise ParamsError(f"{where}: {told}") from None


def _tell(fault: Mapping[str, Any]) -> str:
    location = [str(part) for part in fault["loc"]]
    dotted = ".".join(location)
    if fault["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        nearest = get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        return f"unknown key {dotted!r}{hint}"
    if fault["type"] == "missing":
        return f"{dotted!r} is missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{dotted}: {message}" if dotted else message
    return f"{dotted}: {message[0].lower()}{message[1:]}, got {fault['input']!r}"


def _keys_at(location: list[str]) -> list[str]:
    """Keys allowed at a place in params.yaml."""
    model: Any = Params
    for part in location:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = _innermost_model(model.model_fields[part].annotation)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _innermost_model(annotation: Any) -> Any:
    """The value object inside `X | None`, `tuple[X, ...]` or `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        found = _innermost_model(part)
        if found is not None:
            return found
    return None
