"""CASES: who trains, by name; each trains without end until the meter has seen enough."""

import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.trainers.work import Tensors, Work, no_augmentation, params
from imagemill.train.loop import fit
from imagemill.train.machine import choose_machine, keep_freed_memory
from imagemill.train.watching.waiting import Waiting
from imagemill.train.watching.watch import Wanted

RATE = 0.01
_ENDLESS = 10**9


class Case(NamedTuple):
    """A way to train.

    train: Trains a net on a work's images.
    package: What it needs beside ours.
    channels_last: The layout of its tensors, for those that take tensors.
    """

    train: Callable[[nn.Module, Work, Tensors | None], None]
    package: str | None = None
    channels_last: bool | None = True


def bare(net: nn.Module, work: Work, data: Tensors | None) -> None:
    """The shortest loop PyTorch's own tutorials have."""
    del work
    assert data is not None
    net.train()
    optimizer = _optimizer(net)
    for images_BCHW, targets_B in data:
        loss = F.cross_entropy(net(images_BCHW), targets_B)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def imagemill(
    net: nn.Module,
    work: Work,
    data: Tensors | None,
    *,
    watch: bool = False,
    precision: str = "float32",
) -> None:
    """Our loop with its loader, ledger, rate and accuracy, as the stage `train` runs it."""
    del data
    train = params(work, learning_rate=RATE, precision=precision)
    images = work.opened()
    with tempfile.TemporaryDirectory() as folder:
        waiting = Waiting(images.loading, is_cached=True, crop=False, decoded_bytes=0)
        wanted = Wanted(
            settings=train.watch,
            board=Path(folder) / "board",
            trace=Path(folder) / "trace.json",
            activations=True,
            waiting=waiting,
            say=lambda sentence: None,
        )
        fit(
            net,
            images,
            train=train,
            augment=no_augmentation(),
            epochs=train.epochs,
            learning_rate=RATE,
            teacher=None,
            report=lambda progress: None,
            machine=choose_machine(train),
            watch=wanted if watch else None,
        )


def imagemill_watching(net: nn.Module, work: Work, data: Tensors | None) -> None:
    """The same with TensorBoard, and norms every 50 steps."""
    imagemill(net, work, data, watch=True)


def imagemill_keeping(net: nn.Module, work: Work, data: Tensors | None) -> None:
    """Ours in a process that chose its allocator, as training processes do."""
    keep_freed_memory()
    imagemill(net, work, data, precision="auto")


def ignite(net: nn.Module, work: Work, data: Tensors | None) -> None:
    """Ignite's supervised trainer."""
    del work
    from ignite.engine import create_supervised_trainer

    trainer = create_supervised_trainer(net, _optimizer(net), F.cross_entropy)
    trainer.run(data, max_epochs=1, epoch_length=_ENDLESS)


def timm(net: nn.Module, work: Work, data: Tensors | None) -> None:
    """The step of timm's train.py: its task, three running means, and a rate for each step."""
    del work
    assert data is not None
    from timm.scheduler import CosineLRScheduler
    from timm.task import ClassificationTask
    from timm.utils import AverageMeter

    task = ClassificationTask(net, F.cross_entropy, device=torch.device("cpu"), verbose=False)
    task.train()
    optimizer = _optimizer(net)
    schedule = CosineLRScheduler(optimizer, t_initial=_ENDLESS, t_in_epochs=False)
    losses, waits, steps = AverageMeter(), AverageMeter(), AverageMeter()
    began = time.time()
    for number, (images_BCHW, targets_B) in enumerate(data):
        waits.update(time.time() - began)
        with nullcontext():  # where it would choose a precision
            laid_out = images_BCHW.contiguous(memory_format=torch.channels_last)
            loss = task(laid_out, targets_B)["loss"]
        losses.update(loss.item(), len(targets_B))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps.update(time.time() - began, len(targets_B))
        schedule.step_update(num_updates=number, metric=losses.avg)
        began = time.time()


def accelerate(net: nn.Module, work: Work, data: Tensors | None) -> None:
    """Accelerate's loop, with net, optimiser and data prepared."""
    del work
    assert data is not None
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    net, optimizer, loader = accelerator.prepare(net, _optimizer(net), _loader(data))
    net.train()
    for images_BCHW, targets_B in loader:
        loss = F.cross_entropy(net(images_BCHW), targets_B)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()


def lightning_lean(net: nn.Module, work: Work, data: Tensors | None) -> None:
    """Lightning with all that can be switched off switched off."""
    del work
    _lightning(
        net,
        data,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def lightning(net: nn.Module, work: Work, data: Tensors | None) -> None:
    """Lightning's defaults, and the loss logged."""
    del work
    _lightning(net, data)


def _lightning(net: nn.Module, data: Tensors | None, **settings: Any) -> None:
    from lightning import LightningModule, Trainer

    class Module(LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, number: int) -> Any:
            del number
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            if not settings:
                self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return _optimizer(self)

    with tempfile.TemporaryDirectory() as folder:
        told = {"accelerator": "cpu", "devices": 1, "default_root_dir": folder}
        trainer = Trainer(max_steps=_ENDLESS, **told, **settings)
        trainer.fit(Module(), data)


class _Endless(torch.utils.data.IterableDataset[Any]):
    def __init__(self, data: Tensors) -> None:
        self._data = data

    def __iter__(self) -> Any:
        return iter(self._data)


def _loader(data: Tensors) -> Any:
    return torch.utils.data.DataLoader(_Endless(data), batch_size=None)


def _optimizer(net: nn.Module) -> torch.optim.Optimizer:
    """The same for all, ours included."""
    return torch.optim.SGD(
        net.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True
    )


CASES = {
    "bare loop": Case(bare),
    "imagemill": Case(imagemill, channels_last=None),
    "imagemill, watching": Case(imagemill_watching, channels_last=None),
    "ignite": Case(ignite, "ignite"),
    "timm's step": Case(timm, "timm"),
    "accelerate": Case(accelerate, "accelerate"),
    "lightning, lean": Case(lightning_lean, "lightning"),
    "lightning": Case(lightning, "lightning"),
    "plain loop, float32, NCHW": Case(bare, channels_last=False),
    "imagemill, freed memory kept": Case(imagemill_keeping, channels_last=None),
}
