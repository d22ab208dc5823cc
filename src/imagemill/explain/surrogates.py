"""Simple models on the embeddings: some imitate the net, some learn the labels beside it.

Shapes: N images, D features.
"""

from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from imagemill.explain.embeddings import Embeddings
from imagemill.params import ExplainParams
from imagemill.records import OnEmbeddings

_MOST_ITERATIONS = 1000


class _Candidate(NamedTuple):
    name: str
    is_surrogate: bool
    model: Any  # an estimator of scikit-learn


def fit_on_embeddings(
    train: Embeddings, test: Embeddings, params: ExplainParams
) -> list[OnEmbeddings]:
    """Fit surrogates to what the net says of train, baselines to train's labels.

    How well a surrogate imitates the net (fidelity) says how far its rule explains the net: a
    linear one nearly always does since the head is linear, a small tree only where few
    features decide.

    Args:
        train: To fit to.
        test: To judge on.
        params: Sizes of the models, and the seed.

    Returns:
        Surrogates first; those are left out that would have one class alone to learn.

    Source:
        Craven and Shavlik 1996, "Extracting Tree-Structured Representations of Trained Networks",
        for fidelity; the models are scikit-learn's.
    """
    found = []
    for candidate in _candidates(params, train.features_ND.shape[1]):
        learned_N = train.predicted_N if candidate.is_surrogate else train.targets_N
        if len(np.unique(learned_N)) < 2:
            continue
        said_N = candidate.model.fit(train.features_ND, learned_N).predict(test.features_ND)
        found.append(
            OnEmbeddings(
                name=candidate.name,
                kind="surrogate" if candidate.is_surrogate else "baseline",
                fidelity=float((said_N == test.predicted_N).mean()),
                accuracy=float((said_N == test.targets_N).mean()),
                net_accuracy=float((test.predicted_N == test.targets_N).mean()),
                train_images=len(train.keys),
                test_images=len(test.keys),
            )
        )
    return found


def _candidates(params: ExplainParams, num_features: int) -> list[_Candidate]:
    seed = params.seed
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_MOST_ITERATIONS))
    tree = DecisionTreeClassifier(max_depth=params.tree_depth, random_state=seed)
    forest = RandomForestClassifier(params.trees, random_state=seed, n_jobs=1)
    found = [
        _Candidate("logistic regression", True, linear),
        _Candidate(f"decision tree, depth {params.tree_depth}", True, tree),
        _Candidate("random forest", False, forest),
    ]
    if params.boosting_rounds is not None:
        boosting = HistGradientBoostingClassifier(
            max_iter=params.boosting_rounds,
            max_features=num_features**-0.5,  # of a split, as a forest has it: much faster
            early_stopping=False,
            random_state=seed,
        )
        found.append(_Candidate("gradient boosting", False, boosting))
    return found
