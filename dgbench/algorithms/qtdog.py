"""QT-DoG: quantization-aware training, whose weights of few bits end in flat minima."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dgbench.algorithms._lsq import add_quantizers
from dgbench.core.cards import AlgorithmCard
from dgbench.core.errors import UserError
from dgbench.core.needs import Need
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class QTDoG(Algorithm):
    r"""Train with convolution weights quantized to a few bits, which favors flat minima.

    $$
    \min_{\theta, s} \; L\Big(s \cdot \mathrm{round}\big(\mathrm{clip}(w / s,\, -2^{b-1},\, 2^{b-1} - 1)\big)\Big)
    $$

    $L$ is ERM's loss, $w$ are the weights of every convolution that learns, and $b$ is `bits`. Learned step size
    quantization (LSQ) fits one scale $s$ for each output channel, along with the weights. Activations, biases, norms
    and linear layers keep full precision, and so do frozen layers. The first `q_steps` steps are ERM's.

    Reference:
        Javed, Le and Salzmann, "QT-DoG: Quantization-Aware Training for Domain Generalization", ICML 2025.

    Departures from the authors' code:

    - The optimizer starts afresh when quantization begins, over the quantized weights and the scales. Theirs goes on
      with parameters that the network no longer has, so that nothing of the convolutions learns any more.
    - Scales have no weight decay, and start at 1e-8 at least.
    - Their ensemble is a merger: `QTDoG+Ensemble`.

    DomainBed: has no QT-DoG.
    """

    card = AlgorithmCard(
        paper="Javed et al., ICML 2025",
        link="https://arxiv.org/abs/2410.06020",
        tags=("quantization", "flat-minima"),
        base=None,
        rehearsal={"q_steps": 5},
        needs=(
            "convolutions",
            "learning_features",
            Need("full_weights", why="saves weights of few bits, which their sums with changes are not"),
        ),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of QT-DoG; the values are the authors'."""

        q_steps: int = hparam(2000, help="first step with quantized weights", within="[0, inf)", begins="step")
        bits: int = hparam(7, help="bits of a weight", within="[2, 16]")

    hparams: Hparams

    def build(self) -> None:
        """Give every convolution that learns a quantizer, still switched off; raise UserError if there is none."""
        self.quantized = add_quantizers(self.network, self.hparams.bits)
        if not self.quantized:
            raise UserError(f"{type(self).__name__} quantizes convolutions that learn, and this network has none")

    def build_optimizers(self) -> None:
        """Create one optimizer, in which the scales have no weight decay.

        Until the quantizers are switched on, the scales have a derivative of 0 and stay.
        """
        scales = [quantizer.scale for _, quantizer in self.quantized]
        scale_ids = {id(scale) for scale in scales}
        others = [parameter for parameter in self.parameters() if id(parameter) not in scale_ids]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": scales, "weight_decay": 0.0}]
        self.optimizer = self.new_optimizer(groups)

    def before_step(self) -> None:
        """Switch the quantizers on at step `q_steps`, with scales fitted to the weights, and a fresh optimizer."""
        if self.step != self.hparams.q_steps:
            return
        for convolution, quantizer in self.quantized:
            quantizer.start(convolution.weight)
        self.build_optimizers()

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the cross-entropy over the concatenated minibatches."""
        return self.joint_loss(batches)
