"""Put models and their evaluation into the MLflow registry, once.

A variant is known by its name, the sha256 of the file its runtime loads and the digest of its data:
content that is known adds no run and no version. A new evaluation of known content adds its figures
to the run that is there.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from imagemill import records
from imagemill.errors import IntegrityError
from imagemill.params import BASE, Params
from imagemill.promote import CHALLENGER, CHAMPION, choose_aliases
from imagemill.records import Evaluation, ModelCard, RegisteredVersion, Registration
from imagemill.tracking.address import without_password
from imagemill.tracking.curves import CURVES, TRAINING, curve_points
from imagemill.tracking.entries import DataSet, Point, Version
from imagemill.tracking.figures import figures_of
from imagemill.tracking.lineage import dvc_lock_digest, git_revision
from imagemill.tracking.model_card import model_card
from imagemill.tracking.promotion import recover, specialists
from imagemill.tracking.standings import standing_of

if TYPE_CHECKING:
    from imagemill.tracking.store import Store

Log = Callable[[str], None]

CONTENT = "content"  # kind of the parent run
VARIANT = "variant"  # kind of the nested runs
METRICS = "metrics.jsonl"
EVALUATIONS = records.REPORTS / "evaluate"

# Pictures of one variant; those that show all go with each.
_PICTURES = ("confusion-{}", "mistakes-{}", "reliability", "selective", "robustness", "comparison")

# Distributions a runtime needs, for whoever loads the model elsewhere.
_RUNTIME_NEEDS = {
    "eager": ("torch", "safetensors"),
    "compiled": ("torch", "safetensors"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}


@dataclass(frozen=True)
class Content:
    """A variant as the stages before `register` left it."""

    folder: Path
    card: ModelCard
    evaluation: Evaluation
    card_sha256: str
    evaluation_sha256: str

    @property
    def identity(self) -> dict[str, str]:
        """Tags that tell this content from any other."""
        return {
            "variant": self.card.variant,
            "sha256": self.card.sha256,
            "data_digest": self.card.data_digest,
        }

    @property
    def judged(self) -> dict[str, str]:
        """Tags that a new evaluation changes."""
        return {
            "verdict": self.evaluation.verdict,
            "evaluation": self.evaluation_sha256,
            "pareto": _pareto(self.evaluation),
        }


def register(root: Path, params: Params, *, log: Log, flow_run: str | None = None) -> Registration:
    """Make runs, versions and aliases of what models/ and reports/ hold, and write register.json.

    Args:
        root: The project's root.
        params: All sections: they become the parameters of the runs.
        log: Takes a line per variant.
        flow_run: Id of the Prefect flow run this happens in, if there is one.

    Returns:
        What was written to reports/register.json.

    Raises:
        IntegrityError: a model or an evaluation is missing, damaged or about other bytes.
        ServiceError: the MLflow store cannot be used.
    """
    contents = [_read_content(root, variant) for variant in params.variants]
    from imagemill.tracking.store import Store

    store = Store(root, params.register_)
    recover(root, store)
    job = _Job(store, root, params, contents[0], _origin(root, flow_run))
    versions, new = job.enter(contents, log)
    aliases = _settle_aliases(store, contents, versions, something_is_new=bool(new))
    registration = _describe(params, versions, aliases)
    registration.write(root / records.REGISTER)
    for entry in registration.versions:
        known = "new" if entry.variant in new else "known"
        log(", ".join([f"{entry.variant}: version {entry.version} ({known})", *entry.aliases]))
    return registration


@dataclass(frozen=True)
class _Job:
    """One registration."""

    store: "Store"
    root: Path
    params: Params
    base: Content
    origin: Mapping[str, str]

    def enter(self, contents: Sequence[Content], log: Log) -> tuple[dict[str, Version], set[str]]:
        """Add what the store does not know.

        Returns:
            The version of each variant, and the variants whose version is new.
        """
        versions: dict[str, Version] = {}
        new: set[str] = set()
        for content in contents:
            name = content.card.variant
            found = self.store.find_versions(content.identity)
            if not found:
                versions[name] = self._add(content, versions.get(content.card.parent or ""))
                new.add(name)
                continue
            versions[name] = found[0]
            if found[0].tags.get("evaluation") != content.evaluation_sha256:
                self._measure_again(content, found[0])
                log(f"{name}: version {found[0].number} has new figures")
        return versions, new

    def _add(self, content: Content, made_from: Version | None) -> Version:
        """A nested run, a logged model and a version; `made_from` is that of its parent."""
        store, card = self.store, content.card
        marks = {**content.identity, "kind": VARIANT}
        for halfway in store.find_runs(marks):
            store.delete_run(halfway)  # its version was never made, or lost
        tags = {**marks, **content.judged, **self.origin, **_tags_of(content)}
        if made_from is not None:
            tags["parent_version"] = str(made_from.number)
        parent = self._parent_run()
        with store.running(card.variant, tags, parent=parent) as run_id:
            model_id = store.add_model(
                run_id,
                content.folder,
                name=card.variant,
                input_shape=card.input_shape,
                num_classes=len(card.classes),
                requirements=_requirements(card.runtime),
                tags={**content.identity, "card_sha256": content.card_sha256},
            )
            store.link_data(run_id, self._data, context="evaluation")
            store.log(run_id, params=_flat_params(self.params, card))
            self._log_figures(content, run_id, model_id, step=0)
            if card.variant == BASE:
                self._log_training(content, run_id, parent)
        return store.add_version(
            run_id,
            model_id,
            {key: value for key, value in tags.items() if not key.startswith("mlflow.")},
            description=model_card(card, content.evaluation, self.params),
        )

    def _measure_again(self, content: Content, version: Version) -> None:
        """The figures of a new evaluation, as a further step of the same metrics."""
        step = int(version.tags.get("measured_again", "0")) + 1
        tags = {**content.judged, "measured_again": str(step)}
        self._log_figures(content, version.run_id, version.model_id, step=step)
        self.store.log(version.run_id, tags=tags)
        self.store.tag_version(version.number, tags)
        text = model_card(content.card, content.evaluation, self.params)
        self.store.describe_version(version.number, text)

    def _log_figures(self, content: Content, run_id: str, model_id: str, *, step: int) -> None:
        points = [
            Point(name, value, step) for name, value in figures_of(content.evaluation).items()
        ]
        self.store.log(run_id, points=points, model_id=model_id, data=self._data)
        for name in _PICTURES:
            picture = self.root / EVALUATIONS / f"{name.format(content.card.variant)}.png"
            if picture.is_file():
                self.store.add_picture(run_id, picture)

    def _log_training(self, content: Content, run_id: str, parent: str) -> None:
        """The curves of the base model, and the run that showed them live."""
        curves = content.folder / METRICS
        if curves.is_file():
            self.store.log(run_id, points=read_curves(curves))
        live = self.store.find_runs({"kind": TRAINING, "sha256": content.card.sha256})
        for training in live:
            self.store.nest_run(training, parent)
        if live:
            self.store.log(run_id, tags={"training_run": live[0]})

    def _parent_run(self) -> str:
        """The run of this content: one base model on one state of the data."""
        marks = {**self.base.identity, "kind": CONTENT}
        known = self.store.find_runs(marks)
        if known:
            return known[0]
        name = f"{self.params.report.title}, data {self._data.digest[:8]}"
        run_id = self.store.start_run(name, {**marks, **self.origin}, parent=None)
        self.store.link_data(run_id, self._data, context="training")
        self.store.log(run_id, params=_flat_params(self.params, self.base.card))
        self.store.end_run(run_id, "FINISHED")
        return run_id

    @property
    def _data(self) -> DataSet:
        return DataSet(
            name=Path(self.params.ingest.source).name,
            digest=self.base.card.data_digest,
            source=str(records.SHARD_MANIFEST),
        )


def read_curves(path: Path) -> list[Point]:
    """The lines of a metrics.jsonl as points.

    Args:
        path: Lines of {step, loss, ...}; of them what is in `CURVES`.
    """
    points: list[Point] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        values = {name: line[name] for name in CURVES if line.get(name) is not None}
        points += curve_points(line["step"], values)
    return points


def compare_url(model_name: str, runs: Mapping[int, str]) -> str:
    """MLflow's comparison of versions, relative to wherever its server answers.

    Args:
        model_name: Of the registered model.
        runs: Version -> id of its run.
    """
    query = f"name={quote(json.dumps(model_name))}&runs={quote(json.dumps(dict(runs)))}"
    return f"#/compare-model-versions?{query}"


def compare_link(base_url: str, registration: Registration) -> str:
    """The comparison page on a server that is up.

    Args:
        base_url: Such as http://127.0.0.1:5000
        registration: What `register` wrote.
    """
    return f"{base_url.rstrip('/')}/{registration.compare_url}"


def _read_content(root: Path, variant: str) -> Content:
    folder = root / records.MODELS / variant
    card_path = folder / "model.json"
    evaluation_path = root / EVALUATIONS / f"{variant}.json"
    card, evaluation = ModelCard.read(card_path), Evaluation.read(evaluation_path)
    file = folder / card.file
    if not file.is_file() or records.sha256_of_file(file) != card.sha256:
        raise IntegrityError(
            f"{file} is not the file {card_path.name} describes; `dvc checkout` or `dvc repro` "
            "restores it"
        )
    if evaluation.sha256 != card.sha256:
        raise IntegrityError(
            f"{evaluation_path} measured other bytes than {file} holds; run `dvc repro evaluate`"
        )
    return Content(
        folder,
        card,
        evaluation,
        card_sha256=records.sha256_of_file(card_path),
        evaluation_sha256=records.sha256_of_file(evaluation_path),
    )


def _origin(root: Path, flow_run: str | None) -> dict[str, str]:
    """Tags that say which code and which pipeline state this is."""
    revision = git_revision(root)
    tags = {
        "git_rev": revision.commit if revision else None,
        "mlflow.source.git.commit": revision.commit if revision else None,
        "git_dirty": str(revision.is_dirty).lower() if revision else None,
        "dvc_lock": dvc_lock_digest(root),
        "prefect_flow_run": flow_run,
    }
    return {key: value for key, value in tags.items() if value is not None}


def _pareto(evaluation: Evaluation) -> str:
    """Its place on the front over accuracy, latency, size and energy, where that was found out."""
    on_front: bool | None = getattr(evaluation, "on_pareto_front", None)
    if on_front is None:
        return "unknown"
    rivals: Sequence[str] = getattr(evaluation, "dominated_by", None) or ()
    return "front" if on_front else f"dominated by {', '.join(rivals)}"


def _tags_of(content: Content) -> dict[str, str]:
    card = content.card
    tags = {
        "parent": card.parent,
        "index_digest": card.index_digest,
        "card_sha256": content.card_sha256,
        "runtime": card.runtime,
    }
    return {key: value for key, value in tags.items() if value is not None}


def _flat_params(params: Params, card: ModelCard) -> dict[str, str]:
    """params.yaml as `section.key`; of compress.variants only the chain of this variant."""
    sections: dict[str, dict[str, Any]] = params.model_dump(mode="json", by_alias=True)
    del sections["compress"]["variants"]
    sections["compress"]["steps"] = card.steps
    return {
        f"{section}.{key}": value if isinstance(value, str) else json.dumps(value)
        for section, values in sections.items()
        for key, value in (values or {}).items()  # a section may be left out
    }


def _requirements(runtime: str) -> list[str]:
    names = ("imagemill", "numpy", *_RUNTIME_NEEDS.get(runtime, ()))
    # A local label (+cpu) names a build no index serves.
    return [f"{name}=={installed_version(name).partition('+')[0]}" for name in names]


def _settle_aliases(
    store: "Store",
    contents: Sequence[Content],
    versions: Mapping[str, Version],
    *,
    something_is_new: bool,
) -> dict[str, Version]:
    """Give out the aliases that nobody holds; returns all aliases as they are now."""
    candidates = [standing_of(store, versions[content.card.variant]) for content in contents]
    held = store.aliases()
    champion, challenger = held.get(CHAMPION), held.get(CHALLENGER)
    chosen = choose_aliases(
        candidates,
        champion=champion.number if champion else None,
        challenger=challenger.number if challenger else None,
        something_is_new=something_is_new,
    )
    _point(store, held, chosen)
    settled = store.aliases()
    _point(store, settled, specialists(store, settled[CHAMPION]))
    return store.aliases()


def _point(store: "Store", held: Mapping[str, Version], chosen: Mapping[str, int]) -> None:
    for alias, number in chosen.items():
        if alias not in held or held[alias].number != number:
            store.set_alias(alias, number)


def _describe(
    params: Params, versions: Mapping[str, Version], aliases: Mapping[str, Version]
) -> Registration:
    assert CHAMPION in aliases, "the base is never rejected, so somebody is champion"
    champion = aliases[CHAMPION]
    entries = [
        RegisteredVersion(
            variant=variant,
            version=version.number,
            run_id=version.run_id,
            aliases=sorted(name for name, held in aliases.items() if held.number == version.number),
            sha256=version.tags["sha256"],
            git_rev=version.tags.get("git_rev"),
        )
        for variant, version in versions.items()
    ]
    return Registration(
        registered_model=params.register_.model_name,
        tracking_uri=without_password(params.register_.tracking_uri),
        compare_url=compare_url(
            params.register_.model_name, {entry.version: entry.run_id for entry in entries}
        ),
        champion=champion.tags["variant"],
        champion_version=champion.number,
        versions=entries,
    )
