"""The process that decodes: `python -m imagemill.loading.worker`, started by `loading.pool`.

Its task comes as JSON in the arguments, with the parent's process id, its own number and the
descriptor of the shared memory; rows to fill come on standard input and answers go to standard
output. The input ends when the parent does, however it ends, and so does this process.
"""

import contextlib
import os
import signal
import sys
import traceback
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray

from imagemill.augment import Policy, compile_policy
from imagemill.errors import UserError
from imagemill.loading.messages import (
    ANSWER,
    DONE,
    FAULT,
    PIECE_ROWS,
    REQUEST,
    USER_FAULT,
    Task,
)
from imagemill.loading.orphans import die_with_parent
from imagemill.loading.slots import Slots
from imagemill.loading.split_images import SplitImages, open_split


def main() -> None:
    """Fill rows until nobody asks for more."""
    # Ctrl-C reaches the whole process group; the parent decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent, number, descriptor = map(int, sys.argv[2:])
    die_with_parent(parent)
    task = Task.model_validate_json(sys.argv[1])
    cv2.setNumThreads(1)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get among the answers
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        _serve(task, number, descriptor, answers)


def _serve(task: Task, number: int, descriptor: int, answers: IO[bytes]) -> None:
    slot = -1
    try:
        worker = _Worker(task, number, descriptor)
        while len(request := sys.stdin.buffer.read(REQUEST.size)) == REQUEST.size:
            slot, start, stop, epoch = REQUEST.unpack(request)
            worker.fill(slot, start, stop, epoch)
            _answer(answers, DONE, slot, "")
    except UserError as error:
        _answer(answers, USER_FAULT, slot, f"{type(error).__name__} {error}")
    except BrokenPipeError:
        raise
    except Exception:
        # The parent raises this again; here nobody would see it.
        _answer(answers, FAULT, slot, traceback.format_exc())


class _Worker:
    """Decodes and augments into shared memory."""

    def __init__(self, task: Task, number: int, descriptor: int) -> None:
        self._slots = Slots(task.shape, descriptor)
        self._pulse_2 = self._slots.pulses_W2[number]
        self._policy: Policy = compile_policy(
            task.augment.online, seed=task.augment.seed, online=True
        )
        self._images: SplitImages = open_split(
            task.root,
            task.split,
            input_shape=task.input_shape,
            loading=task.loading,
            crop=self._policy.crop,
            beat=self._beat,
        )

    def fill(self, slot: int, start: int, stop: int, epoch: int) -> None:
        """Put the images of some rows of a slot where they belong."""
        positions_R, pixels_RHWC = self._slots.positions(slot), self._slots.pixels(slot)
        for first in range(start, stop, PIECE_ROWS):
            rows = slice(first, min(first + PIECE_ROWS, stop))
            self._pulse_2[1] = first
            self._beat()
            self._fill_piece(positions_R[rows], epoch, pixels_RHWC[rows])

    def _fill_piece(
        self, positions_B: NDArray[np.int64], epoch: int, out_BHWC: NDArray[np.uint8]
    ) -> None:
        images = self._images
        pixels_BHWC = images.take(positions_B, epoch=epoch, out=out_BHWC)
        changed = self._policy.apply(pixels_BHWC, images.hashes_N[positions_B], epoch=epoch)
        if changed is not out_BHWC:
            np.copyto(out_BHWC, changed)

    def _beat(self) -> None:
        self._pulse_2[0] += 1


def _answer(answers: IO[bytes], kind: bytes, slot: int, text: str) -> None:
    body = text.encode()
    answers.write(ANSWER.pack(kind, slot, len(body)) + body)
    answers.flush()


if __name__ == "__main__":
    main()
