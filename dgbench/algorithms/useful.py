"""USEFUL: find early in training the examples that are learned late, show them twice, and start again."""

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
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

GROUPS = ("class", "class_and_domain")
"""The sets of examples that are clustered apart: the classes, or each domain's classes."""


class USEFUL(Algorithm):
    r"""Find the examples that are learned late, then restart training with copies of them.

    $$
    \min_\theta \; \frac1E \sum_e \frac{\sum_{n \in e} k_n\, \ell_n(\theta)}{\sum_{n \in e} k_n}, \qquad
    k_n = k \text{ if } n \text{ is learned late, else } 1
    $$

    $\ell_n$ is the loss of example $n$ of domain $e$, and $k$ is `useful_copies`. After the share `useful_share` of the
    steps the logits of all training examples are clustered in two, class by class, in evaluation mode and without
    augmentation; of the two clusters of a class, the one with the higher mean loss is learned late. Then training
    starts again from the initial weights, with a fresh optimizer.

    Reference:
        Nguyen, Haddad, Gan and Mirzasoleiman, "Changing the Training Data Distribution to Reduce Simplicity Bias
        Improves In-distribution Generalization", NeurIPS 2024.

    Departures from the paper, where it leaves choices open:

    - k-means takes the best of 10 starts by a fixed seed, which may all miss the best split. A class without two
      different logits is left as it is.
    - The run's steps include those before the survey, so that fewer follow than in ERM, and a schedule of the learning
      rate goes on across it. The selected model may be one from before the survey.
    - Classes are pooled over domains; with `useful_groups="class_and_domain"` those of each domain are clustered apart.
    - Minibatches have the same size for each domain, so copies shift weight within a domain alone.

    DomainBed: has no USEFUL.
    """

    card = AlgorithmCard(
        paper="Nguyen et al., NeurIPS 2024",
        link="https://arxiv.org/abs/2404.17768",
        tags=("reweighting",),
        base=None,
        rehearsal={"useful_share": 0.25},
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of USEFUL; the paper surveys after 5 to 10 % of training, and shows late examples twice."""

        useful_share: float = hparam(0.1, help="share of the run's steps before the survey", within="(0, 1)")
        useful_copies: int = hparam(
            2, help="k, how often examples that are learned late appear after the survey", within="[1, inf)"
        )
        useful_groups: str = hparam("class", help="sets of examples that are clustered apart", options=GROUPS)

    hparams: Hparams

    def build(self) -> None:
        """Plan the survey, and make room for the initial weights."""
        self.survey_at = max(1, round(self.hparams.useful_share * self.setting.steps))
        self.initial = copy.deepcopy(self.network).requires_grad_(False)

    def before_step(self) -> None:
        """Copy the initial weights, before the first step."""
        if self.step == 0:
            # In the first step, not in `build`: weights may be set after the network was built (a linear probe, a
            # shared start).
            self.initial.load_state_dict(self.network.state_dict())

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return ERM's loss."""
        return self.joint_loss(batches)

    def survey(self, logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Sequence[Tensor]:
        """Restore the initial weights, and return how often each example stands in its domain from now on.

        Args:
            logits: Of each domain, those of all its training examples (n, classes), on the CPU.
            labels: Of each domain, their classes (n,).

        Returns:
            Of each domain, the copies (n,), int64: `useful_copies` of an example that is learned late, else 1.
        """
        self.network.load_state_dict(self.initial.state_dict())
        self.build_optimizers()
        sizes = [len(y) for y in labels]
        if self.hparams.useful_groups == "class":
            late = torch.split(learned_late(torch.cat(list(logits)), torch.cat(list(labels))), sizes)
        else:
            late = tuple(learned_late(z, y) for z, y in zip(logits, labels, strict=True))
        return [1 + (self.hparams.useful_copies - 1) * each.long() for each in late]


def learned_late(logits: Tensor, labels: Tensor) -> Tensor:
    """Mark the examples in the cluster of their class with the higher mean cross-entropy of two.

    Args:
        logits: (n, classes), on the CPU.
        labels: Classes (n,), int64.

    Returns:
        (n,), bool.
    """
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
    """Return the cluster, 0 or 1, of each point (n, d), of which at least two differ."""
    from sklearn.cluster import KMeans

    clusters: NDArray[np.int64] = KMeans(2, n_init=10, random_state=0).fit_predict(points).astype(np.int64)
    return clusters
