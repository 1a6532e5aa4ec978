"""USEFUL: see early in training what is learned late, show it twice, and start again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch

GROUPS = ("class", "class_and_domain")


class USEFUL(Algorithm):
    """min over theta of ERM's loss with those examples k times that lie in the cluster of higher loss of their class.

    Nguyen, Haddad, Gan and Mirzasoleiman, "Changing the Training Data Distribution to Reduce Simplicity Bias Improves
    In-distribution Generalization", NeurIPS 2024. After a share of the steps the logits of all training examples are
    clustered in two, class by class, in evaluation mode and without augmentation; then training starts again from the
    initial weights, with a fresh optimizer.

    What the paper leaves open: k-means takes the best of 10 starts by a fixed seed, which may all miss the best split;
    a class without two different logits is left as it is; the run's steps include those before the survey, so the steps
    after it are fewer than ERM's, and a schedule of the learning rate goes on across it. Classes are pooled over
    domains, or each domain's are clustered apart (`useful_groups`). Minibatches are of one size a domain, so copies
    shift weight within a domain alone. The model that is selected may be one from before the survey. DomainBed has no
    USEFUL.
    """

    card = AlgorithmCard(
        paper="Nguyen et al., NeurIPS 2024", base=None, rehearsal={"useful_share": 0.25}, needs=("classes",)
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """The paper's survey comes after 5 to 10 % of training; its examples come twice."""

        useful_share: float = hparam(0.1, help="share of the steps before the survey", within="(0, 1)")
        useful_copies: int = hparam(2, help="k, how many times the examples learned late are there", within="[1, inf)")
        useful_groups: str = hparam("class", help="what is clustered by itself", options=GROUPS)

    hparams: Hparams

    def build(self) -> None:
        """Plan the survey, and make room for the initial weights."""
        self.survey_at = max(1, round(self.hparams.useful_share * self.setting.steps))
        self.initial = copy.deepcopy(self.network).requires_grad_(False)

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """ERM's."""
        if self.step == 0:
            self.initial.load_state_dict(self.network.state_dict())  # What was done to the network since it was built.
        return self.joint_loss(batches)

    def survey(self, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Sequence[Tensor]:
        """Start again, with copies of the examples that are learned late."""
        self.network.load_state_dict(self.initial.state_dict())
        self.build_optimizers()
        sizes = [len(y) for y in labels]
        if self.hparams.useful_groups == "class":
            late = torch.split(learned_late(torch.cat(list(logits)), torch.cat(list(labels))), sizes)
        else:
            late = tuple(learned_late(z, y) for z, y in zip(logits, labels, strict=True))
        return [1 + (self.hparams.useful_copies - 1) * each.long() for each in late]


def learned_late(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each example (n,) lies in the cluster of its class whose mean cross-entropy is the higher of two."""
    losses = F.cross_entropy(logits.double(), labels, reduction="none").numpy()
    points, y = logits.double().numpy(), labels.numpy()
    late = np.zeros(len(y), dtype=np.bool_)
    for c in np.unique(y):
        members = np.flatnonzero(y == c)
        if len(np.unique(points[members], axis=0)) >= 2:
            cluster = _two_means(points[members])
            means = [losses[members[cluster == k]].mean() for k in (0, 1)]
            late[members] = cluster == np.argmax(means)
    return torch.from_numpy(late)


def _two_means(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """The cluster, 0 or 1, of each point (n, d) of at least two different ones."""
    from sklearn.cluster import KMeans

    clusters: NDArray[np.int64] = KMeans(2, n_init=10, random_state=0).fit_predict(points).astype(np.int64)
    return clusters
