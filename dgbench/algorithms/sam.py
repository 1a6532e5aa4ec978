"""Sharpness-aware minimisation: descend along the gradient found a step uphill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import choice, hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch
from dgbench.methods.ascent import backward_at, gradient, of_length


class SAM(Algorithm):
    """min over theta of L(theta + eps), eps = rho * g / (||g|| + 1e-12), g = grad L(theta); L is ERM's loss.

    Foret, Kleiner, Mobahi and Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    ICLR 2021. One norm over all parameters that have a gradient, biases and batch norm's affine part included.

    Departures from the authors' JAX code: weight decay acts at the descent alone (theirs is part of both losses), there
    is no clipping, and one perturbation serves the whole batch (theirs is one a device by default). From the PyTorch
    code that domain generalization uses: weights are copied back, not recovered by subtraction; in the second pass
    live batch norm leaves its statistics alone, and its count of batches too (setting the momentum to 0 lets that
    count run on). As there, dropout draws a new mask in the second pass. DomainBed has no SAM.
    """

    card = AlgorithmCard(paper="Foret et al., ICLR 2021", forwards=2.0, backwards=2.0, penalties=("rho",))

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """The default is the paper's, the draw that of the re-runs on DomainBed."""

        rho: float = hparam(0.05, choice(0.01, 0.02, 0.05, 0.1), help="length of the step uphill", within="[0, inf)")

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step, for two forward and two backward passes over the same minibatches."""
        loss = self.joint_loss(batches)
        parameters, ascent = gradient(loss, self.parameters())
        uphill, _ = backward_at(self, batches, parameters, of_length(ascent, self.hparams.rho))
        self.optimizer.step()
        return {"loss": loss.detach(), "sharpness": uphill - loss.detach()}
