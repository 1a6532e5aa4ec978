"""Training without a classifier: past examples vote by how near they are, and the features learn to be near theirs."""

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
from dgbench.methods.algorithm import FROM_SCRATCH, Algorithm, Batch
from dgbench.methods.neighbours import scores

_FIRST_TEMPERATURE = 1.0


class KNN(Algorithm):
    """min of mean_n -log s_y(x_n), s_c = 1e-5 + sum over the k nearest z_i in a queue of softmax_i(cos / T) [y_i = c].

    Zhang, Wang, Jin, Yuan, Zhang, Wang, Jin and Tan, "AdaNPC: Exploring Non-Parametric Classifier for Test-Time
    Adaptation", ICML 2023: the training that it belongs to (ERM with a kNN classifier). The queue holds the features of
    the last `queue_size` examples, which join it after each step and are constant; random ones of class 0 at first. T
    falls linearly from 1 at the first step to `temperature` at the last, which prediction has too. The network has no
    classifier, whatever the setting says of one.

    Departures from the authors' code: a prediction is by the queue; theirs, whenever it evaluates, is by the features
    of all training examples, which KNN+AdaNPC with beta above 1 is. The learning rate follows the setting (theirs is
    halved where the loss stays for 500 steps), and T falls over the run (theirs: over 5,000 steps of 5,001). The random
    features have length 1 (theirs: about). Of minibatches larger than the queue, examples evenly spaced over the
    domains join it. An average looks its features up in the queue of the model that it watches, a merger in the
    last member's: features of different examples have no mean. DomainBed has no KNN.
    """

    card = AlgorithmCard(paper="Zhang et al., ICML 2023", needs=("classes", "learning_features"))

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Defaults and draws are the authors'; the first two differ from those of small images."""

        lr: float = hparam(1e-4, power(10, -5, -3.5), variants=FROM_SCRATCH, within="[0, inf)")
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
            help="neighbours that vote",
            variants={"small_images": (10, choice(5, 10, 20, 50, 100, 150))},
            within="[1, inf)",
        )
        temperature: float = hparam(0.1, help="of the cosines, at the last step and in prediction", within="(0, inf)")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.k > self.queue_size:
                raise UserError(f"k must not be above queue_size, {self.queue_size}, but it is {self.k}")

    hparams: Hparams

    def build(self) -> None:
        """Put the queue in the classifier's place."""
        values, width = self.hparams, self.network.num_features
        self.network.classifier = Queue(values.queue_size, width, self.task.num_classes, values.k, values.temperature)

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step, after which the queue takes the minibatches in."""
        queue = self.network.classifier
        assert isinstance(queue, Queue)
        features = self.network.dropout(self.network.features(torch.cat([b.x for b in batches])))
        y = torch.cat([b.y for b in batches])
        loss = F.nll_loss(queue.log_scores(features, self._temperature()), y)
        self.descend(loss)
        queue.add(features.detach(), y)
        return {"loss": loss.detach()}

    def _temperature(self) -> float:
        done = self.step / max(1, self.setting.steps - 1)
        return _FIRST_TEMPERATURE + done * (self.hparams.temperature - _FIRST_TEMPERATURE)


class Queue(nn.Module):
    """The last examples' features, of length 1, and labels. As a classifier its logits are the logarithms of scores."""

    bits: Tensor
    labels: Tensor
    oldest: Tensor

    def __init__(self, size: int, width: int, num_classes: int, k: int, temperature: float) -> None:
        super().__init__()
        self.num_classes, self.k, self.temperature = num_classes, k, temperature
        # As integers, because averages and mergers take those of one model and have the mean of all else.
        self.register_buffer("bits", _bits(F.normalize(torch.rand(size, width) * 2 - 1, dim=1)))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    @property
    def memory(self) -> Tensor:
        """The features (size, D)."""
        return self.bits.view(torch.float32 if self.bits.dtype == torch.int32 else torch.float64)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.log_scores(features, self.temperature)

    def log_scores(self, features: Tensor, temperature: float) -> Tensor:
        """The same at another temperature."""
        cosines = F.normalize(features, dim=1) @ self.memory.T
        return scores(cosines, self.labels, self.k, temperature, self.num_classes).log()

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Put examples in the places of the oldest."""
        size, many = len(self.labels), len(labels)
        taken = min(size, many)
        rows = torch.arange(taken, device=labels.device)
        places, chosen = (self.oldest + rows) % size, rows * many // taken
        self.bits[places] = _bits(F.normalize(features[chosen], dim=1))
        self.labels[places] = labels[chosen]
        self.oldest.copy_((self.oldest + taken) % size)

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *more: Any) -> None:
        # Of runs that are merged, each may have drawn a size of its own.
        for name in ("bits", "labels"):
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *more)


def _bits(features: Tensor) -> Tensor:
    return features.contiguous().view(torch.int32 if features.dtype == torch.float32 else torch.int64)
