"""The cache: an image is decoded for the audit once in its life."""

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_images import (
    Files,
    encoded,
    params_for,
    picture,
    pictures,
    quarantined,
    rows_of,
    run_stages,
    write_files,
)

from imagemill import records
from imagemill.audit import audit, cache
from imagemill.audit.cache import CACHE, Cache
from imagemill.audit.facts import FACTS, Facts
from imagemill.errors import DiskError
from imagemill.params import Params

FILES = pictures({"cat": 20, "dog": 20})


def audit_again(root: Path, files: Files, params: Params | None = None) -> tuple[int, int]:
    """Add files, run ingest and audit; (decoded, known) as the line says."""
    write_files(root / "raw", files)
    params = params or params_for(audit={"quarantine_budget": 1.0})
    run_stages(root, params, until="ingest")
    lines: list[str] = []
    audit(root, params.audit, log=lines.append, workers=1)
    words = lines[-1].partition("; decoded ")[2].replace(",", "").split()
    return int(words[0]), int(words[2])


def digests_of(*contents: bytes) -> bytes:
    """As the cache is asked: one digest after the other."""
    return b"".join(hashlib.sha256(content).digest() for content in contents)


def some_facts(count: int) -> Facts:
    """Facts that differ."""
    facts_N = np.zeros(count, FACTS)
    facts_N["width"] = facts_N["height"] = np.arange(count) + 1
    facts_N["hash"] = np.arange(count)
    return facts_N


# The stage -----------------------------------------------------------------------------------


def test_second_audit_decodes_nothing(tmp_path: Path) -> None:
    """The same images again: all are known, broken ones too, and the outputs are the same bytes."""
    files = FILES | {"cat/broken.jpg": encoded(3)[:-9], "cat/empty.jpg": b""}
    assert audit_again(tmp_path, files) == (41, 0)
    before = {path.name: path.read_bytes() for path in (tmp_path / records.AUDIT).iterdir()}
    assert audit_again(tmp_path, {}) == (0, 41)
    after = {path.name: path.read_bytes() for path in (tmp_path / records.AUDIT).iterdir()}
    assert before == after


def test_only_new_images_are_decoded(tmp_path: Path) -> None:
    """Three more images: three are decoded, however many there were."""
    audit_again(tmp_path, FILES)
    assert audit_again(tmp_path, {f"dog/x{n}.png": picture(900 + n) for n in range(3)}) == (3, 40)


def test_renamed_image_is_known(tmp_path: Path) -> None:
    """Bytes count, not names: in another place and class an image is still the same."""
    audit_again(tmp_path, FILES)
    (tmp_path / "raw/cat/003.png").rename(tmp_path / "raw/dog/new name.png")
    assert audit_again(tmp_path, {}) == (0, 40)


def test_another_threshold_decodes_nothing(tmp_path: Path) -> None:
    """Thresholds are applied to what is known."""
    audit_again(tmp_path, FILES)
    params = params_for(audit={"quarantine_budget": 1.0})
    size = params.audit.checks.size.model_copy(update={"action": "quarantine", "min_side": 9})
    checks = params.audit.checks.model_copy(update={"size": size})
    strict = params_for(audit={"quarantine_budget": 1.0, "checks": checks})
    with pytest.raises(Exception, match="fewer than two classes"):
        audit_again(tmp_path, {}, strict)
    listed = (tmp_path / ".imagemill/audit/quarantine.csv").read_text().splitlines()
    assert len(listed) == 41 and all("size" in line for line in listed[1:])
    assert audit_again(tmp_path, {}) == (0, 40)


def test_pixel_limit_holds_for_known_images(tmp_path: Path) -> None:
    """A lower limit refuses what was decoded before; a higher one decodes what was refused."""
    files = FILES | {"dog/large.png": picture(77, size=40)}
    low, high = (
        params_for(audit={"quarantine_budget": 1.0, "max_pixels": limit}) for limit in (1599, 1600)
    )
    audit_again(tmp_path, files, high)
    assert quarantined(tmp_path) == {}
    assert audit_again(tmp_path, {}, low) == (0, 41)
    assert quarantined(tmp_path) == {"dog/large": "over_large"}
    (tmp_path / CACHE).unlink()
    audit_again(tmp_path, {}, low)
    assert audit_again(tmp_path, {}, high) == (1, 40)
    assert quarantined(tmp_path) == {}


