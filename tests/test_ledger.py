"""Facts about the ledger: what it proves, and what a checkpoint carries of it."""

from pathlib import Path

import numpy as np
import pytest
from loader_runs import AUGMENT, loading, make_project, train_images

from imagemill.errors import TrainingError
from imagemill.loading import Ledger
from imagemill.loading.loader import plan_of
from imagemill.loading.order import Order
from imagemill.loading.plan import Plan, Share
from imagemill.randomness import key_hashes

KEYS = [f"k{number:04d}" for number in range(107)]
HASHES = key_hashes(KEYS)


def ledger() -> Ledger:
    return Ledger(HASHES, KEYS)


def test_a_missing_sample_is_named() -> None:
    """An epoch that left a sample out says which."""
    kept = ledger()
    kept.consume(np.delete(np.arange(107), 41))
    with pytest.raises(TrainingError, match=r"1 samples missing \('k0041'\), 0 consumed twice;"):
        kept.close(kept.counts)


def test_a_repeated_sample_is_named() -> None:
    """An epoch that took a sample twice says which."""
    kept = ledger()
    kept.consume(np.append(np.arange(107), 41))
    with pytest.raises(TrainingError, match=r"0 samples missing, 1 consumed twice \('k0041'\)"):
        kept.close(kept.counts)


def test_only_a_few_names_are_told() -> None:
    """Of many missing samples five are named."""
    with pytest.raises(TrainingError, match=r"\('k0000', .*'k0004', \.\.\.\)"):
        ledger().close(np.zeros(107, np.int32))


def test_the_digest_is_of_the_keys_consumed() -> None:
    """It is the same for each whole epoch, whatever the order, and another one for fewer keys."""
    kept = ledger()
    digests = []
    for order in (np.arange(107), np.arange(107)[::-1]):
        kept.consume(order)
        digests.append(kept.close(kept.counts).digest)
    assert digests[0] == digests[1]
    assert digests[0] != kept.digest_of(kept.counts)


@pytest.mark.parametrize(("step", "world", "later"), [(0, 1, 3), (3, 2, 5), (10, 3, 1), (11, 4, 2)])
def test_counts_go_on_with_another_number_of_ranks(step: int, world: int, later: int) -> None:
    """Stopped at any step and resumed on other ranks, the epoch's account is whole."""
    counts = np.zeros(107, np.int32)
    for rank in range(world):
        kept = ledger()
        for each in plan(Share(rank, world)).steps(0, step):
            kept.consume(each.own())
        counts += kept.counts
    total = np.zeros(107, np.int32)
    for rank in range(later):
        kept = ledger()
        kept.resume(counts, plan(Share(rank, later)).consumed(step), keep=rank == 0)
        for each in plan(Share(rank, later)).steps(step, 14):
            kept.consume(each.own())
        total += kept.counts
    assert ledger().close(total)[:3] == (107, 0, 0)


def plan(share: Share) -> Plan:
    """14 steps an epoch."""
    return Plan(Order(HASHES, seed=5), 8, share)


def test_a_checkpoint_of_another_order_is_refused() -> None:
    """Counts of other samples than the order has before the step are no counts of this run."""
    counts = np.zeros(107, np.int32)
    counts[:8] = 1
    with pytest.raises(TrainingError, match="consumed in another order"):
        ledger().resume(counts, plan(Share(0, 1)).consumed(1), keep=True)


def test_a_checkpoint_without_a_ledger_is_taken_at_its_word() -> None:
    """Switched on in the middle of an epoch, the ledger takes what came before as consumed."""
    kept = ledger()
    kept.resume(np.zeros(0, np.int32), plan(Share(0, 1)).consumed(3), keep=True)
    assert kept.counts.sum() == 24


def test_fit_keeps_a_ledger_unless_told_otherwise(tmp_path: Path) -> None:
    """loading.ledger: false trains without accounts, and to the same loss."""
    make_project(tmp_path)
    kept, unkept = (trained(tmp_path, ledger=on) for on in (True, False))
    assert [account.consumed for account in kept.ledger] == [60, 60]
    assert unkept.ledger == []
    assert unkept.loss == kept.loss


def trained(root: Path, *, ledger: bool):  # type: ignore[no-untyped-def]
    """Two epochs of a tiny net."""
    import torch
    from trained_project import small_params

    from imagemill.models import build_model
    from imagemill.records import Architecture
    from imagemill.train.loop import fit

    params = small_params()
    torch.manual_seed(0)
    architecture = Architecture(name="seed_minimal", arguments={"width": 1.0})
    model = build_model(architecture, input_shape=(1, 12, 12), num_classes=3, mean=[0.5], std=[0.3])
    return fit(
        model,
        train_images(root, ledger=ledger, workers=0),
        train=params.train,
        augment=AUGMENT,
        epochs=2,
        learning_rate=0.1,
        teacher=None,
        report=lambda progress: None,
    )


def test_accounts_survive_a_restart(tmp_path: Path) -> None:
    """A resumed training gives the accounts of the epochs before it too."""
    from test_train import KilledError, fresh, killed_at_epoch, settings, trained

    make_project(tmp_path)
    params = settings(epochs=6, batch_size=4)
    images = train_images(tmp_path, workers=0)
    with pytest.raises(KilledError):
        trained(fresh(), images, params, report=killed_at_epoch(4), checkpoints=tmp_path / "c")
    result = trained(fresh(), images, params, checkpoints=tmp_path / "c")
    assert result.resumed_at > 0
    assert [account.consumed for account in result.ledger] == [60] * 6


def test_the_order_of_a_plan_is_that_of_its_layout(tmp_path: Path) -> None:
    """Locally the shards do not matter; streaming they do."""
    root = make_project(tmp_path)
    local = plan_of(train_images(root), seed=0, batch_size=8)
    streamed = plan_of(
        train_images(root, layout="streaming", remote="elsewhere", window_shards=2),
        seed=0,
        batch_size=8,
    )
    assert local.order.window is None
    assert streamed.order.window is not None
    assert loading().layout == "local"
