"""Facts about what pictures of explanations are worth: evidence that was planted is found."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trained_project import Recorder, small_params

from imagemill.compress import compress
from imagemill.errors import ParamsError
from imagemill.explain import explain
from imagemill.explain.choice import choose_mistakes
from imagemill.explain.embeddings import Embeddings, originals
from imagemill.explain.faithfulness import (
    OCCLUSION,
    Images,
    agreement_with,
    area,
    follow,
    judged,
    random_curves,
)
from imagemill.explain.neighbours import nearest
from imagemill.explain.occlusion import Occlusion, inside, occlude
from imagemill.explain.plane import on_plane
from imagemill.explain.saliency import camera, integrate
from imagemill.explain.surrogates import fit_on_embeddings
from imagemill.loading import open_split
from imagemill.params import Params, parse_params
from imagemill.randomness import key_hashes
from imagemill.records import Explanation, Faithfulness
from pipelines.explain import explain as explain_flow

PRUNED = "models:/digits/2"
SIDE = 12
PACE: dict[str, Any] = {"steps": 12, "blur": 0.3}
BLANK = np.zeros(1, np.float32)


class CornerNet(nn.Module):
    """Class 1 where the upper left 4x4 pixels are light, else class 0; nothing else counts."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(SIDE * SIDE, 2)
        weights = torch.zeros(2, SIDE, SIDE)
        weights[1, :4, :4] = 0.5
        self.head.weight = nn.Parameter(weights.flatten(1))
        self.head.bias = nn.Parameter(torch.tensor([2.0, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1))
        return logits


NET = CornerNet().eval()


def predict(images_BCHW: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    with torch.inference_mode():
        return NET(torch.from_numpy(images_BCHW)).numpy()


def light_images(count: int = 8) -> Images:
    """Noise in which the corner is light: all of class 1."""
    images = np.random.default_rng(0).random((count, 1, SIDE, SIDE)).astype(np.float32)
    images[..., :4, :4] = 1
    ones = np.ones(count, dtype=np.int64)
    return Images(images, ones, key_hashes(map(str, range(count))), BLANK)


IMAGES = light_images()


def occluded() -> Occlusion:
    return occlude(
        predict, IMAGES.images_BCHW, IMAGES.predicted_B, blank_C=BLANK, window=1 / 3, stride=1 / 6
    )


def scores(evidence: dict[str, Any]) -> dict[str, Faithfulness]:
    """Judge methods on the light images."""
    chance = random_curves(predict, IMAGES, maps=3, seed=0, **PACE)
    curves = {name: follow(predict, IMAGES, maps, **PACE) for name, maps in evidence.items()}
    found = judged(curves | {"Random": chance}, evidence, occluded())
    return {score.method: score for score in found}


def test_integrated_gradients_lie_where_the_net_looks() -> None:
    """All evidence lies in the corner, and it adds up to the difference of the logits."""
    found = integrate(NET, IMAGES.images_BCHW, IMAGES.predicted_B, blank_C=BLANK, steps=8)
    corner = found.evidence_BHW[:, :4, :4].sum((1, 2))
    np.testing.assert_allclose(corner, 0.5 * 16, rtol=1e-5)
    assert np.abs(found.evidence_BHW).sum() == pytest.approx(corner.sum())
    assert found.gap == pytest.approx(0, abs=1e-5)


def test_occlusion_lies_where_the_net_looks() -> None:
    """Covering the corner costs most, covering what lies apart from it nothing."""
    found = occluded()
    assert found.patches[0] == (slice(0, 4), slice(0, 4))
    assert (found.drops_BP.argmax(1) == 0).all()
    apart = [rows.start >= 4 or columns.start >= 4 for rows, columns in found.patches]
    assert np.abs(found.drops_BP[:, apart]).max() < 1e-6


def test_patches_reach_the_edge() -> None:
    """Where strides do not fill the side, the last patch ends where the image does."""
    found = occlude(
        predict,
        IMAGES.images_BCHW[:1],
        IMAGES.predicted_B[:1],
        blank_C=BLANK,
        window=0.4,
        stride=0.3,
    )
    assert {rows.stop for rows, _ in found.patches} == {5, 9, 12}


def test_the_true_evidence_beats_random_maps() -> None:
    """Deleting the corner first ends the class sooner, inserting it first brings it sooner."""
    score = scores({OCCLUSION: occluded().evidence_BHW})[OCCLUSION]
    assert score.beats_random
    assert score.deletion_gain is not None
    assert score.deletion_gain > 0.2


def test_evidence_in_the_wrong_place_does_not_beat_random_maps() -> None:
    """A map that points at the corner that does not count is told from one that means something."""
    wrong = np.zeros((len(IMAGES.images_BCHW), SIDE, SIDE))
    wrong[:, 8:, 8:] = 1
    score = scores({"wrong": wrong})["wrong"]
    assert score.beats_random is False
    assert score.occlusion_correlation is not None
    assert score.occlusion_correlation < 0.3


def test_a_map_agrees_with_occlusion_that_ranks_patches_alike() -> None:
    """The correlation of ranks is 1 for what covering says itself, and -1 for its opposite."""
    found = occluded()
    drops = found.drops_BP[:1]
    # One patch a row of a picture in which each patch is a pixel.
    pixels = [(slice(number, number + 1), slice(0, 1)) for number in range(drops.shape[1])]
    same = Occlusion(pixels, drops, found.evidence_BHW)
    assert agreement_with(same, drops.T[None]) == pytest.approx(1)
    assert agreement_with(same, -drops.T[None]) == pytest.approx(-1)
    assert agreement_with(same, np.zeros((1, drops.shape[1], 1))) == 0


def test_curves_begin_and_end_at_whole_images() -> None:
    """Deletion goes from the image to a blank one; insertion ends where deletion began."""
    curves = follow(predict, IMAGES, occluded().evidence_BHW, **PACE)
    blank = np.zeros_like(IMAGES.images_BCHW)
    np.testing.assert_allclose(curves.deletion[:, 0], curves.insertion[:, -1])
    np.testing.assert_allclose(curves.deletion[:, -1], _light(blank), rtol=1e-6)  # float32


def _light(images: Any) -> Any:
    logits = predict(images)
    return 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))


