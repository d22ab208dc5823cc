"""Facts about explanations: which images, what is drawn, and what it means."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trained_project import Recorder, small_params

from imagemill.errors import ParamsError
from imagemill.explain import explain
from imagemill.explain.choice import choose
from imagemill.explain.layers import chosen_layers, feature_maps, first_filters
from imagemill.explain.saliency import camera, heats, last_maps
from imagemill.randomness import key_hashes
from imagemill.records import Explanation
from pipelines.explain import explain as explain_flow

HASHES = key_hashes(f"image{number}" for number in range(200))
LABELS = np.arange(200) % 10


class Pooled(nn.Module):
    """A net whose head averages over places: there both heats are the same."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.last(torch.relu(self.first(images))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


IMAGES = np.random.default_rng(0).random((4, 1, 12, 12), dtype=np.float32)
CLASSES = np.array([0, 1, 2, 0])


def test_a_third_of_the_images_are_mistakes() -> None:
    """Mistakes are shown where there are any, after the images that are right."""
    predicted = np.where(np.arange(200) < 50, (LABELS + 1) % 10, LABELS)
    chosen = choose(HASHES, LABELS, predicted, count=6, seed=0)
    assert (LABELS[chosen] == predicted[chosen]).tolist() == [True] * 4 + [False] * 2


def test_images_are_spread_over_the_classes() -> None:
    """Ten images of ten classes without a mistake are one of each class."""
    chosen = choose(HASHES, LABELS, LABELS, count=10, seed=0)
    assert sorted(LABELS[chosen]) == list(range(10))


def test_the_choice_is_the_seeds() -> None:
    """The same seed chooses the same images, another seed others."""
    first, again, other = (
        choose(HASHES, LABELS, LABELS, count=6, seed=seed).tolist() for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize("num_wrong", [0, 1, 199, 200])
def test_as_many_images_as_asked_for_are_chosen(num_wrong: int) -> None:
    """All right, all wrong or nearly so: the number is kept and no image comes twice."""
    predicted = np.where(np.arange(200) < num_wrong, (LABELS + 1) % 10, LABELS)
    chosen = choose(HASHES, LABELS, predicted, count=6, seed=0)
    assert len(set(chosen.tolist())) == 6


def test_fewer_images_than_asked_for_are_all_chosen() -> None:
    """A small test split is shown whole."""
    chosen = choose(HASHES[:3], LABELS[:3], LABELS[:3], count=6, seed=0)
    assert sorted(chosen.tolist()) == [0, 1, 2]


def test_both_heats_agree_where_the_head_averages_over_places() -> None:
    """HiResCAM and Grad-CAM are one thing for a net with global average pooling."""
    evidence = camera(Pooled().eval(), IMAGES, CLASSES, ["norm"])
    np.testing.assert_allclose(evidence["HiResCAM"], evidence["Grad-CAM"], atol=1e-5)


def test_heat_is_the_share_of_the_evidence() -> None:
    """Heat has the size of the image and lies between 0 and 1."""
    for evidence in camera(Pooled().eval(), IMAGES, CLASSES, ["norm"]).values():
        heat = heats(evidence)
        assert heat.shape == (4, 12, 12)
        assert heat.min() >= 0
        assert heat.max() == pytest.approx(1)


def test_heat_lies_where_the_evidence_is() -> None:
    """A net that looks for light finds it in the corner where it is."""
    model = Pooled().eval()
    with torch.no_grad():
        for layer in (model.first, model.last):
            layer.weight.fill_(0.1)
            layer.bias.zero_()
        model.head.weight.fill_(1)
    image = np.zeros((1, 1, 12, 12), np.float32)
    image[..., :4, 8:] = 1
    heat = heats(camera(model, image, np.array([0]), ["norm"])["Grad-CAM"])[0]
    assert heat[:4, 8:].min() > 0.3
    assert heat[6:].max() == 0


def test_grad_cam_looks_into_the_last_convolution_with_its_norm() -> None:
    """The norm decides how the channels of the convolution count."""
    assert last_maps(Pooled()) == "norm"


def test_maps_and_filters_are_those_of_the_first_convolution() -> None:
    """Without a choice, what is drawn is what the first convolution holds and gives."""
    model = Pooled().eval()
    names = chosen_layers(model, IMAGES[:1], None)
    with torch.inference_mode():
        expected = model.first(torch.from_numpy(IMAGES)).numpy()
    assert names == ["first"]
    np.testing.assert_allclose(feature_maps(model, IMAGES, names)["first"], expected, atol=1e-6)
    filters = first_filters(model)
    assert filters.layer == "first"
    assert np.array_equal(filters.weights_MCHW, model.first.weight.detach().numpy())


def test_maps_are_those_of_the_chosen_layers() -> None:
    """Any layer that gives maps can be chosen, also behind a normalisation in front."""
    model = nn.Sequential(nn.Identity(), Pooled()).eval()
    names = chosen_layers(model, IMAGES[:1], ["norm", "1.last"])
    maps = feature_maps(model, IMAGES, names)
    assert [(name, values.shape) for name, values in maps.items()] == [
        ("1.norm", (4, 8, 12, 12)),
        ("1.last", (4, 8, 12, 12)),
    ]


def test_a_layer_that_does_not_exist_names_the_nearest() -> None:
    """A misspelt layer, or one that gives no maps, is answered with those that are close."""
    with pytest.raises(ParamsError, match="called 'firts'; nearest: first"):
        chosen_layers(Pooled().eval(), IMAGES[:1], ["firts"])
    with pytest.raises(ParamsError, match="no layer that gives maps is called 'head'"):
        chosen_layers(Pooled().eval(), IMAGES[:1], ["head"])


@pytest.fixture(scope="module")
def explained(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose base was explained."""
    root = tmp_path_factory.mktemp("explained")
    shutil.copytree(trained / "models", root / "models")
    (root / "data").symlink_to(trained / "data")
    explain(root, small_params(), log=print)
    return root


def test_the_record_lists_every_picture(explained: Path) -> None:
    """reports/explain/ holds explain.json and the pictures it names, which are PNG files."""
    folder = explained / "reports/explain"
    record = Explanation.read(folder / "explain.json")
    files = {picture.file for picture in record.pictures}
    assert {path.name for path in folder.iterdir()} == files | {"explain.json"}
    assert all(cv2.imread(str(folder / file)) is not None for file in files)


def test_the_record_says_what_was_true_and_what_was_predicted(explained: Path) -> None:
    """Each image has its key, both classes and the probability."""
    record = Explanation.read(explained / "reports/explain/explain.json")
    assert len(record.images) == small_params().explain.images
    for image in record.images:
        assert image.key.split("/")[1] == image.true
        assert 1 / 3 < image.probability <= 1


def test_the_flow_draws_the_same_pictures_again_and_shows_them(explained: Path) -> None:
    """The same model and seed give the same bytes; each picture is an artifact."""
    folder = explained / "reports/explain"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    recorder = Recorder()
    explain_flow(explained, small_params(), recorder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert {path.name for path in recorder.images.values()} == before.keys() - {"explain.json"}
