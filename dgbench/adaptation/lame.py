"""LAME: the predictions of a batch are smoothed over similar inputs, and the network stays as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.cards import AdapterCard
from dgbench.core.space import Checked, choice, hparam
from dgbench.methods.adapter import Adapter
from dgbench.networks.network import Network

AFFINITIES = ("knn", "rbf", "linear")
"""The affinities of the authors' code."""
_STEPS, _TOLERANCE = 100, 1e-8
"""Most steps on a batch, and the relative change of the energy below which they end."""


class LAME(Adapter):
    r"""Smooth the class probabilities of a batch so that inputs with similar features agree.

    $$
    \min_{q_1, \dots, q_B} \; \sum_{n=1}^{B} \mathrm{KL}(q_n \,\|\, p_n) - \sum_{n, m} w_{nm}\, q_n^\top q_m, \qquad
    q_n \leftarrow \mathrm{softmax}\Big(\log p_n + \sum_m w_{nm}\, q_m\Big)
    $$

    $p_n$ are the network's probabilities and $w_{nm}$ the affinity of the normalized features $z$ of two inputs: `knn`
    is 1 if $m$ is among the `k` nearest of $n$ and else 0, `rbf` is $\exp(-\|z_n - z_m\|^2 / 2 \sigma^2)$ with
    $\sigma$ the mean distance to the `k`-th nearest (the input itself is the first), `linear` is
    $\langle z_n, z_m \rangle$. Starting at $q_n = p_n$ the step is repeated until the energy changes by less than
    $10^{-8}$ of itself, at most 100 times; the logits are $\log q_n$. No weight changes and nothing is remembered:
    batches are independent of each other.

    Reference:
        Boudiaf, Mueller, Ben Ayed and Bertinetto, "Parameter-free Online Test-time Adaptation", CVPR 2022.

    Departures from the authors' code:

    - With `knn` an input is never its own neighbor; theirs leaves out the nearest, among duplicates maybe another.
    - `rbf` of equal features is 1; theirs has no value if all features of a batch are equal, as in a batch of one.
    """

    card = AdapterCard(
        paper="Boudiaf et al., CVPR 2022",
        link="https://arxiv.org/abs/2201.05718",
        tags=("test-time", "neighbors"),
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of LAME: the paper's affinity, with k drawn from its grid."""

        affinity: str = hparam("knn", help="similarity of two inputs", options=AFFINITIES)
        k: int = hparam(5, choice(1, 3, 5), help="neighbors of an input (knn, rbf)", within="[1, inf)")
        symmetric: bool = hparam(False, help="average the affinities of both directions")

    hparams: Hparams

    def __init__(self, network: Network, hparams: Any) -> None:
        super().__init__(network.eval(), hparams)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the logarithms of the smoothed probabilities (B, classes)."""
        features = self.network.features(x)
        scores = (self.network.classifier(features).softmax(dim=1) + 1e-10).log()
        affinity = self._affinities(F.normalize(features, dim=1))
        if self.hparams.symmetric:
            affinity = (affinity + affinity.T) / 2
        return _smoothed(scores, affinity)

    def _affinities(self, z: Tensor) -> Tensor:
        """Return the affinities (B, B) of normalized features (B, num_features)."""
        if self.hparams.affinity == "linear":
            return z @ z.T
        # Without the shortcut by products, which would give equal features a distance.
        distances = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
        if self.hparams.affinity == "rbf":
            nearest = distances.topk(min(self.hparams.k, len(z)), largest=False).values
            sigma = nearest[:, -1].mean().clamp_min(torch.finfo(z.dtype).tiny ** 0.25)
            return torch.exp(-((distances / sigma) ** 2) / 2)
        nearest = distances.fill_diagonal_(math.inf).topk(min(self.hparams.k, len(z) - 1), largest=False).indices
        return torch.zeros_like(distances).scatter_(1, nearest, 1.0)


def _smoothed(scores: Tensor, affinity: Tensor) -> Tensor:
    """Return log q (B, classes), given log p (B, classes) and the affinities (B, B)."""
    logs, before = scores.log_softmax(dim=1), math.inf
    for step in range(_STEPS):
        pull = affinity @ logs.exp()
        logs = (scores + pull).log_softmax(dim=1)
        q = logs.exp()
        energy = float((q * (logs.clamp_min(math.log(1e-20)) - scores - pull)).sum())
        if step > 1 and abs(energy - before) <= _TOLERANCE * abs(before):
            break
        before = energy
    return logs
