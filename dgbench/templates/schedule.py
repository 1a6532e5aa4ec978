"""An algorithm for dgbench with a learning-rate schedule of its own.

dgbench check mine.py
dgbench train --include mine.py --algorithm MyAlgorithm --dataset RotatedDigits --test 75
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

import dgbench
from dgbench import Algorithm, AlgorithmCard, Batch, hparam, uniform


class MyAlgorithm(Algorithm):
    """Minimize the mean loss; the classifier's rate rises over the first steps, and all rates fall at the end."""

    card = AlgorithmCard(paper="Author et al., Venue Year", needs=("own_classifier",))

    @dataclass(frozen=True)
    class Hparams(dgbench.Hparams):
        """Hyperparameters of MyAlgorithm, beside those of every algorithm."""

        rise: float = hparam(0.1, uniform(0.0, 0.3), help="share of the steps in which it rises", within="[0, 1]")
        fall: float = hparam(0.2, uniform(0.1, 0.5), help="share of the steps in which all fall", within="[0, 1]")

    hparams: Hparams

    def build_optimizers(self) -> None:
        """Make one optimizer for each part that has a schedule of its own."""
        self.optimizer = self.new_optimizer(self.network.featurizer.parameters())
        self.classifier_optimizer = self.new_optimizer(self.network.classifier.parameters())

    def rate_factor(self, optimizer: Optimizer) -> float:
        """Return the factor on an optimizer's learning rates in this step, which the setting's schedule multiplies."""
        # A function of the step alone, so that a run that resumes goes on at the same rates.
        done, h = self.step / self.setting.steps, self.hparams
        factor = min(1.0, (1 - done) / h.fall) if h.fall else 1.0
        if optimizer is self.classifier_optimizer and done < h.rise:
            factor *= (self.step + 1) / (h.rise * self.setting.steps + 1)
        return factor

    def update(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Take one step of both optimizers along the gradient of the mean loss."""
        loss = self.joint_loss(batches)
        for optimizer in (self.optimizer, self.classifier_optimizer):
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in (self.optimizer, self.classifier_optimizer):
            optimizer.step()
        return {"loss": loss.detach()}
