"""A thousand odd files, where a machine has them: IMAGEMILL_DATASETS names their folder."""

import csv
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from raw_images import params_for, quarantined, rows_of, run_stages

from imagemill import records
from imagemill.audit import audit, worker
from imagemill.decoding import decode

# Pillow reads icons, we do not; and numbers without a white are no picture.
ICON, RANGELESS = "ICO", frozenset(["I", "F"])
COPIES = frozenset(["duplicate", "label_conflict"])


class Dirt(NamedTuple):
    """The files, judged by the audit and by who collected them."""

    root: Path
    listed: dict[str, dict[str, str]]  # uri -> row of the manifest that comes with them
    kept: dict[str, dict[str, Any]]  # uri -> row of keep.parquet
    checks: dict[str, str]  # uri -> check of quarantine.parquet


@pytest.fixture(scope="module")
def dirt(tmp_path_factory: pytest.TempPathFactory) -> Dirt:
    """All files under two labels, audited."""
    folder = os.environ.get("IMAGEMILL_DATASETS")
    if folder is None or not (Path(folder) / "dirt.tar.gz").is_file():
        pytest.skip("IMAGEMILL_DATASETS names no folder that holds dirt.tar.gz")
    root = tmp_path_factory.mktemp("dirt")
    with tarfile.open(Path(folder) / "dirt.tar.gz") as tar:
        tar.extractall(root, filter="data")
    with (root / "dirt/manifest_pillow13.csv").open(encoding="utf-8") as table:
        listed = list(csv.DictReader(table))
    rows = [f"{row['path']},{'ab'[number % 2]}" for number, row in enumerate(listed)]
    (root / "dirt/list.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    params = params_for("dirt/list.csv", audit={"quarantine_budget": 1.0})
    run_stages(root, params, until="audit")
    uris = {row["key"]: row["uri"] for row in rows_of(root / records.MANIFEST)}
    return Dirt(
        root,
        {f"dirt/{row['path']}": row for row in listed},
        {uris[row["key"]]: row for row in rows_of(root / records.KEEP)},
        {uris[key]: check for key, check in quarantined(root).items()},
    )


def test_every_file_is_accounted_for(dirt: Dirt) -> None:
    """1,054 files: each is kept or quarantined."""
    assert len(dirt.listed) == 1054
    assert dirt.kept.keys() | dirt.checks.keys() == dirt.listed.keys()
    assert len(dirt.kept) == 891 and dirt.kept.keys().isdisjoint(dirt.checks)


def test_audit_agrees_with_the_manifest(dirt: Dirt) -> None:
    """Kept is what Pillow can load, but for icons, numbers without a white, and copies."""
    for uri, row in dirt.listed.items():
        # Where reading the orientation failed already the manifest says so there.
        fails = row["open_error"] or row["load_error"] or "error" in row["orientation"]
        ours = not fails and row["format"] != ICON and row["mode"] not in RANGELESS
        assert (uri in dirt.kept) == (ours and dirt.checks.get(uri) not in COPIES), uri


def test_modes_formats_and_sizes_are_those_of_the_manifest(dirt: Dirt) -> None:
    """What is kept is described as it is, upright."""
    for uri, kept in dirt.kept.items():
        row = dirt.listed[uri]
        assert (kept["mode"], kept["format"]) == (row["mode"], row["format"]), uri
        size = (int(row["width"]), int(row["height"]))
        # Pillow turns a TIFF while it loads it.
        turned = row["orientation"].isdigit() and int(row["orientation"]) in range(5, 9)
        if turned and row["format"] != "TIFF":
            size = size[::-1]
        assert (kept["width"], kept["height"]) == size, uri


def test_decoder_loads_all_that_is_kept(dirt: Dirt) -> None:
    """Training sees the same pixels as the audit: of the same size and the same mean."""
    for uri, kept in dirt.kept.items():
        pixels_HWC = decode((dirt.root / uri).read_bytes(), channels=3)
        assert pixels_HWC.shape == (kept["height"], kept["width"], 3), uri
        mean_3 = pixels_HWC.reshape(-1, 3).mean(axis=0) / 255
        # Decoders may differ by rounding.
        np.testing.assert_allclose(mean_3, kept["mean_rgb"], atol=0.01, err_msg=uri)


@pytest.mark.parametrize("scene", ["Landscape", "Portrait"])
def test_orientation_is_applied_once(dirt: Dirt, scene: str) -> None:
    """Eight files that store one photograph in eight ways decode to the same picture."""
    upright, *others = (
        decode((dirt.root / f"dirt/orient/{scene}_{number}.jpg").read_bytes(), channels=3)
        for number in range(1, 9)
    )
    for pixels_HWC in others:
        assert pixels_HWC.shape == upright.shape
        # Each file was compressed on its own, and has its number written on it.
        assert np.abs(pixels_HWC.astype(int) - upright).mean() < 12


def test_no_process_needs_a_gigabyte(dirt: Dirt, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel holds a worker to its limit, and this process stays far below one."""
    assert worker.MOST_BYTES < 1_000_000_000
    (dirt.root / ".imagemill/measured.sqlite").unlink()
    params = params_for("dirt/list.csv", audit={"quarantine_budget": 1.0}).audit
    peaks: list[int] = []

    class Watched(subprocess.Popen[bytes]):
        """A worker whose peak is read before it is ended."""

        def kill(self) -> None:
            status = Path(f"/proc/{self.pid}/status").read_text()
            peaks.extend(
                int(line.split()[1]) * 1024
                for line in status.splitlines()
                if line.startswith("VmHWM")
            )
            super().kill()

    monkeypatch.setattr("imagemill.audit.pool.subprocess.Popen", Watched)
    audit(dirt.root, params, log=lambda _: None, workers=2)
    assert 0 < max(peaks) < 1_000_000_000
    assert psutil.Process().memory_info().rss < 1_500_000_000
