"""Predicting with a registered version."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import pytest
from finished_project import CLASSES, band_image, make_project, project_params

from imagemill import tracking
from imagemill.errors import IntegrityError, ServiceError, SourceError, UnknownNameError
from imagemill.params import Params


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, Params]:
    """A project that was registered."""
    root = tmp_path_factory.mktemp("registered")
    shutil.copy(empty_store, root / "mlflow.db")
    params = make_project(root)
    tracking.register(root, params, log=lambda line: None)
    return root, params


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An image file of each class, in the order of the classes."""
    folder = tmp_path_factory.mktemp("images")
    for name in CLASSES:
        cv2.imwrite(str(folder / f"{name}.png"), band_image(name))
    return [folder / f"{name}.png" for name in CLASSES]


def artifact(root: Path, variant: str, name: str) -> Path:
    """A file of a registered variant."""
    (path,) = (root / "mlartifacts").glob(f"models/*/artifacts/data/{variant}/{name}")
    return path


def test_answers_name_image_and_class(registered: tuple[Path, Params], images: list[Path]) -> None:
    """Each image gets its own class, in the order asked."""
    answers = tracking.predict(*registered, images, "champion")
    assert [answer["image"] for answer in answers] == [str(image) for image in images]
    assert [answer["class"] for answer in answers] == CLASSES


def test_probabilities_sum_to_one(registered: tuple[Path, Params], images: list[Path]) -> None:
    """Every class has a probability, the best one is given again."""
    (answer,) = tracking.predict(*registered, images[:1], "challenger")
    assert set(answer["probabilities"]) == set(CLASSES)
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["probability"] == answer["probabilities"]["bottom"]


def test_views_are_averaged(registered: tuple[Path, Params], images: list[Path]) -> None:
    """Predicting shows the views evaluation did; mirrored bands are the same bands."""
    root, params = registered
    seen = params.evaluate.model_copy(update={"views": ("identity", "mirror")})
    mirrored = params.model_copy(update={"evaluate": seen})
    plain = tracking.predict(root, params, images, "champion")
    both = tracking.predict(root, mirrored, images, "champion")
    for one, other in zip(plain, both, strict=True):
        # softmax in float64, its mean over views kept as float32
        assert other["probability"] == pytest.approx(one["probability"], abs=1e-6)


def test_more_images_than_a_batch(registered: tuple[Path, Params], images: list[Path]) -> None:
    """Images beyond one batch are answered too."""
    many = [images[index % 3] for index in range(150)]
    answers = tracking.predict(*registered, many, "champion")
    assert [answer["class"] for answer in answers] == [CLASSES[index % 3] for index in range(150)]


def test_unknown_alias_names_the_nearest(
    registered: tuple[Path, Params], images: list[Path]
) -> None:
    """A mistyped alias is answered with the right one."""
    with pytest.raises(UnknownNameError, match="did you mean 'champion'"):
        tracking.predict(*registered, images, "champoin")


