"""Facts about strategies: how they come to the weights of one process, on any number of ranks.

Tolerances: float32 has 24 bits, 6e-8 of a value, and sums over ranks are added in another order.
A dozen steps of a small net stay within 2e-6 of the largest value of a tensor. `blocks` is a deep
net with norms over few values: there a change of the first weights by 6e-8 grows to 2e-3 in one
process alone, and 1e-3 is what can be asked.
"""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kill_training import killed_alone, killed_ranks, whole
from made_shards import make_shards
from rank_groups import together
from strategy_runs import STRATEGIES, Ended, Run, run, run_each, run_each_apart, settings
from torch import Tensor, nn

from imagemill.models import build_model
from imagemill.models.layers import BranchNorm
from imagemill.records import Architecture
from imagemill.train.norms import desynchronise, synchronise
from imagemill.train.ranks import Ranks
from imagemill.train.strategies.serving import Server

TOLERANCES = {"plain": 2e-6, "shaped": 2e-6, "muon": 2e-6, "norms": 2e-6, "blocks": 1e-3}
# Ranks -> what is trained on them.
EQUIVALENCE = {1: ("plain",), 2: tuple(TOLERANCES), 3: ("plain", "norms"), 4: ("plain", "shaped")}
KILLED = {"checkpoint_seconds": 1e-6, "until": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with shards."""
    folder = tmp_path_factory.mktemp("strategies")
    make_shards(folder)
    return folder


@pytest.fixture(scope="module")
def alone(root: Path) -> Callable[[str], Ended]:
    """What one process ends with."""
    ended: dict[str, Ended] = {}

    def of(case: str) -> Ended:
        if case not in ended:
            ended[case] = run(None, root=root, strategy="single", case=case)
        return ended[case]

    return of


def assert_same(ended: Ended, expected: Ended, case: str) -> None:
    """Weights, losses and val top-1 within the tolerance; every sample once an epoch."""
    tolerance = TOLERANCES[case]
    assert ended.weights.keys() == expected.weights.keys()
    for name, value in expected.weights.items():
        largest = max(float(value.abs().max()), 1.0)
        difference = float((ended.weights[name] - value).abs().max())
        assert difference <= tolerance * largest, f"{name}: {difference}"
    assert ended.losses == pytest.approx(expected.losses[-len(ended.losses) :], rel=tolerance)
    assert ended.top1s == expected.top1s[-len(ended.top1s) :]
    assert [account["consumed"] for account in ended.accounts] == [60] * 4
    assert {account["missing"] + account["duplicate"] for account in ended.accounts} == {0}


@pytest.mark.parametrize("world", EQUIVALENCE)
def test_every_strategy_gives_the_weights_of_one_process(
    world: int, root: Path, alone: Callable[[str], Ended]
) -> None:
    """Uneven batches, norms, accumulation, clipping, l1, EMA, AdamW, Muon: all as alone."""
    runs = [
        Run(root=root, strategy=strategy, case=case)
        for case in EQUIVALENCE[world]
        for strategy in STRATEGIES
    ]
    first, *others = together(world, root, run_each, runs)
    for number, asked in enumerate(runs):
        assert_same(first[number], alone(asked["case"]), asked["case"])
        for other in others:
            for name, value in first[number].weights.items():
                assert torch.equal(other[number].weights[name], value), name


def test_ranks_without_common_memory_give_the_weights_of_one_process(
    root: Path, alone: Callable[[str], Ended]
) -> None:
    """As on several machines: torch's own all-reduce, with accumulation, and norms in step."""
    cases = ("shaped", "norms")
    runs = [Run(root=root, strategy="ddp", case=case) for case in cases]
    first, second = together(2, root, run_each_apart, runs)
    for case, one, other in zip(cases, first, second, strict=True):
        assert_same(one, alone(case), case)
        assert all(torch.equal(other.weights[name], one.weights[name]) for name in one.weights)


# Checkpoints on another topology -------------------------------------------------------------


def gone_on_with(root: Path, checkpoints: Path, copy: str, strategy: str) -> Run:
    """A run that takes up a copy of checkpoints."""
    own = checkpoints.with_name(f"{checkpoints.name}-{copy}")
    shutil.copytree(checkpoints, own)
    return Run(root=root, strategy=strategy, case="shaped", checkpoints=own)


def test_any_topology_goes_on_with_the_checkpoint_of_any_other(
    root: Path, tmp_path: Path, alone: Callable[[str], Ended]
) -> None:
    """Killed in the first epoch on 1 or 2 ranks, gone on with on 1, 2 or 4 by another strategy."""
    killed = {name: tmp_path / name for name in ("single", *STRATEGIES)}
    run(
        None,
        **Run(root=root, strategy="single", case="shaped", checkpoints=killed["single"]),
        **KILLED,
    )
    runs = [
        Run(root=root, strategy=name, case="shaped", checkpoints=killed[name], **KILLED)
        for name in STRATEGIES
    ]
    together(2, tmp_path, run_each, runs)
    shards = list(killed["fsdp"].glob("step-1/*.safetensors"))
    assert len(shards) == 2  # sharded state is written in shards
    two = [
        gone_on_with(root, killed["single"], "two", "fsdp"),
        gone_on_with(root, killed["ddp"], "two", "parameter_server"),
    ]
    four = [
        gone_on_with(root, killed["fsdp"], "four", "fsdp"),
        gone_on_with(root, killed["parameter_server"], "four", "ddp"),
    ]
    ends = [
        *(
            run(None, **gone_on_with(root, killed[name], "one", "single"))
            for name in ("fsdp", "ddp")
        ),
        *together(2, tmp_path, run_each, two)[0],
        *together(4, tmp_path, run_each, four)[0],
    ]
    for ended in ends:
        assert 0 < ended.resumed_at < 3
        # The first step of the first epoch was taken by others.
        assert_same(ended._replace(losses=ended.losses[1:]), alone("shaped"), "shaped")


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_process_is_gone_on_with_bit_for_bit(seed: int, root: Path) -> None:
    """SIGKILL at a random moment; more with `python tests/kill_training.py 20`."""
    outcome = killed_alone(root, whole(root), seed)
    assert (outcome.missing, outcome.duplicate, outcome.difference) == (0, 0, 0), outcome.said


def test_killed_ranks_are_gone_on_with(root: Path) -> None:
    """4 ranks, then 2: nothing is missing or comes twice, weights as of one process to 1e-5."""
    outcome = killed_ranks(root, whole(root), 5)
    assert "4 ranks killed" in outcome.said and "then 2" in outcome.said
    assert (outcome.missing, outcome.duplicate) == (0, 0), outcome.said
    assert outcome.difference <= 1e-5


# Norms over the global batch -----------------------------------------------------------------


def halves_normed(ranks: Ranks, images: Tensor, empty: bool) -> dict[str, Tensor]:
    """A GlobalBatchNorm's output and gradients on this rank's part of a batch.

    Args:
        ranks: Two.
        images: [N, C, H, W].
        empty: The second rank has none of them, and computes on one that does not count.
    """
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(images.shape[1])
    nn.init.normal_(norm.weight)
    (synchronised,) = synchronise(norm)
    counts = [len(images), 0] if empty else [2, len(images) - 2]
    own = images[sum(counts[: ranks.rank]) :][: counts[ranks.rank]].clone()
    synchronised.counted = len(own) > 0
    own = own if len(own) else torch.full_like(images[:1], 7)
    outputs = norm(own.requires_grad_())
    (outputs.square().sum() * synchronised.counted).backward()
    assert own.grad is not None and norm.weight.grad is not None
    gradient = ranks.summed(norm.weight.grad.clone())
    desynchronise([synchronised])
    assert type(norm) is nn.BatchNorm2d
    return {"out": outputs.detach(), "in": own.grad, "gradient": gradient} | norm.state_dict()


@pytest.mark.parametrize("empty", [False, True])
def test_norms_over_ranks_are_those_of_the_batch(empty: bool, tmp_path: Path) -> None:
    """Outputs, gradients, running statistics: BatchNorm2d's of the whole batch, to 1e-5."""
    torch.manual_seed(1)
    images = torch.randn(7, 3, 4, 4) * 2 + 1
    first, second = together(2, tmp_path, halves_normed, images, empty)
    torch.manual_seed(0)
    whole, inputs = nn.BatchNorm2d(3), images.clone().requires_grad_()
    nn.init.normal_(whole.weight)
    outputs = whole(inputs)
    outputs.square().sum().backward()
    assert inputs.grad is not None and whole.weight.grad is not None
    expected = {"out": outputs.detach(), "in": inputs.grad}
    for name, value in expected.items():
        found = first[name] if empty else torch.cat([first[name], second[name]])
        assert torch.allclose(found, value, rtol=1e-5, atol=1e-5), name
    for rank in (first, second):
        assert torch.allclose(rank["gradient"], whole.weight.grad, rtol=1e-4, atol=1e-4)
        assert torch.allclose(rank["running_var"], whole.running_var, rtol=1e-5)
        assert torch.allclose(rank["running_mean"], whole.running_mean, rtol=1e-5)
    if empty:
        assert float(second["in"].abs().max()) == 0  # it moved nothing


def test_norms_that_do_more_go_on_doing_it() -> None:
    """The norm of a residual branch is synchronised and still skips images."""
    torch.manual_seed(0)
    norm, images = BranchNorm(3, skipped=0.5), torch.randn(16, 3, 4, 4)
    (synchronised,) = synchronise(norm)
    outputs = norm(images)
    skipped = (outputs == 0).all((1, 2, 3))
    assert 0 < int(skipped.sum()) < 16
    whole = nn.BatchNorm2d(3)(images)
    assert torch.allclose(outputs[~skipped], 2 * whole[~skipped], atol=1e-5)
    desynchronise([synchronised])
    assert type(norm) is BranchNorm


# The asynchronous server ---------------------------------------------------------------------


def small_server(world: int, max_ahead: int | None) -> Server:
    """A server of one weight."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    optimizer.param_groups[0]["share"] = 1.0
    return Server([weight], optimizer, world=world, max_ahead=max_ahead)


def test_staleness_counts_the_updates_of_others() -> None:
    """Between a rank's pull and its push."""
    server = small_server(2, None)
    for rank in (0, 0, 1, 0, 1):
        weights = server.push(rank, torch.ones(1), rate=0.5)
    assert server.take_staleness() == [0, 0, 2, 1, 1]
    assert weights.item() == -2.5
    assert server.take_staleness() == []


def test_who_is_too_far_ahead_waits() -> None:
    """With one step allowed, the second waits until the other rank has pushed."""
    server, done = small_server(2, 1), threading.Event()

    def fast() -> None:
        for _ in range(2):
            server.push(0, torch.ones(1), rate=1.0)
        done.set()

    thread = threading.Thread(target=fast)
    thread.start()
    assert not done.wait(0.2)
    server.push(1, torch.ones(1), rate=1.0)
    assert done.wait(10)
    thread.join()


def test_a_failure_reaches_who_waits() -> None:
    """A rank that is lost does not leave others waiting."""
    server = small_server(2, 0)
    threading.Timer(0.1, server.fail, [ConnectionError("lost")]).start()
    with pytest.raises(ConnectionError, match="lost"):
        server.push(0, torch.ones(1), rate=1.0)


# Stale gradients act like more momentum: at a rate of 0.1 two ranks may diverge.
ASYNCHRONOUS = {"epochs": 16, "batch_size": 9, "learning_rate": 0.02}


def asynchronous(root: Path, max_staleness: int | None, **train: Any) -> Run:
    """A run of the asynchronous server."""
    told = {**ASYNCHRONOUS, "asynchronous": {"max_staleness": max_staleness}, **train}
    return Run(root=root, strategy="parameter_server", **told)


def test_one_asynchronous_rank_is_one_process(root: Path) -> None:
    """It is never stale, and its weights are those of a single process, bit for bit."""
    ended = run(Ranks(0, 1, torch.device("cpu")), **asynchronous(root, None))
    expected = run(None, root=root, strategy="single", **ASYNCHRONOUS)
    assert all(torch.equal(ended.weights[name], expected.weights[name]) for name in ended.weights)
    assert {told["staleness_max"] for told in ended.measured} == {0}


def test_asynchronous_ranks_learn_and_consume_each_sample_once(root: Path, tmp_path: Path) -> None:
    """Two ranks: the classes are told apart, staleness is told and bounded, weights are equal."""
    runs = [
        asynchronous(root, 1),
        asynchronous(root, None, checkpoint_seconds=1e-6, until=4, checkpoints=tmp_path / "c"),
        asynchronous(root, None, checkpoints=tmp_path / "c"),
    ]
    first, second = together(2, tmp_path, run_each, runs)
    for ended, other in zip(first[::2], second[::2], strict=True):
        assert ended.top1s[-1] >= 0.9
        assert [account["consumed"] for account in ended.accounts] == [60] * 16
        assert {account["missing"] + account["duplicate"] for account in ended.accounts} == {0}
        assert all(torch.equal(ended.weights[name], other.weights[name]) for name in ended.weights)
    # (ranks - 1)(2s + 1)
    assert max(told.get("staleness_max", 0) for told in first[0].measured) <= 3
    assert first[2].resumed_at > 0


# What lies where -----------------------------------------------------------------------------


def rows_kept(ranks: Ranks) -> int:
    """Numbers of the model that lie on this rank once it is sharded."""
    from imagemill.train.machine import choose_machine
    from imagemill.train.ranks import own_part
    from imagemill.train.strategies import strategy_of

    train = settings("fsdp", "blocks").train
    architecture = Architecture(name="fast_cifar", arguments={"width": 0.5})
    model = build_model(architecture, input_shape=(1, 12, 12), num_classes=3, mean=[0.5], std=[0.3])
    placed = strategy_of(train, ranks, choose_machine(train)).place(model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 0
    return sum(own_part(value.detach()).numel() for value in placed.parameters())


def test_a_rank_keeps_its_share_of_the_weights(root: Path, tmp_path: Path) -> None:
    """fsdp on two ranks: about half of the numbers on each, all of them together."""
    architecture = Architecture(name="fast_cifar", arguments={"width": 0.5})
    model = build_model(architecture, input_shape=(1, 12, 12), num_classes=3, mean=[0.5], std=[0.3])
    whole = sum(parameter.numel() for parameter in model.parameters())
    kept = together(2, tmp_path, rows_kept)
    assert sum(kept) == whole
    assert max(kept) / whole < 0.52
