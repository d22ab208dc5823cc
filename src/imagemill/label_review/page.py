"""The page on which a person decides: suggestions with pictures, and the lines to keep."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from imagemill import pages
from imagemill.label_review.suggestions import Suggestion
from imagemill.params import Params

if TYPE_CHECKING:
    from imagemill.label_review.thumbnails import Thumbnail


class Pair(NamedTuple):
    """How often one label is suggested in the place of another."""

    label: str
    suggested_label: str
    num_images: int


@dataclass(frozen=True)
class Review:
    """What the page shows.

    data_digest: Decisions kept by the browser belong to this data.
    classes: Names a label may have.
    num_examined: Images of each split that were looked at.
    num_lonely: Images whose class occurs in one fold only.
    num_reviewed: Doubtful labels a person has decided about before.
    suggestions: All of them.
    pictures: Of the first ones, which are shown.
    """

    data_digest: str
    classes: Sequence[str]
    num_examined: dict[str, int]
    num_lonely: int
    num_reviewed: int
    suggestions: Sequence[Suggestion]
    pictures: "Sequence[Thumbnail]"

    @property
    def cards(self) -> "list[tuple[Suggestion, Thumbnail]]":
        return list(zip(self.suggestions, self.pictures, strict=False))

    @property
    def pairs(self) -> list[Pair]:
        """Pairs among the shown suggestions, the most frequent first."""
        counts = Counter((row.label, row.suggested_label) for row, _ in self.cards)
        ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
        return [Pair(*names, count) for names, count in ordered]

    @property
    def splits(self) -> list[str]:
        """Splits among the shown suggestions."""
        return list(dict.fromkeys(row.split for row, _ in self.cards))


def render(params: Params, review: Review | None) -> bytes:
    """The page as HTML; every text from outside is escaped.

    Args:
        params: Says how the suggestions were found.
        review: None: the stage is switched off.
    """
    return pages.render("imagemill.label_review", {}, params=params, review=review)
