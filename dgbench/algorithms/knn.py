"""Training without a classifier: features are learned so that the nearest past examples vote for the right class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.core.cards import AlgorithmCard
from dgbench.core.errors import UserError
from dgbench.core.space import choice, hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from dgbench.methods.hparams import FROM_SCRATCH
from dgbench.methods.neighbors import scores

_FIRST_TEMPERATURE = 1.0


class KNN(Algorithm):
    r"""Train features so that the nearest of the recent examples vote for the right class.

    $$
    \min_\theta \; \frac1N \sum_n -\log s_{y_n}(x_n), \qquad
    s_c(x) = \min\Big(1,\; 10^{-5} +
    \sum_{i \in \mathcal{N}_k(x)} \mathrm{softmax}_i\big(\cos(z(x), z_i) / T\big)\, [y_i = c]\Big)
    $$

    $z(x)$ are the features of $x$. $\mathcal{N}_k(x)$ are the `k` nearest entries of a queue that holds the features of
    the last `queue_size` examples; a minibatch joins it after its step, and queued features are constant. At first the
    queue is full of random features of class 0. $T$ falls linearly from 1 in the first step to `temperature` in the
    last, and prediction uses `temperature`. The network has no classifier, whatever the setting says of one.

    An average looks its features up in the queue of the model that it watches, and a merger in the last member's queue:
    features of different examples have no mean.

    Reference:
        Zhang, Wang, Jin, Yuan, Zhang, Wang, Jin and Tan, "AdaNPC: Exploring Non-Parametric Classifier for Test-Time
        Adaptation", ICML 2023: the training that precedes their test-time adaptation (ERM with a kNN classifier).

    Departures from the authors' code:

    - Predictions use the queue. Theirs use the features of all training examples, computed anew at each evaluation; the
      row `KNN+AdaNPC` with `beta` above 1 does so.
    - The learning rate follows the setting; theirs is halved when the loss stalls for 500 steps.
    - $T$ falls over the run's length; theirs over 5,000 of 5,001 steps.
    - The random features at the start have length 1 exactly; theirs approximately.
    - If the minibatches hold more examples than the queue, examples spaced evenly over the domains join it.

    DomainBed: has no KNN.
    """

    card = AlgorithmCard(
        paper="Zhang et al., ICML 2023",
        link="https://arxiv.org/abs/2304.12566",
        tags=("neighbors",),
        needs=("classes", "learning_features"),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of KNN; defaults and draws are the authors'.

        They differ between small and other images in `lr`, `queue_size` and `k`.
        """

        lr: float = hparam(1e-4, power(10, -5, -3.5), variants=FROM_SCRATCH, within="[0, inf)")
        lr_head: float = hparam(0.0, help="none: there is no classifier that learns", options=(0.0,), optional=True)
        queue_size: int = hparam(
            3500,
            choice(1000, 1500, 2000, 2500, 3500, 5000),
            help="examples that the queue holds",
            variants={"small_images": (1000, choice(500, 1000, 2000, 2500, 3500))},
            within="[1, inf)",
        )
        k: int = hparam(
            150,
            choice(25, 50, 75, 100, 125, 150, 200, 500),
            help="neighbors that vote",
            variants={"small_images": (10, choice(5, 10, 20, 50, 100, 150))},
            within="[1, inf)",
        )
        temperature: float = hparam(
            0.1, help="temperature of the cosines at the last step and in prediction", within="(0, inf)"
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.k > self.queue_size:
                raise UserError(f"k must not be above queue_size, {self.queue_size}, but it is {self.k}")

    hparams: Hparams

    def build(self) -> None:
        """Put the queue in the classifier's place."""
        values, width = self.hparams, self.network.num_features
        self.network.classifier = Queue(values.queue_size, width, self.task.num_classes, values.k, values.temperature)

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the loss of the neighbors' votes; the minibatches join the queue after the step."""
        queue = self.network.classifier
        assert isinstance(queue, Queue)
        features = self.network.dropout(self.network.features(torch.cat([b.x for b in batches])))
        y = torch.cat([b.y for b in batches])
        loss = F.nll_loss(queue.log_scores(features, self._temperature()), y)
        self.defer(lambda: queue.add(features.detach(), y))
        return loss

    def _temperature(self) -> float:
        done = self.step / max(1, self.setting.steps - 1)
        return _FIRST_TEMPERATURE + done * (self.hparams.temperature - _FIRST_TEMPERATURE)


class Queue(nn.Module):
    """Features and labels of the latest examples, as a classifier whose logits are the logarithms of scores."""

    bits: Tensor
    labels: Tensor
    oldest: Tensor

    def __init__(self, size: int, width: int, num_classes: int, k: int, temperature: float) -> None:
        super().__init__()
        self.num_classes, self.k, self.temperature = num_classes, k, temperature
        # The bits of the features as integers: averages and mergers take integer tensors from one model and average all
        # others, and a mean of the features of different examples would mean nothing.
        self.register_buffer("bits", _bits(F.normalize(torch.rand(size, width) * 2 - 1, dim=1)))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    @property
    def memory(self) -> Tensor:
        """Return the queued features (size, num_features), of length 1: a view of `bits`, not a copy."""
        return self.bits.view(torch.float32 if self.bits.dtype == torch.int32 else torch.float64)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, classes), the logarithms of the scores at the final temperature."""
        return self.log_scores(features, self.temperature)

    def log_scores(self, features: Tensor, temperature: float) -> Tensor:
        """Return the logarithms of the scores (B, classes) at any temperature."""
        cosines = F.normalize(features, dim=1) @ self.memory.T
        return scores(cosines, self.labels, self.k, temperature, self.num_classes).log()

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Replace the oldest entries by these examples: features (N, num_features), labels (N,)."""
        size, many = len(self.labels), len(labels)
        taken = min(size, many)
        rows = torch.arange(taken, device=labels.device)
        # If more examples come than fit, take them evenly spaced: a contiguous stretch would be of few domains.
        places, chosen = (self.oldest + rows) % size, rows * many // taken
        self.bits[places] = _bits(F.normalize(features[chosen], dim=1))
        self.labels[places] = labels[chosen]
        self.oldest.copy_((self.oldest + taken) % size)

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *more: Any) -> None:
        # Merged runs may have drawn different sizes of the queue; take the size that was saved.
        for name in ("bits", "labels"):
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *more)


def _bits(features: Tensor) -> Tensor:
    return features.contiguous().view(torch.int32 if features.dtype == torch.float32 else torch.int64)
