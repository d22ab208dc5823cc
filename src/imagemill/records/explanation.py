"""What `explain` says of a model."""

from typing import Literal

from imagemill.records.record import Record


class Picture(Record):
    file: str  # beside the record
    caption: str


class ExplainedImage(Record):
    key: str
    true: str
    predicted: str
    probability: float
    features: str | None  # file: what the chosen layers make of it; None: left out


class Skipped(Record):
    """What could not be done with this variant."""

    what: str
    why: str


class Faithfulness(Record):
    """Whether a saliency map says what the model goes by; means over the judged images."""

    method: str
    deletion: float  # area under the probability as evidence is taken away: lower is better
    insertion: float  # as it is added: higher is better
    # How much better than random maps, with its standard error over images; None: of random maps.
    deletion_gain: float | None
    deletion_gain_error: float | None
    insertion_gain: float | None
    insertion_gain_error: float | None
    beats_random: bool | None  # both gains are more than two standard errors
    occlusion_correlation: float | None  # of ranks, over patches; None: it is occlusion


class TrainNeighbour(Record):
    key: str
    label: str
    similarity: float  # cosine of the embeddings


class ExplainedMistake(Record):
    """A mistake and what of train lies next to it."""

    key: str
    true: str
    predicted: str
    neighbours: list[TrainNeighbour]  # nearest first


class OnEmbeddings(Record):
    """A simple model on the embeddings of the net."""

    name: str
    kind: Literal["surrogate", "baseline"]  # learned the net's predictions, or the labels
    fidelity: float  # share of test images where it says what the net says
    accuracy: float  # share where it says the label
    net_accuracy: float  # the net's own there
    train_images: int
    test_images: int


class Explanation(Record):
    """reports/explain/explain.json."""

    variant: str
    sha256: str  # of the file its runtime loads
    runtime: str
    gradcam_layers: list[str]  # one a member of an ensemble; none: it has no net
    features_layers: list[str]
    integration_gap: float | None  # of integrated gradients: what their sum misses, as a share
    judged_images: int
    faithfulness: list[Faithfulness]  # random maps last
    mistakes: list[ExplainedMistake]
    on_embeddings: list[OnEmbeddings]
    skipped: list[Skipped]
    pictures: list[Picture]  # all of them, the saliency of all images first
    images: list[ExplainedImage]  # in the order of the saliency picture, mistakes last
