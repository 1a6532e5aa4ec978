"""An algorithm with two optimizers: `build_optimizers` makes them, `update` steps both.

dgbench check examples/two_rates.py
dgbench train --include examples/two_rates.py --algorithm TwoRates --dataset RotatedDigits --test 75
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

import dgbench
from dgbench import Algorithm, AlgorithmCard, Batch, hparam, power


class TwoRates(Algorithm):
    """Minimize ERM's loss with a learning rate for the classifier that is `ratio` times that of the featurizer."""

    card = AlgorithmCard(paper="none: an example", needs=("own_classifier",))

    @dataclass(frozen=True)
    class Hparams(dgbench.Hparams):
        """Hyperparameters of TwoRates, beside those of every algorithm."""

        ratio: float = hparam(10.0, power(10, 0, 2), help="the classifier's rate by the others'", within="(0, inf)")

    hparams: Hparams

    def build_optimizers(self) -> None:
        """Make the optimizers. Those that are attributes are saved and resumed with the run."""
        self.slow = self.new_optimizer(self.network.featurizer.parameters())
        self.fast = self.new_optimizer(self.network.classifier.parameters(), lr=self.hparams.ratio * self.hparams.lr)

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Change the model once and return the values to log."""
        loss = self.joint_loss(batches)
        self.slow.zero_grad()
        self.fast.zero_grad()
        loss.backward()
        self.slow.step()
        self.fast.step()
        return {"loss": loss.detach()}  # on the device: `loss.item()` would wait for it
