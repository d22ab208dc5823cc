"""Out-of-fold predictions: every image judged by a model that never saw it or its like.

P rows of the candidates, N examined ones, M held out in a fold, K classes, B images of a batch.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imagemill.augment import compile_policy
from imagemill.label_review.candidates import Candidates, read_candidates
from imagemill.label_review.fold_project import fold_project
from imagemill.label_review.folds import assign_folds, learnable
from imagemill.loading import SplitImages, images_at_once, open_split, to_input
from imagemill.metrics import softmax
from imagemill.params import Params
from imagemill.records import MODELS, SHARD_MANIFEST, Architecture, ShardManifest
from imagemill.steps import Step
from imagemill.train.initial import initial_model
from imagemill.train.loop import fit
from imagemill.train.machine import keep_freed_memory
from imagemill.train.origin import CHAMPION, local_origin
from imagemill.train.progress import Progress
from imagemill.train.weights import put_weights

_MOST = 500  # images judged at once


@dataclass(frozen=True)
class Examination:
    """What the models of the other folds say.

    candidates: All rows.
    rows_N: Those examined: originals whose class can be learned from other folds.
    probs_NK: Their out-of-fold probabilities, float32.
    num_lonely: Originals whose class occurs in their own fold only; nothing can be said of them.
    cpu_seconds: What it cost this process.
    """

    candidates: Candidates
    rows_N: NDArray[np.intp]
    probs_NK: NDArray[np.float32]
    num_lonely: int
    cpu_seconds: float

    @property
    def num_examined(self) -> dict[str, int]:
        """Examined images of each split."""
        counts = np.bincount(self.candidates.split_P[self.rows_N], minlength=3).tolist()
        return dict(zip(self.candidates.splits, counts, strict=False))


def examine(
    root: Path,
    params: Params,
    *,
    log: Callable[[str], None],
    progress: Callable[[float, str], None],
    step: Step,
) -> Examination:
    """Train a model without each fold and let it judge that fold.

    Args:
        root: The project's root.
        params: All sections.
        log: Gets a line a fold.
        progress: Gets the share of the work that is done, 0..1, and its name.
        step: Calls what takes long.

    Raises:
        IntegrityError: data is missing or damaged.
        TrainingError: the loss is not finite.
    """
    start = time.process_time()
    if params.train.keep_memory:
        keep_freed_memory()
    folds = params.label_review.folds
    splits = ("train", "val", "test") if params.label_review.include_test else ("train", "val")
    rows = read_candidates(root, splits)
    learned_P = ~rows.of_split("test")  # test is only ever judged
    fold_P = assign_folds(rows.component_P, rows.labels_P, rows.hashes_P, learned_P, folds=folds)
    is_original_P, is_learnable_P = rows.originals(), learnable(fold_P, rows.labels_P, learned_P)
    examined_P = is_original_P & is_learnable_P
    work = _Work(root, params, rows, progress)
    probs_PK = np.zeros((len(rows), len(work.data.classes)), np.float32)
    for fold in range(folds):
        learned, held = learned_P & (fold_P != fold), examined_P & (fold_P == fold)
        if not held.any():  # more folds than groups of images
            continue
        probs_PK[held] = step(work.judge_fold, fold, learned, held)
        agreed = np.mean(probs_PK[held].argmax(1) == rows.labels_P[held])
        log(
            f"fold {fold + 1} of {folds}: learned from {learned.sum():,} images, agrees with "
            f"{agreed:.2%} of {held.sum():,} labels"
        )
    return Examination(
        candidates=rows,
        rows_N=np.flatnonzero(examined_P),
        probs_NK=probs_PK[examined_P],
        num_lonely=int((is_original_P & ~is_learnable_P).sum()),
        cpu_seconds=time.process_time() - start,
    )


class _Work:
    """What all folds share."""

    def __init__(
        self,
        root: Path,
        params: Params,
        candidates: Candidates,
        progress: Callable[[float, str], None],
    ) -> None:
        self._root, self._params, self._candidates = root, params, candidates
        self._progress = progress
        augment = params.augment
        self._policy = compile_policy(augment.online, seed=augment.seed, online=True)
        self.data = ShardManifest.read(root / SHARD_MANIFEST)

    def judge_fold(
        self, fold: int, learned_P: NDArray[np.bool_], held_P: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Train on some rows and judge others; returns probabilities [M, K]."""
        train, side = self._params.train, self._params.train.input_size
        shape, loading = (self.data.channels, side, side), self._params.loading
        with fold_project(self._root, self._candidates, learned_P, held_P) as project:
            images = open_split(
                project, "train", input_shape=shape, loading=loading, crop=self._policy.crop
            )
            architecture = Architecture(name=train.model, arguments={"width": 1.0})
            model = initial_model(architecture, images, self.data, train)
            if train.init_from is not None and not self._has_seen_all(train.init_from):
                origin = local_origin(self._root, train)
                assert origin.file is not None, "there are weights where they are named"
                put_weights(model, origin.file, origin.start, self.data.classes)
            self._fit(model, images, fold)
            model = model.cpu().float().to(memory_format=torch.contiguous_format).eval()
            held = open_split(project, "val", input_shape=shape, loading=loading)
            assert (held.targets_N == self._candidates.labels_P[held_P]).all(), "of the same rows"
            return self._judged(model, held)

    def _fit(self, model: nn.Module, images: SplitImages, fold: int) -> None:
        review = self._params.label_review

        def report(progress: Progress) -> None:
            done = fold + progress.step / progress.total_steps
            self._progress(done / review.folds, "label review")

        fit(
            model,
            images,
            train=self._params.train,
            augment=self._params.augment,
            epochs=review.epochs,
            learning_rate=self._params.train.learning_rate,
            teacher=None,
            report=report,
        )

    def _judged(self, model: nn.Module, images: SplitImages) -> NDArray[np.float32]:
        at_once = images_at_once(*images.input_shape[1:], most=_MOST)
        probs_MK = np.empty((len(images), len(self.data.classes)), np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), at_once):
                positions_B = np.arange(start, min(start + at_once, len(images)))
                logits_BK = model(torch.from_numpy(to_input(images.take(positions_B))))
                probs_MK[positions_B] = softmax(logits_BK.numpy())
        return probs_MK

    def _has_seen_all(self, weights: str) -> bool:
        """Whether weights come from this project, whose training saw the held-out images too."""
        own = (self._root / MODELS).resolve()
        if weights == CHAMPION or weights.startswith("models:/"):
            return True
        return own in (self._root / weights).resolve().parents
