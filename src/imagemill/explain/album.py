"""The pictures of reports/explain/ and the words below them.

Shapes: B images, N images of the pool.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemill.explain.around import Around
from imagemill.explain.charts import draw_curves, draw_on_embeddings, draw_plane
from imagemill.explain.chosen import Chosen
from imagemill.explain.evidence import Seen
from imagemill.explain.faithfulness import Curves
from imagemill.explain.layers import Filters
from imagemill.explain.pictures import draw_filters, draw_heats, draw_maps, draw_neighbours
from imagemill.explain.saliency import heats
from imagemill.records import Faithfulness, Picture

SALIENCY, CURVES, FILTERS = "saliency.png", "faithfulness.png", "filters.png"
NEIGHBOURS, PLANE, MODELS = "neighbours.png", "embeddings.png", "surrogates.png"


class Album:
    """Draws into a folder and keeps what was drawn.

    pictures: With their captions, in the order they were drawn.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pictures: list[Picture] = []

    def saliency(self, chosen: Chosen, seen: Seen) -> None:
        """Where each method sees the evidence, on the images shown."""
        shown = chosen.shown(chosen.judged_B[: chosen.num_shown])
        shades = {method: heats(evidence) for method, evidence in seen.evidence.items()}
        layers = " and ".join(seen.layers)
        where = f"; Grad-CAM and HiResCAM in {layers}" if layers else ""
        caption = f"Evidence for the predicted class{where}"
        draw_heats(self._added(SALIENCY, caption), shown, shades)

    def curves(self, curves: Mapping[str, Curves], scores: Sequence[Faithfulness]) -> None:
        """Deletion and insertion, and which methods say more than chance."""
        num_images = len(next(iter(curves.values())).deletion)
        caption = f"Deletion and insertion over {num_images} images of test. {verdict(scores)}"
        draw_curves(self._added(CURVES, caption), curves, scores)

    def filters(self, filters: Filters) -> None:
        """The weights of the first convolution."""
        draw_filters(self._added(FILTERS, f"Filters of {filters.layer}"), filters.weights_MCHW)

    def maps(self, chosen: Chosen, maps: Mapping[str, NDArray[np.float32]]) -> list[str]:
        """Feature maps of each image shown; returns their files."""
        shown_B = chosen.judged_B[: chosen.num_shown]
        files = []
        for number, (position, shown) in enumerate(
            zip(shown_B, chosen.shown(shown_B), strict=True)
        ):
            file = f"features-{number + 1:02d}.png"
            caption = f"{chosen.key(position)}: maps of {', '.join(maps)}"
            of_image = {layer: maps_BMHW[number] for layer, maps_BMHW in maps.items()}
            draw_maps(self._added(file, caption), shown, of_image)
            files.append(file)
        return files

    def around(self, chosen: Chosen, around: Around) -> None:
        """Neighbours of mistakes, the map, and simple models beside the net."""
        if around.neighbours:
            caption = (
                "Mistakes, and the nearest images of train with their labels and the cosine of "
                "the embeddings; red: the label that was wrongly said"
            )
            rows = list(zip(chosen.shown(chosen.mistakes), around.neighbours, strict=True))
            draw_neighbours(self._added(NEIGHBOURS, caption), rows)
        self._plane(chosen, around)
        if around.models:
            caption = (
                "Simple models on the embeddings: surrogates learned what the net says, baselines "
                "the labels"
            )
            draw_on_embeddings(self._added(MODELS, caption), around.models)

    def _plane(self, chosen: Chosen, around: Around) -> None:
        test = around.test
        wrong_N = test.predicted_N != test.targets_N
        caption = (
            f"Embeddings of {len(test.keys):,} images of test on a plane ({around.plane.method}), "
            f"{int(wrong_N.sum())} mistakes crossed"
        )
        path = self._added(PLANE, caption)
        draw_plane(path, around.plane.places_N2, test.targets_N, wrong_N, chosen.classes)

    def _added(self, file: str, caption: str) -> Path:
        self.pictures.append(Picture(file=file, caption=caption))
        return self._folder / file


def verdict(scores: Sequence[Faithfulness]) -> str:
    """Which methods say more than random maps, as a sentence."""
    better = [score.method for score in scores if score.beats_random]
    others = [score.method for score in scores if score.beats_random is False]
    told = [f"Better than random maps in both: {', '.join(better) or 'none'}"]
    told += [f"not clearly better: {', '.join(others)}"] if others else []
    return "; ".join(told)