def test_timeout_is_not_remembered(tmp_path: Path) -> None:
    """It may have been the machine's fault, so the image gets another chance."""
    files = FILES | {"dog/slow.png": picture(78, size=3000)}
    hasty = params_for(audit={"quarantine_budget": 1.0, "decode_seconds": 0.02})
    audit_again(tmp_path, files, hasty)
    assert quarantined(tmp_path) == {"dog/slow": "timeout"}
    assert audit_again(tmp_path, {}) == (1, 40)
    assert quarantined(tmp_path) == {}


def test_copies_are_decoded_once(tmp_path: Path) -> None:
    """Of equal images one is decoded."""
    copies = {f"dog/copy{n}.png": FILES["dog/020.png"] for n in range(9)}
    assert audit_again(tmp_path, FILES | copies) == (40, 0)


def test_lost_cache_costs_a_decoding(tmp_path: Path) -> None:
    """Without the file everything is decoded again, with the same result."""
    audit_again(tmp_path, FILES)
    kept = rows_of(tmp_path / records.KEEP)
    (tmp_path / CACHE).unlink()
    assert audit_again(tmp_path, {}) == (40, 0)
    assert rows_of(tmp_path / records.KEEP) == kept


# The file ------------------------------------------------------------------------------------


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    """Facts and reasons of any number of images, asked in any order and more than once."""
    contents = [bytes([n % 256, n // 256]) for n in range(3000)]
    facts_N = some_facts(3000)
    facts_N["fault"][7] = b"corrupt"
    reasons = [f"reason {n}" if n == 7 else None for n in range(3000)]
    with Cache(tmp_path / "c.sqlite") as known:
        known.add(digests_of(*contents), facts_N, reasons)
    order = [*np.random.default_rng(0).permutation(3000).tolist(), 7, 8, 9]
    asked = digests_of(*(contents[n] for n in order), b"unknown")
    with Cache(tmp_path / "c.sqlite") as known:
        found = known.find(asked, max_pixels=10**9)
    assert found.known_N.tolist() == [True] * 3003 + [False]
    assert np.array_equal(found.facts_N[:-1], facts_N[order])
    assert found.reasons[:-1] == [reasons[n] for n in order]


def test_another_version_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What other code measured is not believed."""
    with Cache(tmp_path / "c.sqlite") as known:
        known.add(digests_of(b"a"), some_facts(1), [None])
    monkeypatch.setattr(cache, "_VERSION", "measurement 0")
    with Cache(tmp_path / "c.sqlite") as known:
        assert not known.find(digests_of(b"a"), max_pixels=9).known_N.any()


@pytest.mark.parametrize("junk", [b"not a database" * 99, b""])
def test_damaged_file_starts_anew(tmp_path: Path, junk: bytes) -> None:
    """A cache is never worth a failed run."""
    (tmp_path / "c.sqlite").write_bytes(junk)
    with Cache(tmp_path / "c.sqlite") as known:
        known.add(digests_of(b"a"), some_facts(1), [None])
        assert known.find(digests_of(b"a"), max_pixels=9).known_N.all()


def test_beginning_of_a_digest_is_not_enough(tmp_path: Path) -> None:
    """An entry belongs to all 256 bits, though only 63 of them find it."""
    digest = hashlib.sha256(b"a").digest()
    with Cache(tmp_path / "c.sqlite") as known:
        known.add(digest, some_facts(1), [None])
        other = digest[:31] + bytes([digest[31] ^ 1])
        assert not known.find(other, max_pixels=9).known_N.any()


def test_unwritable_folder_is_told(tmp_path: Path) -> None:
    """A file where the folder should be is the user's to remove."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match="cannot write"):
        Cache(tmp_path / "file" / "c.sqlite")


def test_entries_are_few_bytes(tmp_path: Path) -> None:
    """Ten million images need no more than 3 GB."""
    contents = [n.to_bytes(4, "little") for n in range(20_000)]
    with Cache(tmp_path / "c.sqlite") as known:
        known.add(digests_of(*contents), some_facts(20_000), [None] * 20_000)
    database: Any = sqlite3.connect(tmp_path / "c.sqlite")
    [(pages,)], [(size,)] = (
        database.execute(f"PRAGMA {name}").fetchall() for name in ("page_count", "page_size")
    )
    database.close()
    assert pages * size / 20_000 < 300
