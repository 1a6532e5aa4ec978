"""Measure features of examples: how well classes and domains are told apart in them; and lay them out in a plane.

scikit-learn is imported only inside functions, because it takes a second and most analyses do without.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgbench.methods.similarity import linear_cka

Numbers = NDArray[np.float64]
_FOLDS = 5
"""Folds of the cross-validation of a probe."""
_ITERATIONS = 1000
"""Most iterations of a probe's optimizer."""


def class_separation(features: Tensor, labels: Tensor) -> float:
    """Return how much nearer examples of one class lie to each other than examples of any, by cosine distance.

    One less the mean distance within classes over the mean distance, in both of which classes count alike (Kornblith et
    al., NeurIPS 2021): 1 where each class is one direction, 0 where classes make no difference. Neither the scale nor a
    rotation of the features changes it.

    Args:
        features: (N, D), none of them all zeros.
        labels: (N,).

    Returns:
        A number up to 1; NaN where all features have one direction.
    """
    means = torch.stack([mean for _, mean in _class_means(torch.nn.functional.normalize(features.double()), labels)])
    # The mean distance of two examples is one less the product of the means of their unit vectors.
    within, total = 1 - means.square().sum(dim=1).mean(), 1 - means.mean(dim=0).square().sum()
    return float(1 - within / total) if float(total) > 1e-12 else math.nan


def class_alignment(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """Return the linear centered kernel alignment of the class means of two domains, over classes that both have.

    Examples of two domains are not matched, as that alignment needs; their classes are. It is 1 where the classes of
    one domain lie to each other as those of the other do, wherever both lie.

    Args:
        one: Features (N, D) and labels (N,).
        other: Features (M, E) and labels (M,) of the other domain.

    Returns:
        A number from 0 to 1; NaN with fewer than three classes, whose means always agree.
    """
    means, others = (dict(_class_means(*domain)) for domain in (one, other))
    shared = [label for label in means if label in others]
    if len(shared) < 3:
        return math.nan
    return linear_cka(torch.stack([means[label] for label in shared]), torch.stack([others[label] for label in shared]))


def _class_means(features: Tensor, labels: Tensor) -> list[tuple[int, Tensor]]:
    """Return each label with the mean of its features (D,), ascending."""
    found = sorted(set(labels.tolist()))
    return [(label, features[labels == label].double().mean(dim=0)) for label in found]


def probe_accuracy(groups: Sequence[Numbers], seed: int) -> float:
    """Return the accuracy at which a linear probe tells groups of features apart, on features it was not fitted to.

    The probe is L2-penalized logistic regression on standardized features, cross-validated over five stratified folds.
    Chance is one over the number of groups.

    Args:
        groups: (n, D) each; of larger groups the first rows count, so that all are as large as the smallest.
        seed: Shuffles the folds.

    Returns:
        The mean over folds; NaN with fewer than two groups, or fewer than two rows in one.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    size = min((len(group) for group in groups), default=0)
    if len(groups) < 2 or size < 2:
        return math.nan
    x = np.concatenate([group[:size] for group in groups])
    y = np.repeat(np.arange(len(groups)), size)
    folds = StratifiedKFold(min(_FOLDS, size), shuffle=True, random_state=seed)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable features have no optimum, and are told apart
        return float(np.mean(cross_val_score(probe, x, y, cv=folds)))


def plane_of(features: Numbers, method: str, seed: int) -> Numbers:
    """Lay features out in a plane, neighbors near to each other.

    Args:
        features: (N, D), N at least 5.
        method: `tsne`, or `umap` of the package umap-learn.
        seed: Decides the layout.

    Returns:
        (N, 2).
    """
    if method == "umap":
        from umap import UMAP

        neighbors = min(15, len(features) - 1)
        laid = UMAP(n_neighbors=neighbors, random_state=seed, n_jobs=1).fit_transform(features)
    else:
        from sklearn.manifold import TSNE

        laid = TSNE(perplexity=min(30.0, (len(features) - 1) / 3), random_state=seed).fit_transform(features)
    return np.asarray(laid, dtype=np.float64)