def test_area_is_that_of_trapezoids() -> None:
    """A straight line from 1 to 0 has half the area; a constant its height."""
    curves = np.array([[1, 0.5, 0], [0.25, 0.25, 0.25]])
    np.testing.assert_allclose(area(curves), [0.5, 0.25])


def test_the_mean_of_a_patch_is_that_of_its_pixels() -> None:
    """Evidence inside a patch does not grow with the patch."""
    evidence = np.arange(16, dtype=np.float32).reshape(4, 4)
    patches = [(slice(0, 1), slice(0, 2)), (slice(0, 4), slice(0, 4))]
    np.testing.assert_allclose(inside(evidence, patches), [0.5, 7.5])


def embeddings(features: Any, predicted: Any, targets: Any) -> Embeddings:
    count = len(features)
    keys = [f"image{number}" for number in range(count)]
    return Embeddings(np.asarray(features, np.float32), predicted, targets, keys, np.arange(count))


def blobs(count: int, seed: int) -> Embeddings:
    """Three groups far from each other, as a linear net sees them; a tenth of the labels differ."""
    targets = np.arange(count) % 3
    generator = np.random.default_rng(seed)
    features = 6 * np.eye(3)[targets] + generator.normal(0, 0.5, (count, 3))
    labels = np.where(np.arange(count) % 10 == 0, (targets + 1) % 3, targets)
    return embeddings(features, targets, labels)


def test_a_linear_net_is_imitated_to_the_full() -> None:
    """What a linear head says of separate groups, a logistic regression says too: fidelity 1."""
    found = fit_on_embeddings(blobs(300, 0), blobs(90, 1), small_params().explain)
    linear = found[0]
    assert (linear.name, linear.kind, linear.fidelity) == ("logistic regression", "surrogate", 1.0)
    assert linear.accuracy == linear.net_accuracy == pytest.approx(0.9)


def test_surrogates_learn_the_net_and_baselines_the_labels() -> None:
    """Where the net is wrong about a whole class, surrogates follow it and baselines do not."""
    train, test = (
        blob._replace(predicted_N=np.zeros(len(blob.keys), np.int64) + (blob.targets_N == 1))
        for blob in (blobs(300, 0), blobs(90, 1))
    )
    by_kind = {
        model.name: model for model in fit_on_embeddings(train, test, small_params().explain)
    }
    forest, tree = by_kind["random forest"], by_kind["decision tree, depth 6"]
    assert tree.fidelity > forest.fidelity
    assert forest.accuracy > tree.accuracy


