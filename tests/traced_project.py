"""A project with real data, copies and one model that says it saw them."""

from pathlib import Path

from finished_project import CLASSES, write_model
from raw_images import params_for, picture, pictures, run_stages, write_files

from imagemill.params import Params
from imagemill.records import SHARD_MANIFEST, ModelCard, ShardManifest
from imagemill.shard import shard
from imagemill.split import split
from imagemill.trace import Known
from pipelines.augment import augment
from pipelines.tracker import Untracked


def make_traced(root: Path) -> Params:
    """Thirty images, of which `top/000` is there twice; a copy of each; models/base and int8."""
    files = pictures(dict.fromkeys(CLASSES, 10))
    write_files(root / "raw", files | {"top/twice.png": picture(29)})
    params = params_for("raw", audit={"quarantine_budget": 0.5})
    run_stages(root, params, until="audit")
    split(root, params.split, log=lambda line: None)
    shard(root, params.shard, log=lambda line: None)
    augment(root, params, Untracked())
    digest = ShardManifest.read(root / SHARD_MANIFEST).digest
    for variant in ("base", "int8"):
        card = write_model(root, variant, sharpness=4.0)
        card.model_copy(update={"data_digest": digest}).write(root / f"models/{variant}/model.json")
    return params


def registered(root: Path) -> list[Known]:
    """What a registry would hold of it: version 2, the champion, made from version 1."""
    cards = [ModelCard.read(root / f"models/{variant}/model.json") for variant in ("int8", "base")]
    return [
        Known(
            card.variant,
            card.parent,
            version,
            ("champion",) if version == 2 else (),
            card.data_digest,
            card.sha256,
            "c" * 40,
        )
        for card, version in zip(cards, (2, 1), strict=True)
    ]
