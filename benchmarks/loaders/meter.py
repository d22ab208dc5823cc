"""CPU time of a case beside that of decoding alone, taken in turns of a few milliseconds.

A machine that is shared with others changes its speed by half from one second to the next, and for
all of its work: two figures can be compared only if they were taken in the same moments.
"""

import random
import resource
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import simplejpeg

_TURN_SECONDS = 0.02
_LOOK_BYTES = 100_000  # decoded between two looks at the clock
_LARGEST_IMAGE = 100_000_000
_PLACES = 8192


class Reading(NamedTuple):
    """What one epoch took.

    seconds, images: CPU seconds of this process, its threads and its children.
    decoding_seconds, decoded: The same of decoding alone.
    """

    seconds: float
    images: int
    decoding_seconds: float
    decoded: int

    @property
    def rate(self) -> float:
        """Images per CPU second."""
        return self.images / self.seconds

    @property
    def ratio(self) -> float:
        """Against decoding alone."""
        return self.rate * self.decoding_seconds / self.decoded


class Meter:
    """Call `turn` as often as the case allows.

    Decoding alone is simplejpeg's, of all images in turn, held in memory, at full size, into one
    buffer. No other decoder is faster (`benchmarks.loading` has them as cases).

    Args:
        datas: Encoded images.
    """

    def __init__(self, datas: Sequence[bytes]) -> None:
        self._datas = datas
        self._buffer = np.empty(_LARGEST_IMAGE, np.uint8)
        self._next = 0
        self._places = random.Random(0)
        self._between_looks = 1 + _LOOK_BYTES * len(datas) // sum(map(len, datas))
        self.start()

    def start(self) -> None:
        """Forget what was measured."""
        self._start = _cpu_seconds()
        self._decoding_seconds, self._decoded = 0.0, 0

    def turn(self) -> None:
        """Decode for as long as the case has worked since."""
        owing = self.seconds() - self._decoding_seconds
        if owing >= _TURN_SECONDS:
            self._decode(owing)

    def read(self, images: int) -> Reading:
        """What was measured since `start`, in which the case made so many images."""
        if not self._decoded:
            self._decode(_TURN_SECONDS)
        return Reading(self.seconds(), images, self._decoding_seconds, self._decoded)

    def seconds(self) -> float:
        """CPU seconds of the case since `start`."""
        return _cpu_seconds() - self._start - self._decoding_seconds

    def _decode(self, seconds: float) -> None:
        # Of this thread alone: the case may have others, which go on.
        start = time.thread_time()
        while (took := time.thread_time() - start) < seconds:
            some = self._datas[self._next : self._next + self._between_looks]
            # Where it lies in memory makes a difference; no place is favoured.
            buffer = self._buffer[self._places.randrange(_PLACES) :]
            for data in some:
                simplejpeg.decode_jpeg(data, buffer=buffer)
            self._next = (self._next + len(some)) % len(self._datas)
            self._decoded += len(some)
        self._decoding_seconds += took


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
