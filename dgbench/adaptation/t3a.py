"""T3A: class prototypes replace the classifier, and test inputs refine them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.adaptation._batches import entropies
from dgbench.core.cards import AdapterCard
from dgbench.core.errors import UserError
from dgbench.core.space import Checked, choice, hparam
from dgbench.methods.adapter import Adapter
from dgbench.networks.network import Network


class T3A(Adapter):
    r"""Replace the classifier by class prototypes, which confidently predicted test features refine.

    $$
    f_k(x) = \Big\langle z(x),\; \frac{c_k}{\|c_k\|} \Big\rangle, \qquad
    c_k = \sum_{s \in S_k} \frac{s}{\|s\|}
    $$

    $z(x)$ are the features of $x$ and $S_k$ are the supports of class $k$. At first these are the rows of the
    classifier; then the features of each batch join, under the class and with the entropy that the classifier gives
    them, before the batch is predicted. The `filter_K` supports of lowest entropy stay in each class; the others are
    gone for good. A row counts for the class that the classifier gives it, which need not be its own: a class may have
    no support, and then its logit is 0. The paper picks `filter_K` by validation accuracy on the training domains.

    Reference:
        Iwasawa and Matsuo, "Test-Time Classifier Adjustment Module for Model-Agnostic Domain Generalization", NeurIPS
        2021.

    Departures from the authors' code: `filter_K` = -1 keeps all supports; theirs then drops the worst support of each
    class at every batch, as `compat` does. The last, smaller batch is predicted too. Equal entropies keep their order.
    """

    card = AdapterCard(
        needs=("linear_classifier",),
        paper="Iwasawa and Matsuo, NeurIPS 2021",
        link="https://proceedings.neurips.cc/paper/2021/hash/1415fe9fea0fa1e45dddcff5682239a0-Abstract.html",
        tags=("test-time", "neighbors"),
        forwards=1.0,
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of T3A; `filter_K` is drawn from the paper's values."""

        filter_K: int = hparam(100, choice(1, 5, 20, 50, 100, -1), help="supports kept of each class; -1 keeps all")
        compat: bool = hparam(
            False, help="as in the authors' code, filter_K = -1 drops the worst support of each class at every batch"
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.filter_K < 1 and self.filter_K != -1:
                raise UserError(f"filter_K must be at least 1, or -1 for all, not {self.filter_K}")

    hparams: Hparams

    @torch.no_grad()
    def __init__(self, network: Network, hparams: Any) -> None:
        super().__init__(network.eval(), hparams)
        if not isinstance(network.classifier, nn.Linear):
            raise UserError(
                "T3A's first prototypes are the rows of a linear classifier, and this network's is none: train with "
                "nonlinear_classifier off, by an algorithm that trains a classifier"
            )
        rows = network.classifier.weight.detach()
        self._num_classes = len(rows)
        self._supports = rows[:0]
        self._labels = torch.empty(0, dtype=torch.int64, device=rows.device)
        self._entropies = rows.new_empty(0)
        self._add(rows)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return logits (B, classes), after learning from the batch."""
        features = self.network.features(x)
        self._add(features)
        self._prune()
        classes = F.one_hot(self._labels, self._num_classes).to(features.dtype)
        prototypes = F.normalize(self._supports, dim=1).T @ classes
        return features @ F.normalize(prototypes, dim=0)

    def _add(self, features: Tensor) -> None:
        """Append features (n, num_features) to the supports, with the classifier's class and entropy for each."""
        logits = self.network.classifier(features)
        self._supports = torch.cat([self._supports, features])
        self._labels = torch.cat([self._labels, logits.argmax(dim=1)])
        self._entropies = torch.cat([self._entropies, entropies(logits)])

    def _prune(self) -> None:
        """Keep the supports of lowest entropy in each class."""
        keep, compat = self.hparams.filter_K, self.hparams.compat
        if keep == -1 and not compat:
            return
        # Two stable sorts order by class, and by entropy within a class; `rank` is then a support's place in its class.
        order = self._entropies.argsort(stable=True)
        order = order[self._labels[order].argsort(stable=True)]
        counts = self._labels.bincount(minlength=self._num_classes)
        labels = self._labels[order]
        rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[labels]
        kept = order[rank < (counts[labels] - 1 if keep == -1 else keep)]
        self._supports, self._labels, self._entropies = (
            tensor[kept] for tensor in (self._supports, self._labels, self._entropies)
        )
