"""EATA: entropy minimization on reliable and new test inputs, held near the weights that training needs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD

from dgbench.adaptation._batches import Batches, entropies, scales_and_shifts
from dgbench.core.cards import AdapterCard
from dgbench.core.errors import UserError
from dgbench.core.space import Checked, choice, hparam
from dgbench.methods.adapter import Adapter
from dgbench.networks.network import Network
from dgbench.networks.norms import norms, use_batch_statistics

_FISHER_BATCH = 64
"""Least training examples in a batch of the Fisher information, unless there are fewer."""


class EATA(Adapter):
    r"""Minimize the entropy of reliable inputs that differ from those before, and keep weights that training needs.

    $$
    \min_a \; \frac{1}{|S|} \sum_{n \in S} e^{E_0 - H_n} H_n(a) + \beta \sum_i F_i\, (a_i - a_i^0)^2, \qquad
    S = \big\{n : H_n < E_0,\; |\cos(p_n, m)| < d\big\}
    $$

    $a$ are the scales and shifts of the norms, $a^0$ those of training, $H_n$ is the entropy of the prediction $p_n$;
    the weight $e^{E_0 - H_n}$ has no gradient. $E_0$ is `margin` × $\ln C$ for $C$ classes, $d$ is `d_margin`, $\beta$
    is `fisher_alpha`. $m$ is a running mean of the predictions in $S$, $m \leftarrow 0.9\, m + 0.1\, \bar p$, so that
    an input predicted as most others were teaches nothing new; in the first batch all reliable inputs count. A batch is
    predicted before it is learned from.

    $F_i$ is the Fisher information of $a_i$ at $a^0$: the mean over batches of training examples of the squared
    gradient of the cross-entropy with the network's own predictions as labels. Batch norm normalizes by the batch.

    Reference:
        Niu, Wu, Zhang, Chen, Zheng, Zhao and Tan, "Efficient Test-Time Model Adaptation without Forgetting", ICML 2022.

    Departures from the authors' code:

    - The Fisher information is of training examples, drawn from all training domains; theirs is of clean test images.
      As in theirs, gradients are of batches of 64; the paper's formula squares those of single examples.
    - $E_0$ follows the number of classes; theirs is that of 1,000 classes. `d_margin` is 0.4; theirs is 0.05, below
      which hardly an input of 10 classes falls: the cosine of a sure prediction and an even mean is $1 / \sqrt{C}$.
    - Norms of every kind learn, not only batch norm of two dimensions.
    - Dropout is off; theirs is on. A batch has 32 inputs unless the stream says otherwise; theirs 64.
    - A single input is normalized together with the batch before it, if there was one of several inputs.
    """

    card = AdapterCard(
        needs=("norm",),
        paper="Niu et al., ICML 2022",
        link="https://arxiv.org/abs/2204.02610",
        tags=("test-time", "reweighting", "regularization"),
        needs_source=True,
        backwards=1.0,
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of EATA; defaults are the authors' for ResNets on ImageNet, but for `d_margin`."""

        lr: float = hparam(2.5e-4, choice(2.5e-4, 1e-3, 5e-3), help="learning rate at test time", within="[0, inf)")
        margin: float = hparam(
            0.4,
            help="E0 relative to the entropy of a uniform prediction; above 1 all inputs are reliable",
            within="[0, inf)",
        )
        d_margin: float = hparam(
            0.4,
            choice(0.05, 0.2, 0.4),
            help="largest cosine with the mean prediction; above 1 all reliable inputs count",
            within="[0, inf)",
        )
        fisher_alpha: float = hparam(
            2000.0, choice(1.0, 2000.0), help="weight of the distance from the trained weights", within="[0, inf)"
        )
        fisher_size: int = hparam(2000, help="training examples of the Fisher information", within="[1, inf)")

    hparams: Hparams

    def __init__(self, network: Network, hparams: Any) -> None:
        super().__init__(network.eval().requires_grad_(False), hparams)
        use_batch_statistics(network)
        self._parameters = scales_and_shifts(norms(network.featurizer))
        if not self._parameters:
            raise UserError(
                "EATA learns the scales and shifts of normalization layers, and this network has none: train another "
                "backbone, such as resnet18"
            )
        self._initial = [parameter.detach().clone() for parameter in self._parameters]
        self._fisher = [torch.zeros_like(parameter) for parameter in self._initial]
        self._optimizer = SGD(self._parameters, lr=self.hparams.lr, momentum=0.9)
        self._batches = Batches()
        self._mean: Tensor | None = None

    @torch.enable_grad()
    def begin(self, source: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Measure the Fisher information on a random sample of the training examples."""
        sample = _draw(source, self.hparams.fisher_size)
        batches = torch.stack(sample).tensor_split(max(1, len(sample) // _FISHER_BATCH))
        for x in batches:
            logits = self.network(x.to(self.network.mean.device))
            loss = F.cross_entropy(logits, logits.argmax(dim=1))
            for fisher, gradient in zip(self._fisher, torch.autograd.grad(loss, self._parameters), strict=True):
                fisher += gradient**2 / len(batches)

    def predict(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) from before learning from the batch."""
        logits = self.network(self._batches.join_single(x))[-len(x) :]
        entropy, probabilities = entropies(logits), logits.detach().softmax(dim=1)
        limit = self.hparams.margin * math.log(logits.shape[1])
        chosen = entropy < limit
        if self._mean is not None:
            cosines = F.cosine_similarity(self._mean[None], probabilities, dim=1)
            chosen &= cosines.abs() < self.hparams.d_margin
        if chosen.any():
            mean = probabilities[chosen].mean(dim=0)
            self._mean = mean if self._mean is None else 0.9 * self._mean + 0.1 * mean
            weights = torch.exp(limit - entropy[chosen].detach())
            self._optimizer.zero_grad()
            loss = (weights * entropy[chosen]).mean() + self.hparams.fisher_alpha * self._distance()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return logits.detach()  # type: ignore[no-any-return]

    def _distance(self) -> Tensor:
        """Return the squared distance from the trained weights, each weighted by its Fisher information."""
        parts = zip(self._fisher, self._parameters, self._initial, strict=True)
        return torch.stack([(fisher * (now - before) ** 2).sum() for fisher, now, before in parts]).sum()


def _draw(source: Iterator[tuple[Tensor, Tensor]], size: int) -> list[Tensor]:
    """Draw at most `size` inputs, each with the same probability, and hold them in the CPU's memory.

    This is Vitter's algorithm R: no input but those that are held is needed twice.
    """
    found: list[Tensor] = []
    seen = 0
    for x, _ in source:
        for one in x:
            seen += 1
            place = int(torch.randint(seen, ()))
            if len(found) < size:
                found.append(one.cpu().clone())
            elif place < size:
                found[place] = one.cpu().clone()
    return found
