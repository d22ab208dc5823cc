"""Training that waits for its images is told so once, with a hint that fits its loading."""

from imagemill.params import LoadingParams

TOO_MUCH = 0.2  # of the time
_WINDOW_SECONDS = 5.0
_LEAST_SECONDS = 2.0  # a run that is over sooner is not worth a word


class Waiting:
    """Keeps count of the time spent waiting for images.

    Args:
        loading: Where images come from.
        is_cached: Whether they come from the decoded cache.
        crop: Whether a random box is cut out of each, so that no cache can keep them.
        decoded_bytes: What the decoded split needs.
    """

    def __init__(
        self, loading: LoadingParams, *, is_cached: bool, crop: bool, decoded_bytes: int
    ) -> None:
        self._hint = hint(loading, is_cached=is_cached, crop=crop, decoded_bytes=decoded_bytes)
        self._waited = self._seconds = 0.0
        self._first = True
        self._told = False

    def over(self, seconds: float, share: float) -> str | None:
        """What there is to say after a report; None: nothing, or it was said before.

        Args:
            seconds: Since the last report.
            share: Of them spent waiting, 0..1.
        """
        if self._first:  # decoding processes start in it
            self._first = False
            return None
        self._waited += seconds * share
        self._seconds += seconds
        if self._seconds < _WINDOW_SECONDS:
            return None
        share = self._waited / self._seconds
        found = self._said(share, f"of the last {self._seconds:.0f} s")
        self._waited = self._seconds = 0.0
        return found

    def at_the_end(self, seconds: float, share: float) -> str | None:
        """The same for the whole run."""
        return self._said(share, "of its time") if seconds >= _LEAST_SECONDS else None

    def _said(self, share: float, of_what: str) -> str | None:
        if self._told or share <= TOO_MUCH:
            return None
        self._told = True
        return f"training waited for images {share:.0%} {of_what}: {self._hint}"


def hint(loading: LoadingParams, *, is_cached: bool, crop: bool, decoded_bytes: int) -> str:
    """What makes images come sooner.

    Args:
        loading: Where images come from.
        is_cached: Whether they come from the decoded cache.
        crop: Whether a random box is cut out of each, so that no cache can keep them.
        decoded_bytes: What the decoded split needs.
    """
    if is_cached:
        return (
            "they come out of the decoded cache, so it is augment.online that takes the time; take "
            "fewer or cheaper operations, or move some to augment.offline"
        )
    ways = [f"raise loading.workers (now {loading.workers}) while cores are free"]
    if not crop:
        ways.append(
            f"raise loading.cache_bytes to {decoded_bytes:,}, so that each is decoded only once"
        )
    if loading.layout == "streaming":
        ways.append(
            "raise loading.stream_cache_bytes, so that shards are not fetched again in each epoch, "
            "or train from shards in data/ (layout: local)"
        )
    return ", or ".join(ways)
