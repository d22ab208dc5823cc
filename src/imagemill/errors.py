"""What can go wrong, named by what happened.

    ImagemillError
    └── UserError                 exit status 2: one sentence, nothing half-written
        ├── ParamsError           params.yaml: unknown key, wrong type, broken rule between knobs
        ├── UnknownNameError      a name that is in none of our tables (carries the nearest one)
        ├── SourceError           the source is missing, empty, unreadable or has one class only
        ├── ReviewError           labels/review.csv does not say what it must
        ├── BudgetError           more images were quarantined than the budget allows
        ├── DiskError             not enough room, or a folder that cannot be written
        ├── InputSizeError        images too small for the chosen model
        ├── ShapeError            arrays whose shapes do not fit
        ├── IntegrityError        bytes on disk are not the bytes on record
        ├── LoaderError           a decoding process died or hung, or a shard could not be fetched
        ├── BusyError             another run holds the lock, or a port is taken
        ├── ServiceError          a Prefect or MLflow service did not start, or died
        ├── TrainingError         the loss is not finite, or the ledger is not whole
        └── ToBeResumedError      training was asked to end and wrote a checkpoint: exit status 75

A bug of ours is an `AssertionError` or any other exception: exit status 1 and a traceback.
"""

from collections.abc import Iterable


class ImagemillError(Exception):
    """Root of all errors raised on purpose."""


class UserError(ImagemillError):
    """Something the user can put right; the message says how."""


class ParamsError(UserError):
    """params.yaml does not say what it must."""


class SourceError(UserError):
    """The source cannot be read as a labelled image set."""


class ReviewError(UserError):
    """labels/review.csv does not say what it must."""


class BudgetError(UserError):
    """More bad samples than the budget allows."""


class DiskError(UserError):
    """Not enough disk, or a folder that cannot be written."""


class InputSizeError(UserError):
    """The input is too small for the model."""


class ShapeError(UserError):
    """Arrays whose shapes do not fit together."""


class IntegrityError(UserError):
    """Bytes on disk differ from what was recorded."""


class LoaderError(UserError):
    """Images do not come: a process that decodes died or hung, or a store does not answer."""


class BusyError(UserError):
    """A lock is held or a port is taken."""


class ServiceError(UserError):
    """A service did not start, or died."""


class TrainingError(UserError):
    """Training cannot go on."""


class ToBeResumedError(UserError):
    """Training was asked to end; the next run goes on."""


class UnknownNameError(UserError):
    """A name that stands in none of our tables."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        from difflib import get_close_matches  # takes as long as all of this room

        names = sorted(known)
        nearest = get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        super().__init__(f"no {kind} is called {name!r}{hint} Known: {', '.join(names)}")
