"""What is suggested to a person, and the CSV it stands in."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple


class Suggestion(NamedTuple):
    """A label that is likely wrong."""

    rank: int  # from 1, the likeliest error first
    key: str
    sha256: str  # of the raw image: a decision is about these bytes
    split: str
    label: str  # as given
    suggested_label: str
    self_confidence: float  # out-of-fold probability of the given label
    suggested_probability: float


def as_csv(suggestions: Sequence[Suggestion]) -> bytes:
    """reports/label_review.csv: a header and a line a suggestion."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Suggestion._fields)
    for row in suggestions:
        probabilities = (f"{row.self_confidence:.4f}", f"{row.suggested_probability:.4f}")
        writer.writerow((*row[:-2], *probabilities))
    return text.getvalue().encode()
