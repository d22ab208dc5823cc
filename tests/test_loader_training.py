"""Facts about training on the loader's batches: the numbers of before, whoever decodes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from loader_runs import make_project, train_images
from test_train import KilledError, fresh, killed_at_epoch, settings, trained, weights_of

from imagemill.augment import compile_policy
from imagemill.loading.order import epoch_order, global_batch
from imagemill.params import Params
from imagemill.train.job import prepare
from imagemill.train.losses import LOSSES
from imagemill.train.optimizers import build_optimizer, set_rate
from imagemill.train.schedules import rate_share

# Of the loop that fetched its batches by itself, before there was a loader (version 0.1.0).
LOSSES_BEFORE = [0.8640137434005737, 0.5580688556035359, 0.3844467639923096, 0.3221199671427409]
ONLINE = [
    {"operation": "flip_horizontal", "probability": 0.5},
    {"operation": "translate", "probability": 1.0, "range": [-0.1, 0.1]},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def params() -> Params:
    """Four epochs of a tiny net, augmented."""
    made = settings(epochs=4)
    augment = made.augment.model_validate(made.augment.model_dump() | {"online": ONLINE})
    return made.model_copy(update={"augment": augment})


def losses_of(root: Path, **loading: object) -> tuple[list[float], torch.Tensor]:
    """The loss of each epoch, and the weights at the end."""
    losses: list[float] = []
    model = fresh()
    images = train_images(root, **loading)
    trained(model, images, params(), report=lambda progress: losses.append(progress.loss))
    return losses, weights_of(model)


def test_losses_are_those_of_before(root: Path) -> None:
    """A recorded short run gives the same losses (to rounding, which differs between CPUs)."""
    assert losses_of(root, workers=0)[0] == pytest.approx(LOSSES_BEFORE, rel=1e-4)


def test_weights_are_those_of_a_plain_loop(root: Path) -> None:
    """Bit for bit what a loop gives that takes, augments and steps without a loader."""
    told = params()
    images, policy = (
        train_images(root, workers=0),
        compile_policy(told.augment.online, seed=told.augment.seed, online=True),
    )
    model = fresh().to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(model, told.train)
    for step in range(16):
        epoch, in_epoch = divmod(step, 4)
        order = epoch_order(images.hashes_N, seed=told.train.seed, epoch=epoch)
        positions = global_batch(order, in_epoch, 16)
        pixels = policy.apply(images.take(positions), images.hashes_N[positions], epoch=epoch)
        inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        inputs = inputs.to(torch.float32, memory_format=torch.channels_last).div_(255)
        targets = torch.from_numpy(np.asarray(images.targets_N[positions]))
        losses = LOSSES[told.train.loss](model(inputs), targets, told.train.label_smoothing)
        set_rate(optimizer, told.train.learning_rate * rate(told, step))
        optimizer.zero_grad(set_to_none=True)
        (losses.sum() * (1 / len(positions))).backward()
        optimizer.step()
    assert torch.equal(weights_of(model), losses_of(root, workers=0)[1])


def rate(told: Params, step: int) -> float:
    return rate_share(told.train, step, 16)


def test_workers_do_not_change_the_weights(root: Path) -> None:
    """Decoded in two processes, or taken from the cache, training ends at the same bits."""
    alone = losses_of(root, workers=0)[1]
    assert torch.equal(losses_of(root, workers=2)[1], alone)
    assert torch.equal(losses_of(root, cache_bytes=10**9)[1], alone)


def test_a_streamed_training_goes_on_exactly(root: Path, tmp_path: Path) -> None:
    """Stopped in the middle and resumed with other workers, its weights are those of one run."""
    told = settings(epochs=6, batch_size=4)
    streamed = {"layout": "streaming", "remote": "data", "window_shards": 2}
    whole, halves = fresh(), fresh()
    trained(whole, train_images(root, workers=0, **streamed), told)
    images = train_images(root, workers=1, **streamed)
    with pytest.raises(KilledError):
        trained(halves, images, told, report=killed_at_epoch(4), checkpoints=tmp_path / "c")
    halves = fresh(seed=1)
    images = train_images(root, workers=2, **streamed)
    assert trained(halves, images, told, checkpoints=tmp_path / "c").resumed_at > 0
    assert torch.equal(weights_of(halves), weights_of(whole))


def test_a_job_is_that_of_its_work(root: Path) -> None:
    """Other processes take up the same job; another seed or another order is another one."""
    same = [prepare(root, settings(processes=processes)).folder for processes in (1, 2)]
    assert same[0] == same[1]
    assert prepare(root, settings(seed=1)).folder != same[0]
    streamed = settings()
    streaming = streamed.loading.model_copy(update={"layout": "streaming", "remote": "x"})
    assert prepare(root, streamed.model_copy(update={"loading": streaming})).folder != same[0]
