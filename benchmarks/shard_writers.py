"""How others pack the same samples, each with its own defaults where it has some.

A sample is the path of an image and its class; what is packed are the file's bytes and the class.
Shards close at 10,000 images or 256 MB where the writer can be told, else at 64 MB.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

Samples = Sequence[tuple[str, int]]

_MAX_IMAGES, _MAX_BYTES = 10_000, 1 << 28
_CHUNK_BYTES = 1 << 26


def _webdataset(samples: Samples, out: Path) -> None:
    from webdataset import ShardWriter

    pattern = str(out / "train-%06d.tar")
    with ShardWriter(pattern, maxcount=_MAX_IMAGES, maxsize=_MAX_BYTES, verbose=0) as writer:
        for number, (path, target) in enumerate(samples):
            content = Path(path).read_bytes()
            writer.write({"__key__": f"{number:08d}", "jpg": content, "cls": target})


def _litdata_sample(sample: tuple[str, int]) -> dict[str, Any]:
    path, target = sample
    return {"image": Path(path).read_bytes(), "label": target}


def _litdata(samples: Samples, out: Path) -> None:
    import litdata

    litdata.optimize(
        fn=_litdata_sample,
        inputs=list(samples),
        output_dir=str(out / "litdata"),
        chunk_bytes=_CHUNK_BYTES,
        num_workers=1,
    )


def _streaming(samples: Samples, out: Path, *, hashes: Sequence[str] = ()) -> None:
    from streaming import MDSWriter

    columns = {"image": "bytes", "label": "int"}
    with MDSWriter(
        out=str(out / "mds"), columns=columns, size_limit=_CHUNK_BYTES, hashes=list(hashes)
    ) as writer:
        for path, target in samples:
            writer.write({"image": Path(path).read_bytes(), "label": target})


WRITERS: dict[str, Callable[[Samples, Path], None]] = {
    "webdataset.ShardWriter": _webdataset,
    "litdata.optimize": _litdata,
    "streaming.MDSWriter": _streaming,
    "streaming.MDSWriter, sha256": partial(_streaming, hashes=("sha256",)),
}
