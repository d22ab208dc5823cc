"""Heads on a frozen body: learned by steps, or put together from the mean feature of each class.

Shapes: P passes, N images, B of a step, D features, K classes.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imagemill.loading import SplitImages
from imagemill.loading.order import Order, global_batch, num_steps
from imagemill.models.parts import features_of, linear_head_of
from imagemill.params import AugmentParams, TrainParams
from imagemill.train.best import Best
from imagemill.train.ema import Ema
from imagemill.train.features import Features, split_features
from imagemill.train.losses import Targets
from imagemill.train.machine import Machine
from imagemill.train.progress import FitResult, Progress, Tally
from imagemill.train.ranks import ALONE, Ranks
from imagemill.train.schedules import rate_share
from imagemill.train.step import Stepper
from imagemill.train.strategies import Single

# Of the softmax over cosine similarities, which lie in -1..1.
TEMPERATURE = 10.0
# A head is small: it learns on one process's CPU, in full precision.
_DESK = Machine(torch.device("cpu"), torch.float32, channels_last=False)

Report = Callable[[Progress], None]


def fit_head(
    model: nn.Module,
    images: SplitImages,
    val: SplitImages,
    *,
    root: Path,
    train: TrainParams,
    augment: AugmentParams,
    machine: Machine,
    ranks: Ranks,
    report: Report,
) -> FitResult:
    """Give a model a new head on its body as it is.

    Args:
        model: Its linear head is changed in place, on rank 0; nothing else is.
        images: The train split, opened with the crop of `augment`.
        val: To judge each epoch on.
        root: The project's root.
        train: Everything, with `transfer` of mode features or prototypes.
        augment: Drawn from in `transfer.passes`.
        machine: Where the body computes.
        ranks: Those that compute features together; rank 0 makes the head.
        report: Called about once a second and at the end of each epoch, on rank 0.

    Raises:
        ParamsError: the model's head is not linear.
    """
    began = time.process_time()
    transfer = train.transfer
    assert transfer is not None
    model.to(machine.device).to(memory_format=machine.memory_format).eval()
    computed = partial(split_features, model, root=root, machine=machine, ranks=ranks)
    drawn = augment if transfer.passes else None
    train_PND = computed(images, augment=drawn, passes=transfer.passes or 1)
    val_MD = computed(val, augment=None, passes=1)[0]
    result = FitResult(steps=0, loss=0.0, cpu_seconds=0.0, resumed_at=0, wait_share=0.0)
    if ranks.reports:
        _, head = linear_head_of(model)
        factor = _factor(model, val, machine)
        desk = nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)
        desk.load_state_dict(head.state_dict())
        judged = partial(_top1, desk, torch.from_numpy(np.array(val_MD)), val.targets_N)
        if transfer.mode == "prototypes":
            put_prototypes(desk, train_PND[0], images.targets_N)
        else:
            result = _learn(desk, train_PND, images, train, judged=judged, report=report)
        with torch.no_grad():
            for mine, learned in zip(head.parameters(), desk.parameters(), strict=True):
                mine.copy_(learned / factor)
    return replace(result, cpu_seconds=time.process_time() - began)


@torch.no_grad()
def put_prototypes(head: nn.Linear, features_ND: Features, targets_N: NDArray[np.integer]) -> None:
    """Let a head compare with the mean feature of each class.

    Its logits are cosine similarities of centred features times a temperature, times the length of
    an image's feature over the mean length: a linear layer cannot divide by that. The class is the
    one of the nearest prototype all the same.

    Args:
        head: Changed in place; without a bias, features are not centred.
        features_ND: Float32.
        targets_N: Class ids.

    Source: Snell et al. 2017, "Prototypical Networks for Few-shot Learning", with the cosine of
    Gidaris and Komodakis 2018 and the centring of Wang et al. 2019, "SimpleShot".
    """
    features = torch.from_numpy(np.array(features_ND))
    centre_D = features.mean(0) if head.bias is not None else torch.zeros(features.shape[1])
    centred = features - centre_D
    lengths_N = centred.norm(dim=1).clamp_min(1e-12)
    unit_ND = centred / lengths_N[:, None]
    weight_KD = torch.zeros_like(head.weight)
    for target in range(head.out_features):
        of_class_N = torch.from_numpy(targets_N == target)
        if not of_class_N.any():
            continue
        mean_D = unit_ND[of_class_N].mean(0)
        weight_KD[target] = mean_D / mean_D.norm().clamp_min(1e-12)
    scale = TEMPERATURE / float(lengths_N.mean())
    head.weight.copy_(scale * weight_KD)
    if head.bias is not None:
        head.bias.copy_(-scale * (weight_KD @ centre_D))


def _learn(
    head: nn.Linear,
    features_PND: Features,
    images: SplitImages,
    train: TrainParams,
    *,
    judged: Callable[[], float],
    report: Report,
) -> FitResult:
    """Train the head by the steps, order, loss and schedule of every training."""
    order = Order(images.hashes_N, train.seed)
    per_epoch = num_steps(len(images), train.batch_size)
    total = train.epochs * per_epoch
    plain = train.model_copy(update={"compile": None, "accumulate": None, "selection": None})
    stepper = Stepper(head.train(), Single(plain, ALONE, _DESK), plain, _DESK, None)
    tally, best = Tally(0, total, per_epoch), Best(train.early_stopping)
    ema = Ema(head, train.ema) if train.ema else None
    kept = head.state_dict()
    for step in range(total):
        epoch, in_epoch = divmod(step, per_epoch)
        if in_epoch == 0:
            order_N = order.epoch(epoch)
        positions_B = global_batch(order_N, in_epoch, train.batch_size)
        features_BD = torch.from_numpy(features_PND[epoch % len(features_PND), positions_B])
        targets = Targets(torch.from_numpy(images.targets_N[positions_B]))
        rate = train.learning_rate * rate_share(train, step, total)
        count = len(positions_B)
        taken = stepper.take(features_BD, targets, share=1 / count, fewest=count, rate=rate)
        if ema is not None:
            ema.update(head, step + 1)
        tally.add(taken.loss.item(), taken.hits.item(), count, count, 0.0)
        top1 = None
        if in_epoch == per_epoch - 1 and train.validates_after(epoch + 1, train.epochs):
            with ema.in_place(head) if ema else nullcontext():
                top1 = judged()
                # Without early stopping it is the last epoch's head that stays.
                if best.take(top1, step + 1) or train.early_stopping is None:
                    kept = {name: value.clone() for name, value in head.state_dict().items()}
        if top1 is not None or tally.due():
            report(tally.take(step + 1, rate, epoch=None, val_top1=top1, account=None, measured={}))
        if best.is_over:
            break
    head.load_state_dict(kept)
    best_epoch = best.step // per_epoch if train.early_stopping and best.step else None
    return FitResult(step + 1, tally.last_loss, 0.0, 0, 0.0, best_epoch=best_epoch)


@torch.no_grad()
def _top1(head: nn.Linear, features_MD: Tensor, targets_M: NDArray[np.integer]) -> float:
    hits_M = head(features_MD).argmax(1) == torch.from_numpy(np.array(targets_M))
    return float(hits_M.float().mean())


@torch.inference_mode()
def _factor(model: nn.Module, val: SplitImages, machine: Machine) -> float:
    """What the network multiplies its head's outputs with; 1 for most."""
    moved = torch.from_numpy(val.take(np.arange(1))).to(machine.device).permute(0, 3, 1, 2)
    images_BCHW = moved.to(torch.float32, memory_format=machine.memory_format).div_(255)
    _, head = linear_head_of(model)
    own = head(features_of(model, images_BCHW))
    return round(float((model(images_BCHW) * own).sum() / (own * own).sum()), 6)