def test_missing_image(registered: tuple[Path, Params], tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(SourceError, match=r"nowhere\.png cannot be read: No such file"):
        tracking.predict(*registered, [tmp_path / "nowhere.png"], "champion")


def test_not_an_image(registered: tuple[Path, Params], tmp_path: Path) -> None:
    """A file that is no image is named."""
    (tmp_path / "words.png").write_text("words")
    with pytest.raises(SourceError, match=r"words\.png cannot be decoded"):
        tracking.predict(*registered, [tmp_path / "words.png"], "champion")


# Other inputs than files ----------------------------------------------------------------------


def stream(
    project: tuple[Path, Params], *names: str, stdin: bytes = b""
) -> list[tuple[str, str | None]]:
    """Name and class of each answer."""
    answers = tracking.predict_stream(*project, names, "champion", stdin=io.BytesIO(stdin))
    return [(Path(answer["image"]).stem, answer.get("class")) for answer in answers]


def packed(images: list[Path]) -> bytes:
    """A shard of images, each with its class beside it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for image in images:
            tar.add(image, arcname=f"x/{image.name}")
            label = tarfile.TarInfo(f"x/{image.stem}.cls")
            tar.addfile(label, io.BytesIO(b""))
    return stream.getvalue()


EXPECTED = [(name, name) for name in CLASSES]


def test_folder_stands_for_its_images(registered: tuple[Path, Params], images: list[Path]) -> None:
    """Every image below a folder, by name."""
    assert stream(registered, str(images[0].parent)) == EXPECTED


def test_shard_stands_for_its_images(
    registered: tuple[Path, Params], images: list[Path], tmp_path: Path
) -> None:
    """Members of a tar that are images; labels beside them are not read as such."""
    (tmp_path / "some.tar").write_bytes(packed(images))
    assert stream(registered, str(tmp_path / "some.tar")) == EXPECTED


def test_standard_input_may_be_an_image(
    registered: tuple[Path, Params], images: list[Path]
) -> None:
    """The bytes of one image, called -."""
    assert stream(registered, "-", stdin=images[0].read_bytes()) == [("-", "bottom")]


def test_standard_input_may_be_a_shard(registered: tuple[Path, Params], images: list[Path]) -> None:
    """A tar that comes through a pipe."""
    assert stream(registered, "-", stdin=packed(images)) == EXPECTED


def test_standard_input_may_be_names(registered: tuple[Path, Params], images: list[Path]) -> None:
    """One input a line, as `find` prints them."""
    assert stream(registered, "-", stdin="\n".join(map(str, images)).encode()) == EXPECTED


def test_damaged_image_of_many_is_told_and_the_rest_answered(
    registered: tuple[Path, Params], images: list[Path], tmp_path: Path
) -> None:
    """In its place stands an error; nothing is left out in silence."""
    (tmp_path / "a.png").write_bytes(b"words")
    shutil.copy(images[2], tmp_path / "top.png")
    assert stream(registered, str(tmp_path)) == [("a", None), ("top", "top")]


def test_folder_without_images_is_refused(registered: tuple[Path, Params], tmp_path: Path) -> None:
    """The message says what was expected."""
    with pytest.raises(SourceError, match=r"holds no image: expected files that end in \.bmp"):
        stream(registered, str(tmp_path))


def test_command_prints_a_line_of_json_an_image(
    registered: tuple[Path, Params], images: list[Path]
) -> None:
    """JSON lines on standard output; status 2 if an image could not be answered."""
    done = subprocess.run(
        [sys.executable, "-m", "imagemill", "predict", "--json", "-"],
        cwd=registered[0],
        input="\n".join([*map(str, images), "mlflow.db"]),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("class") for line in lines] == [*CLASSES, None]
    assert done.returncode == 2
    assert "imagemill: mlflow.db cannot be decoded: expected an image file\n" in done.stderr


def test_no_registry_yet(tmp_path: Path, images: list[Path]) -> None:
    """Before the first run there is nothing to ask, and none is made."""
    params = make_project(tmp_path)
    with pytest.raises(ServiceError, match="there is no registry yet"):
        tracking.predict(tmp_path, params, images, "champion")
    assert not (tmp_path / "mlflow.db").exists()


def test_no_version_yet(registered: tuple[Path, Params], images: list[Path]) -> None:
    """A registry without versions of this model says so."""
    root, _ = registered
    other = project_params(root, model_name="another")
    with pytest.raises(ServiceError, match="'another' has no registered version yet"):
        tracking.predict(root, other, images, "champion")


@pytest.mark.parametrize("name", ["model.onnx", "model.json"])
def test_swapped_artifact_is_refused(
    tmp_path: Path, empty_store: Path, images: list[Path], name: str
) -> None:
    """Bytes other than the registered ones are not run, even if model.json agrees with them."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    params = make_project(tmp_path)
    tracking.register(tmp_path, params, log=lambda line: None)
    swapped = artifact(tmp_path, "int8", name)
    shutil.copy(artifact(tmp_path, "base", name), swapped)
    with pytest.raises(IntegrityError, match=f"{name} is not what was registered as version 4"):
        tracking.predict(tmp_path, params, images, "champion")


def test_predicting_needs_no_torch(registered: tuple[Path, Params], images: list[Path]) -> None:
    """A champion that ships as ONNX answers without torch."""
    code = (
        "import sys; from pathlib import Path; from imagemill.params import read_params; "
        "from imagemill.tracking import predict; root = Path.cwd(); "
        f"predict(root, read_params(root), [Path({str(images[0])!r})], 'champion'); "
        "print('torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=registered[0], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["False"]
