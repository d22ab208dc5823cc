"""Facts about learning from the hard images alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_shards import make_shards
from test_train import fresh, settings, train_split, trained, weights_of

from imagemill.errors import ParamsError
from imagemill.loading.plan import Step
from imagemill.params import SelectionParams
from imagemill.train.ranks import ALONE
from imagemill.train.selection import Selection, hardest

NUM_IMAGES = 60


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    make_shards(root)
    return root


def test_the_largest_losses_of_each_group_are_taken() -> None:
    """Two of three neighbours, of equal ones the first; a smaller last group rounds up."""
    losses = np.array([3, 1, 2, 5, 5, 5, np.inf, 0], dtype=np.float32)
    assert hardest(losses, keep=2, of=3).tolist() == [1, 0, 1, 1, 1, 0, 1, 1]
    assert hardest(losses, keep=1, of=3).tolist() == [1, 0, 0, 1, 0, 0, 1, 0]


def test_what_is_not_known_is_taken() -> None:
    """A loss nobody has seen says nothing: no image is left out before it was learned from."""
    losses = np.array([np.inf, np.inf, np.inf, 2, np.inf, 1], dtype=np.float32)
    assert hardest(losses, keep=1, of=3).tolist() == [1, 1, 1, 0, 1, 0]


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_so_many_are_taken(count: int) -> None:
    """Whole groups keep exactly their share, whatever the losses are."""
    losses = np.random.default_rng(0).random(count).astype(np.float32)
    taken = hardest(losses, keep=3, of=4)
    assert taken.sum() == count // 4 * 3 + -(-3 * (count % 4) // 4)
    for start in range(0, count - count % 4, 4):
        group, among = losses[start : start + 4], taken[start : start + 4]
        assert not among[group.argmin()]


def test_it_goes_by_the_last_loss_between_start_and_end() -> None:
    """Before, after: all. Between: those with the largest loss told, or with none yet."""
    selection = Selection(
        SelectionParams(keep=1, of=2, start=0.25, end=0.75), 4, total_steps=4, ranks=ALONE
    )

    def step(number: int, batch: list[int]) -> Step:
        positions = np.array(batch)
        return Step(number, 0, number, positions, len(batch), positions)

    first = step(0, [0, 1, 2])
    everything = selection.chosen(first)
    assert everything.rows_K is None
    selection.learned(first.positions_G, everything, torch.tensor([1.0, 3.0, 2.0]))
    assert everything.among(first.own()).tolist() == [0, 1, 2]
    second = step(1, [2, 1, 0, 3])
    some = selection.chosen(second)
    assert some.rows_K is not None
    assert some.rows_K.tolist() == [1, 3]  # 3 > 2, and 3 was never learned from
    assert some.among(second.own()).tolist() == [1, 3]
    selection.learned(second.positions_G, some, torch.tensor([0.5, 0.1]))
    assert selection.losses_N.tolist() == pytest.approx([1.0, 0.5, 2.0, 0.1])
    assert selection.chosen(step(3, [2, 1])).rows_K is None


def test_the_net_computes_on_what_is_chosen_and_the_ledger_counts_all(shards: Path) -> None:
    """Sixty images in twenties, half of them from the second epoch to the third of four."""
    selection = {"keep": 1, "of": 2, "start": 0.25, "end": 0.75}
    params = settings(epochs=4, batch_size=20, selection=selection)
    model, computed = fresh(), []
    model.register_forward_hook(lambda _, given, __: computed.append(len(given[0])))
    result = trained(model, train_split(shards), params)
    assert computed == [20] * 3 + [10] * 6 + [20] * 3
    assert [account.consumed for account in result.ledger] == [NUM_IMAGES] * 4
    assert all(account.missing == account.duplicate == 0 for account in result.ledger)
    plain = fresh()
    trained(plain, train_split(shards), settings(epochs=4, batch_size=20))
    assert not torch.equal(weights_of(plain), weights_of(model))


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"keep": 3, "of": 3, "start": 0, "end": 1}, "keep must be less than of"),
        ({"keep": 1, "of": 3, "start": 0.5, "end": 0.5}, "start must be before end"),
    ],
)
def test_what_leaves_nothing_out_is_refused(train: dict[str, float], said: str) -> None:
    """A sentence, not a training that does something else."""
    with pytest.raises(ParamsError, match=said):
        settings(selection=train)


def test_who_does_not_wait_cannot_choose() -> None:
    """An asynchronous training has no common losses."""
    with pytest.raises(ParamsError, match="leave asynchronous or selection out"):
        settings(
            strategy="parameter_server",
            asynchronous={"max_staleness": 1},
            selection={"keep": 1, "of": 2, "start": 0, "end": 1},
        )
