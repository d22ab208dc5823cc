"""One digest over the annotations of a shard: notices a change without keeping them twice."""

import hashlib

_MODULUS = 1 << 256


class AnnotationDigest:
    """Adds up digests of annotations, so that their order does not matter."""

    def __init__(self) -> None:
        self._sum: int | None = None

    def add(self, key: str, annotation: str) -> None:
        """Take in what is known of one image."""
        digest = hashlib.sha256(f"{key}\0{annotation}".encode()).digest()
        self._sum = ((self._sum or 0) + int.from_bytes(digest)) % _MODULUS

    def hexdigest(self) -> str | None:
        """The digest so far; None if there was nothing."""
        return None if self._sum is None else f"{self._sum:064x}"
