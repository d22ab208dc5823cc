"""Facts about runtimes: every saved variant behind one call, and the export that feeds them."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from imagemill.errors import IntegrityError, UnknownNameError
from imagemill.models import load_model
from imagemill.records import ModelCard
from imagemill.runtimes import RUNTIMES, check_export, export_onnx, open_variant, runtimes_of

IMAGES = np.random.default_rng(0).random((5, 1, 12, 12), dtype=np.float32)


@pytest.fixture
def base(trained: Path, tmp_path: Path) -> Path:
    """A copy of a trained base that a test may damage."""
    return Path(shutil.copytree(trained / "models" / "base", tmp_path / "base"))


class Tiny(nn.Module):
    """A net of one convolution; `factor` makes it another function."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(1, 3, 12)
        self.factor = factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.convolution(images).flatten(1) * self.factor
        return logits


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_gives_the_logits_of_the_eager_net(runtime: str, trained: Path) -> None:
    """One net, one answer, to float32 rounding over a few layers, for any number of images."""
    model, _ = load_model(trained / "models" / "base")
    predict = open_variant(trained / "models" / "base", threads=1, runtime=runtime)
    with torch.inference_mode():
        expected = model(torch.from_numpy(IMAGES)).numpy()
    for count in (1, 5):
        logits = predict(IMAGES[:count])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[:count], atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_changed_byte_is_refused(runtime: str, base: Path) -> None:
    """A file whose sha256 is not the one on record is not run."""
    file = base / RUNTIMES[runtime].file
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match="sha256"):
        open_variant(base, threads=1, runtime=runtime)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_missing_file_is_named(runtime: str, base: Path) -> None:
    """The error names the file that is gone."""
    (base / RUNTIMES[runtime].file).unlink()
    with pytest.raises(IntegrityError, match=RUNTIMES[runtime].file):
        open_variant(base, threads=1, runtime=runtime)


def test_without_a_name_the_variant_opens_in_its_own_runtime(base: Path) -> None:
    """model.json says what a variant ships in; files of other runtimes are not touched."""
    card = ModelCard.read(base / "model.json")
    card.model_copy(update={"runtime": "onnxruntime"}).write(base / "model.json")
    (base / "model.safetensors").unlink()
    assert open_variant(base, threads=1)(IMAGES).shape == (5, 3)


def test_an_unknown_runtime_is_answered_with_the_nearest(base: Path) -> None:
    """A wrong name gets the right one as a suggestion."""
    with pytest.raises(UnknownNameError, match="did you mean 'onnxruntime'"):
        open_variant(base, threads=1, runtime="onnxruntim")


def test_a_variant_without_the_file_of_a_runtime_says_what_it_has(base: Path) -> None:
    """A runtime that exists but not for this variant is a named error with the alternatives."""
    card = ModelCard.read(base / "model.json")
    files = {"model.onnx": card.files["model.onnx"]}
    card.model_copy(update={"files": files}).write(base / "model.json")
    assert runtimes_of(ModelCard.read(base / "model.json")) == ["onnxruntime", "openvino"]
    with pytest.raises(UnknownNameError, match="runtime of variant base is called 'eager'"):
        open_variant(base, threads=1, runtime="eager")


def test_an_onnx_variant_runs_without_torch(base: Path) -> None:
    """Serving a variant in ONNX Runtime does not import torch."""
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from imagemill.runtimes import open_variant\n"
        "predict = open_variant(Path(sys.argv[1]), threads=1, runtime='onnxruntime')\n"
        "predict(np.zeros((1, 1, 12, 12), np.float32))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(base)], check=False).returncode == 0


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a tiny net was exported."""
    folder = tmp_path_factory.mktemp("exported")
    export_onnx(Tiny(1.0).eval(), (1, 12, 12), folder / "model.onnx")
    return folder


def test_an_export_is_one_file_that_tells_nothing_of_this_machine(
    exported: Path, tmp_path: Path
) -> None:
    """No second file with weights, no path of a source file inside, and the same bytes twice."""
    assert [path.name for path in exported.iterdir()] == ["model.onnx"]
    content = (exported / "model.onnx").read_bytes()
    assert b".py" not in content
    export_onnx(Tiny(1.0).eval(), (1, 12, 12), tmp_path / "again.onnx")
    assert content == (tmp_path / "again.onnx").read_bytes()


def test_an_export_of_another_function_is_refused(exported: Path) -> None:
    """The check on real images notices a graph that says something else."""
    with pytest.raises(IntegrityError, match="differs from the net"):
        check_export(Tiny(1.01).eval(), exported / "model.onnx", [IMAGES])


def test_a_faithful_export_reports_its_difference(exported: Path) -> None:
    """The largest difference is that of float32 rounding."""
    assert check_export(Tiny(1.0).eval(), exported / "model.onnx", [IMAGES]) < 1e-5
