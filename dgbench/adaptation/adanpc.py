"""AdaNPC: the nearest training examples vote, and confidently predicted test inputs join them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.cards import AdapterCard
from dgbench.core.space import Checked, choice, hparam
from dgbench.methods.adapter import Adapter
from dgbench.methods.neighbors import scores
from dgbench.networks.network import Network


class AdaNPC(Adapter):
    r"""Predict by votes of the nearest training examples, which confidently predicted test inputs join.

    $$
    f_c(x) = \log \min\Big(1,\; 10^{-5} +
    \sum_{i \in \mathcal{N}_k(x)} \mathrm{softmax}_i\big(\cos(z(x), z_i) / T\big)\, [y_i = c]\Big)
    $$

    $z(x)$ are the features of $x$ and $\mathcal{N}_k(x)$ the `k` nearest of a memory, which holds the features of all
    training examples under their labels; $T$ is `temperature`. After a batch is predicted, those of its inputs whose
    largest score $e^{f_c(x)}$ is at least `beta` join the memory under the predicted class. The network's classifier is
    not used; `KNN` trains without one.

    Reference:
        Zhang, Wang, Jin, Yuan, Zhang, Wang, Jin and Tan, "AdaNPC: Exploring Non-Parametric Classifier for Test-Time
        Adaptation", ICML 2023.

    Departures from the authors' code:

    - The confidence is the largest score; above 1 nothing joins. Theirs is the largest softmax of the scores, which are
      probabilities already, so that it lies between $1 / C$ and $e / (e + C - 1)$, 0.31 for $C = 7$ classes, and a
      `beta` of 0.75 means the same as 1.1: nothing joins.
    - The random feature with label 0 that their memory begins with is left out.
    - The memory holds only examples that were trained on, not the training domains' validation parts, by which
      hyperparameters are chosen.
    - With `k` above the size of the memory all of it votes; theirs fails.
    - Logits are the logarithms of the scores, which are not normalized; theirs takes these as logits in training.
    """

    card = AdapterCard(
        paper="Zhang et al., ICML 2023",
        link="https://arxiv.org/abs/2304.12566",
        tags=("test-time", "neighbors"),
        needs_source=True,
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of AdaNPC: the defaults of the authors' code, and the grid that it searches."""

        beta: float = hparam(
            0.1,
            choice(0.0, 0.25, 0.75, 1.1),
            help="least score with which inputs join the memory; above 1 none do",
            within="[0, inf)",
        )
        k: int = hparam(100, choice(1, 5, 10, 25, 50, 75, 100, 150, 200), help="neighbors that vote", within="[1, inf)")
        temperature: float = hparam(
            0.1, choice(0.01, 0.05, 0.1, 0.25, 0.5), help="temperature of the cosines", within="(0, inf)"
        )

    hparams: Hparams

    @torch.no_grad()
    def __init__(self, network: Network, hparams: Any) -> None:
        super().__init__(network.eval(), hparams)

    @torch.no_grad()
    def begin(self, source: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Remember the features and labels of every training example."""
        remembered = [(F.normalize(self.network.features(x), dim=1), y) for x, y in source]
        self._source, self._labels = (torch.cat(parts) for parts in zip(*remembered, strict=True))
        self._joined = self._source[:0]
        # From the classifier's output, since a class may be without a training example.
        self._num_classes = self.network.classifier(self._source[:1]).shape[1]

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) from before learning; then let the confident inputs join the memory."""
        values, features = self.hparams, F.normalize(self.network.features(x), dim=1)
        cosines = torch.cat([features @ self._source.T, features @ self._joined.T], dim=1)
        found = scores(cosines, self._labels, values.k, values.temperature, self._num_classes)
        confidence, predicted = found.max(dim=1)
        sure = confidence >= values.beta
        # Kept apart from the training examples' features: these may be gigabytes, which a concatenation would copy each
        # time.
        self._joined = torch.cat([self._joined, features[sure]])
        self._labels = torch.cat([self._labels, predicted[sure]])
        return found.log()
