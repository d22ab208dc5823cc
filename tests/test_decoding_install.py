"""Facts about installing without what the compiled part needs."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from encoded_images import in_pure_python

from imagemill.decoding import Decoder, compiled

REPOSITORY = Path(__file__).resolve().parent.parent


def build(into: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build the compiled part somewhere else than where it is in use."""
    folders = ["--build-lib", str(into / "lib"), "--build-temp", str(into / "temp")]
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", *folders],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_installs_without_a_compiler(tmp_path: Path) -> None:
    """A compiler that fails is a warning: the install goes on and holds no compiled part."""
    done = build(tmp_path, CC="false")
    assert (done.returncode, list(tmp_path.rglob("*.so"))) == (0, [])
    assert "failed" in done.stderr


def test_it_installs_without_the_headers(tmp_path: Path) -> None:
    """So does a libjpeg that is not there, or is another one."""
    (tmp_path / "jpeglib.h").write_text("/* an old libjpeg, without its version */\n")
    done = build(tmp_path, CFLAGS=f"-I{tmp_path}")
    assert (done.returncode, list(tmp_path.rglob("*.so"))) == (0, [])
    assert "libjpeg-turbo 2.1 or newer is needed" in done.stderr


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    """With all that GCC can say against it."""
    if compiled.native is None:
        pytest.skip("built only where libjpeg-turbo's headers are")
    done = build(tmp_path, CFLAGS="-Wall -Wextra -Werror")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("_native*.so"))) == 1, done.stderr


def test_its_absence_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line a process says what is missing and how to get it."""
    compiled.tell_if_missing.cache_clear()
    with in_pure_python(), caplog.at_level(logging.WARNING):
        for _ in range(2):
            Decoder((3, 8, 8), "linear")
    compiled.tell_if_missing.cache_clear()
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "images are decoded in pure Python"
    ]
