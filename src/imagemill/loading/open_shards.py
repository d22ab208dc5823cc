"""The layout that params.yaml asks for."""

from pathlib import Path

from imagemill.loading.digests import Beat
from imagemill.loading.shards import LocalShards, Shards
from imagemill.loading.streaming import StreamedShards
from imagemill.params import LoadingParams


def open_shards(root: Path, loading: LoadingParams, *, beat: Beat = lambda: None) -> Shards:
    """Shards of `loading.layout`, opened when they are first read.

    Args:
        root: The project's root.
        loading: Layout, and where to stream from.
        beat: Called while a shard is hashed or fetched, so that nobody takes it for a hang.
    """
    if loading.layout == "streaming":
        return StreamedShards(root, loading, beat=beat)
    return LocalShards(root, beat=beat)
