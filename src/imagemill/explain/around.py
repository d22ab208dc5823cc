"""What the embeddings of a net say: neighbours of mistakes, a map, and models that stand on them.

Shapes: N images, D features.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from imagemill.explain.canvas import Neighbour
from imagemill.explain.choice import pool
from imagemill.explain.chosen import Chosen
from imagemill.explain.embeddings import Embeddings, embed, originals
from imagemill.explain.neighbours import nearest
from imagemill.explain.plane import Plane, on_plane
from imagemill.explain.subject import Subject
from imagemill.explain.surrogates import fit_on_embeddings
from imagemill.loading import SplitImages, open_split, to_input
from imagemill.params import ExplainParams, Params
from imagemill.records import OnEmbeddings


class Around(NamedTuple):
    """What lies around the images.

    test: Embeddings of the pool.
    neighbours: Of each mistake, nearest first.
    plane: Where the pool lies in two dimensions.
    models: Fitted on train, judged on the pool.
    """

    test: Embeddings
    neighbours: list[list[Neighbour]]
    plane: Plane
    models: list[OnEmbeddings]


def look_around(root: Path, subject: Subject, chosen: Chosen, params: Params) -> Around:
    """Embed test and train and compare them.

    Raises:
        ParamsError: the net's head is no linear layer, so there are no embeddings.
    """
    assert subject.model is not None, "embeddings are those of a net"
    section = params.explain
    test = embed(subject.model, chosen.test, chosen.pool_N)
    images = open_split(root, "train", input_shape=subject.card.input_shape, loading=params.loading)
    own_N = originals(images)
    drawn = pool(images.hashes_N[own_N], count=section.train_images, seed=section.seed)
    train = embed(subject.model, images, own_N[drawn])
    return Around(
        test=test,
        neighbours=_neighbours(test, train, images, chosen, section),
        plane=on_plane(test.features_ND, seed=section.seed),
        models=fit_on_embeddings(train, test, section),
    )


def _neighbours(
    test: Embeddings,
    train: Embeddings,
    images: SplitImages,
    chosen: Chosen,
    section: ExplainParams,
) -> list[list[Neighbour]]:
    found = nearest(test.features_ND[chosen.mistakes], train, count=section.neighbours)
    rows = []
    for positions_K, cosines_K in zip(*found, strict=True):
        pixels_KCHW = to_input(images.take(train.positions_N[positions_K]))
        rows.append(
            [
                Neighbour(
                    image_CHW=image_CHW,
                    key=train.keys[position],
                    label=chosen.classes[train.targets_N[position]],
                    similarity=float(np.clip(cosine, -1, 1)),
                )
                for image_CHW, position, cosine in zip(
                    pixels_KCHW, positions_K, cosines_K, strict=True
                )
            ]
        )
    return rows
