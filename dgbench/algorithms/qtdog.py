"""QT-DoG: weights of few bits end in flat minima."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dgbench.algorithms._lsq import add_quantizers
from dgbench.core.cards import AlgorithmCard
from dgbench.core.errors import UserError
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


class QTDoG(Algorithm):
    """min over theta and s of L(s * round(clip(w / s, -2^(b-1), 2^(b-1) - 1))), w of the convolutions, L ERM's loss.

    Javed, Le and Salzmann, "QT-DoG: Quantization-Aware Training for Domain Generalization", ICML 2025. The weights
    w of every convolution have b bits, by learned step size quantisation with a scale s for each output channel;
    activations, biases, norms and linear layers stay as they are, and so does what is frozen. The first `q_steps` steps
    are ERM's.

    Departures from the authors' code: the optimizer starts afresh with the quantisation, over the quantised weights and
    the scales (theirs goes on with parameters that are no longer there, so of the convolutions nothing learns any
    more); the scales have no weight decay; a scale begins at 1e-8 at least. DomainBed has no QT-DoG. Their ensemble is
    the merger's business.
    """

    card = AlgorithmCard(
        paper="Javed et al., ICML 2025",
        base=None,
        rehearsal={"q_steps": 5},
        needs=("convolutions", "learning_features"),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """The authors' values."""

        q_steps: int = hparam(2000, help="first step with quantised weights", within="[0, inf)")
        bits: int = hparam(7, help="bits of a weight", within="[2, 16]")

    hparams: Hparams

    def build(self) -> None:
        """Give every convolution that learns a quantizer, still switched off."""
        self.quantised = add_quantizers(self.network, self.hparams.bits)
        if not self.quantised:
            raise UserError(f"{type(self).__name__} quantises convolutions that learn, and this network has none")

    def build_optimizers(self) -> None:
        """One for all; until they are switched on, the scales have a derivative of 0 and stay."""
        scales = [quantizer.scale for _, quantizer in self.quantised]
        theirs = {id(scale) for scale in scales}
        others = [parameter for parameter in self.parameters() if id(parameter) not in theirs]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": scales, "weight_decay": 0.0}]
        self.optimizer = self.new_optimizer(groups)

    def begin(self) -> None:
        """Quantise from now on, with a fresh optimizer."""
        for convolution, quantizer in self.quantised:
            quantizer.start(convolution.weight)
        self.build_optimizers()

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor | float]:
        """ERM's step."""
        if self.step == self.hparams.q_steps:
            self.begin()
        return super().update(batches)

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Cross-entropy over the concatenated minibatches."""
        return self.joint_loss(batches)