def test_boosting_can_be_left_out() -> None:
    """Rounds of null fit no boosting."""
    section = small_params().explain.model_copy(update={"boosting_rounds": None})
    names = [model.name for model in fit_on_embeddings(blobs(60, 0), blobs(30, 1), section)]
    assert names == ["logistic regression", "decision tree, depth 6", "random forest"]


def test_nothing_imitates_a_net_with_one_answer() -> None:
    """A net that says one class of all images leaves surrogates nothing to learn."""
    train, test = (
        blob._replace(predicted_N=np.zeros(len(blob.keys), np.int64))
        for blob in (blobs(60, 0), blobs(30, 1))
    )
    kinds = {model.kind for model in fit_on_embeddings(train, test, small_params().explain)}
    assert kinds == {"baseline"}


def test_the_nearest_is_the_planted_twin() -> None:
    """Of many images the one that points the same way comes first, however long its vector is."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(50, 8)).astype(np.float32)
    mistake = generator.normal(size=(1, 8)).astype(np.float32)
    features[17] = 3 * mistake[0]
    zeros = np.zeros(50, np.int64)
    found = nearest(mistake, embeddings(features, zeros, zeros), count=3)
    assert found.positions_MK[0, 0] == 17
    assert found.similarities_MK[0, 0] == pytest.approx(1)
    assert (np.diff(found.similarities_MK[0]) <= 0).all()


def test_groups_stay_together_on_the_plane() -> None:
    """Nearly all images lie next to one of their own group, by either method."""
    for count, method in ((200, "t-SNE"), (30, "PCA")):
        groups = blobs(count, 0)
        places, name = on_plane(groups.features_ND, seed=0)
        distances = ((places[:, None] - places) ** 2).sum(2)
        np.fill_diagonal(distances, np.inf)
        same = groups.predicted_N == groups.predicted_N[distances.argmin(1)]
        assert name == method
        assert same.mean() > 0.95


def test_two_images_have_a_place() -> None:
    """Fewer images than dimensions are no reason to stop."""
    assert on_plane(np.eye(2, 5, dtype=np.float32), seed=0).places_N2.shape == (2, 2)


def test_mistakes_alone_are_chosen() -> None:
    """Neighbours are looked for of mistakes, spread over the classes."""
    labels = np.arange(40) % 4
    predicted = np.where(np.arange(40) < 8, (labels + 1) % 4, labels)
    hashes = key_hashes(map(str, range(40)))
    chosen = choose_mistakes(hashes, labels, predicted, count=4, seed=0)
    assert sorted(labels[chosen].tolist()) == [0, 1, 2, 3]
    assert (labels[chosen] != predicted[chosen]).all()


def explained_params(params: Params | None = None, **changes: Any) -> Params:
    document = (params or small_params()).model_dump(mode="json", by_alias=True, exclude_unset=True)
    document["explain"] |= changes
    return parse_params(document, where="params.yaml")


@pytest.fixture(scope="module")
def project(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a base, a pruned and an INT8 variant."""
    root = tmp_path_factory.mktemp("explained")
    shutil.copytree(trained / "models", root / "models")
    (root / "data").symlink_to(trained / "data")
    for variant in ("pruned", "int8"):
        compress(root, small_params(), variant, log=print, progress=lambda *told: None)
    return root


@pytest.fixture(scope="module")
def base(project: Path) -> Explanation:
    """What is said of the base."""
    return explain(project, explained_params(), log=print)


def test_everything_is_said_of_a_net(base: Explanation) -> None:
    """The base has all methods, simple models on its embeddings, and a picture of each."""
    methods = ["Grad-CAM", "HiResCAM", "Integrated gradients", "Occlusion", "Random"]
    assert [score.method for score in base.faithfulness] == methods
    assert [model.kind for model in base.on_embeddings] == ["surrogate"] * 2 + ["baseline"] * 2
    files = {picture.file for picture in base.pictures}
    assert {"saliency.png", "faithfulness.png", "embeddings.png", "surrogates.png"} <= files
    assert (base.variant, base.runtime) == ("base", "eager")


def test_a_net_without_mistakes_says_so(base: Explanation) -> None:
    """No mistake among the images has no neighbours, and the record says why."""
    assert [entry.what for entry in base.skipped] == ["neighbours of mistakes"]
    assert base.mistakes == []


