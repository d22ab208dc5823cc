"""Facts about learning from images without labels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_shards import make_shards
from safetensors.torch import load_file

from imagemill.errors import ParamsError
from imagemill.loading import open_split
from imagemill.loading.order import Order
from imagemill.params import Params, parse_params, read_yaml
from imagemill.randomness import key_hashes
from imagemill.records import AUGMENTED_INDEX, SHARD_INDEX, Architecture
from imagemill.train.job import BODY, Job, prepare, prepare_pretraining, pretrained, publish
from imagemill.train.launch import train_processes
from imagemill.train.loop import StoppedError
from imagemill.train.machine import choose_machine
from imagemill.train.origin import FROM_NOTHING
from imagemill.train.pretrain import Report, TwoViews, contrast, pretrain
from imagemill.train.progress import Progress
from imagemill.train.ranks import ALONE
from imagemill.train.stopping import StopRequest

REPOSITORY = Path(__file__).resolve().parent.parent
ARCHITECTURE = Architecture(name="fast_mnist", arguments={"width": 1.0})


def settings(
    transfer: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **pretraining: Any
) -> Params:
    document = read_yaml(REPOSITORY / "params.yaml")
    document["train"] |= {
        "input_size": 12,
        "epochs": 3,
        "batch_size": 16,
        "precision": "float32",
        "checkpoint_seconds": 1e-6,
        "transfer": transfer,
        "pretrain": {
            "epochs": 3,
            "batch_size": 20,
            "learning_rate": 0.05,
            "temperature": 0.2,
            "projection": 16,
            **pretraining,
        },
    }
    document["train"] |= train or {}
    document["augment"] |= {"copies": 0, "offline": []}
    return parse_params(document, where="test")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """60 images of train, and 30 of val of which it is forgotten what they are."""
    make_shards(tmp_path, val=60)
    for path in (SHARD_INDEX, AUGMENTED_INDEX):
        rows = pq.read_table(tmp_path / path).to_pylist()
        for row in rows:
            if row["split"] == "val" and int(row["key"][-4:]) < 30:
                row |= {"split": "unlabelled", "target": None}
        schema = pq.read_schema(tmp_path / path)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / path)
    return tmp_path


def prepared(root: Path, params: Params) -> Job:
    return prepare_pretraining(root, params, FROM_NOTHING)


def taught(job: Job, report: Report = lambda _: None, request: StopRequest | None = None) -> Path:
    pretrain(
        job,
        ARCHITECTURE,
        open_split(job.source, "train", input_shape=job.input_shape, loading=job.loading),
        ranks=ALONE,
        machine=choose_machine(job.train),
        request=StopRequest() if request is None else request,
        report=report,
    )
    return job.folder / BODY


def test_the_loss_is_that_of_finding_the_partner() -> None:
    """Two images whose views agree and that are orthogonal: log(1 + 2 exp(-1 / T)) each."""
    views = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 3.0]])
    losses, hits = contrast(views, temperature=0.5)
    expected = np.log(1 + 2 * np.exp(-1 / 0.5))
    assert losses.tolist() == pytest.approx([expected] * 4, rel=1e-5)
    assert hits.all()


def test_views_that_are_all_alike_cost_the_logarithm_of_their_number() -> None:
    """Who cannot tell the partner from the other 2B - 2 views pays log(2B - 1)."""
    losses, _ = contrast(torch.ones(6, 4), temperature=0.1)
    assert losses.tolist() == pytest.approx([np.log(5)] * 6, rel=1e-5)


def test_both_views_are_of_the_same_images() -> None:
    """A step comes twice, with draws of two epochs that no other step has."""
    plan = TwoViews(Order(key_hashes(map(str, range(10))), seed=0), batch_size=5)
    steps = list(plan.steps(0, 8))
    assert [step.epoch for step in steps] == [0, 1, 0, 1, 2, 3, 2, 3]
    for one, other in zip(steps[::2], steps[1::2], strict=True):
        assert (one.positions_R == other.positions_R).all()


def test_images_without_labels_are_learned_from(shards: Path) -> None:
    """90 images in batches of 20 are 5 steps an epoch; what is left is a body without a head."""
    told: list[Progress] = []
    tensors = load_file(taught(prepared(shards, settings()), told.append))
    assert told[-1].total_steps == 15
    assert "1.convolution1.weight" in tensors
    assert not any(name.startswith("1.head") for name in tensors)


def test_a_stopped_pretraining_is_gone_on_with(shards: Path) -> None:
    """Stopped in the middle and resumed, the body is bit for bit that of one run."""
    job = prepared(shards, settings())
    whole = load_file(taught(job))
    (job.folder / BODY).unlink()
    job, request = prepared(shards, settings()), StopRequest()

    def stop(progress: Progress) -> None:
        if progress.epoch == 2:
            request.ask()

    with pytest.raises(StoppedError):
        taught(job, stop, request)
    first: list[int] = []
    halves = load_file(taught(job, lambda progress: first.append(progress.step)))
    assert first == [15]
    assert all(torch.equal(halves[name], value) for name, value in whole.items())


@pytest.mark.parametrize(("strategy", "processes"), [("ddp", 2), ("fsdp", 3)])
def test_several_processes_learn_what_one_does(shards: Path, strategy: str, processes: int) -> None:
    """Views are compared with those of all ranks, also where ranks have one image more or none."""
    few = {"strategy": strategy, "processes": processes, "synchronise_norms": True}
    alone = prepared(shards, settings(batch_size=22))
    wanted = load_file(taught(alone))
    (alone.folder / BODY).unlink()
    # 90 images are four steps of 22 and one of 2.
    job = prepared(shards, settings(train=few | {"batch_size": 48}, batch_size=22))
    train_processes(job, lambda line: None, print)
    found = load_file(job.folder / BODY)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_views_must_differ(shards: Path) -> None:
    """Without augmentation there is nothing to learn, and that is said."""
    params = settings()
    same = params.augment.model_copy(update={"online": ()})
    with pytest.raises(ParamsError, match=r"needs augment\.online"):
        taught(prepared(shards, params.model_copy(update={"augment": same})))


def test_pretraining_is_done_once(shards: Path) -> None:
    """Other epochs of training or another transfer find it; other settings of its own do not."""
    job = prepared(shards, settings())
    assert pretrained(job) is None
    taught(job)
    assert pretrained(prepared(shards, settings({"mode": "features"}))) is not None
    assert pretrained(prepared(shards, settings(temperature=0.5))) is None


def test_a_transfer_starts_from_it(shards: Path) -> None:
    """As real processes: pre-training, then a head on its features, which says where it stands."""
    params = settings({"mode": "features"})
    job = prepared(shards, params)
    train_processes(job, lambda line: None, print)
    origin = pretrained(job)
    assert origin is not None
    training = prepare(shards, params, origin)
    train_processes(training, lambda line: None, print)
    publish(training)
    metrics = json.loads((shards / "models/base/metrics.json").read_bytes())
    assert metrics["started_from"]["kind"] == "pretrained"
    assert metrics["started_from"]["sha256"] == origin.start.sha256
    body = load_file(job.folder / BODY)
    kept = load_file(shards / "models/base/model.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in body.items())
