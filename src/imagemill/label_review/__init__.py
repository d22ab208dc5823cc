"""Label review: labels that are likely wrong, found by models that never saw them."""

from imagemill.label_review.review import PAGE, label_review

__all__ = ["PAGE", "label_review"]