def test_neighbours_of_a_mistake_are_on_record(project: Path) -> None:
    """A net that mixes up two classes has mistakes whose neighbours are originals of train."""
    root = project.with_name("mixed-up")
    shutil.copytree(project, root, symlinks=True)
    _mix_up(root)
    found = explain(root, explained_params(neighbours=4), log=print)
    assert len(found.mistakes) == explained_params().explain.images
    for mistake in found.mistakes:
        assert mistake.true != mistake.predicted
        assert len(mistake.neighbours) == 4
        assert all(one.key.split("/")[:2] == ["train", one.label] for one in mistake.neighbours)
        # It looks like its own class: what is wrong is the head.
        assert mistake.neighbours[0].label == mistake.true
        assert mistake.neighbours[0].similarity > 0.9
    assert "neighbours.png" in {picture.file for picture in found.pictures}


def _mix_up(root: Path) -> None:
    """Exchange two classes in the head of the base."""
    from imagemill.models import load_model, save_weights
    from imagemill.records import sha256_of_file

    folder = root / "models/base"
    model, card = load_model(folder)
    head = model.get_submodule("1.head")
    with torch.no_grad():
        for values in (head.weight, head.bias):
            values.copy_(values[[1, 0, 2]])
    save_weights(folder / "model.safetensors", model)
    sha256 = sha256_of_file(folder / "model.safetensors")
    files = card.files | {"model.safetensors": sha256}
    card.model_copy(update={"files": files, "sha256": sha256}).write(folder / "model.json")


def test_a_pruned_variant_is_explained_whole(project: Path) -> None:
    """Predictions come from the runtime it ships in, all else from its eager net."""
    found = explain(project, explained_params(variant="pruned"), log=print)
    assert (found.variant, found.runtime) == ("pruned", "onnxruntime")
    assert len(found.faithfulness) == 5
    assert len(found.on_embeddings) == 4
    assert all(image.features for image in found.images)


def test_an_int8_variant_says_what_it_does_not_allow(project: Path) -> None:
    """Occlusion is judged; what needs a net is left out, and the record says why."""
    recorder = Recorder()
    explain_flow(project, explained_params(variant="int8"), recorder)
    found = Explanation.read(project / "reports/explain/explain.json")
    assert [score.method for score in found.faithfulness] == ["Occlusion", "Random"]
    assert found.gradcam_layers == []
    assert [picture.file for picture in found.pictures] == ["saliency.png", "faithfulness.png"]
    assert [entry.what.partition(",")[0].partition(":")[0] for entry in found.skipped] == [
        "Grad-CAM",
        "embeddings",
    ]
    assert all("int8 is model.onnx alone" in entry.why for entry in found.skipped)
    assert {"faithfulness", "left-out"} == recorder.tables.keys()
    assert sum("left out" in line for line in recorder.lines) == 2


def test_an_ensemble_is_explained_by_all_its_members(project: Path) -> None:
    """Gradients look into each member; embeddings are left out, since each has its own."""
    chain = [{"ensemble": {"members": [PRUNED]}}]
    params = explained_params(small_params(both=chain), variant="both")
    members = {PRUNED: (project / "models/pruned", 2)}
    compress(project, params, "both", log=print, progress=lambda *told: None, members=members)
    found = explain(project, params, log=print)
    assert found.gradcam_layers == [f"0.members.{number}.1.norm3" for number in (0, 1)]
    assert len(found.faithfulness) == 5
    (embeddings_left_out,) = found.skipped
    assert "a head for each of its members" in embeddings_left_out.why


def test_evidence_of_several_layers_is_added_up() -> None:
    """Two layers of one net tell together what each tells."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    first, second, both = (
        camera(net, IMAGES.images_BCHW, IMAGES.predicted_B, names)["HiResCAM"]
        for names in (["0"], ["1"], ["0", "1"])
    )
    np.testing.assert_allclose(both, first + second, atol=1e-6)


def test_copies_are_no_neighbours(trained: Path) -> None:
    """Of train only the images themselves are looked at, not what augmentation made of them."""
    images = open_split(trained, "train", input_shape=(1, 12, 12), loading=small_params().loading)
    assert originals(images).tolist() == list(range(60))
    images.frames.shards[0] = "augmented/train-000000.tar"
    assert originals(images).tolist() == []


def test_a_variant_that_does_not_exist_is_refused() -> None:
    """A misspelt variant names the nearest one."""
    with pytest.raises(ParamsError, match=r"explain.variant: no variant is called 'prunned'; did"):
        explained_params(variant="prunned")


def test_fewer_judged_than_shown_is_refused() -> None:
    """The images shown are among those judged."""
    with pytest.raises(ParamsError, match=r"judged_images \(2\) must be at least images \(6\)"):
        explained_params(judged_images=2)
