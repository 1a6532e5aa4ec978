"""SAM that displaces the normalisation layers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dgbench.core.cards import AlgorithmCard
from dgbench.core.errors import UserError
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch
from dgbench.methods.ascent import backward_at, gradient, of_length
from dgbench.networks.norms import norms


class SAMON(Algorithm):
    """min over theta of L(theta + eps), eps = rho * g_S / (||g_S|| + 1e-16) on S, 0 elsewhere, g = grad L(theta).

    Mueller, Vlaar, Rolnick and Hein, "Normalization Layers Are All That Sharpness-Aware Minimization Needs", NeurIPS
    2023. S are the parameters of normalisation layers, timm's own too: their scales and shifts, and what an EvoNorm
    has beside. L is ERM's loss; all parameters take the step down. A network without such layers (the MLP), or with all
    of them frozen, is refused.

    Departures from the authors' code: layers are known by their type, not by "bn" or "norm" in their names, which
    leaves out the batch norm on a torchvision ResNet's shortcuts; no adaptive variants (ASAM-ON); in the second pass
    live batch norm leaves its statistics alone (theirs move in both). DomainBed has no SAM-ON.
    """

    card = AlgorithmCard(
        paper="Mueller et al., NeurIPS 2023",
        forwards=2.0,
        backwards=2.0,
        penalties=("rho",),
        needs=("norm", "learning_features"),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """The default is that of the authors' command line; few parameters need a larger radius than all."""

        rho: float = hparam(0.5, help="length of the step uphill", within="[0, inf)")

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step, for two forward and two backward passes over the same minibatches."""
        loss = self.joint_loss(batches)
        affine = [p for layer in norms(self) for p in layer.parameters(recurse=False) if p.requires_grad]
        if not affine:
            raise UserError("SAMON displaces the normalisation layers that learn, and this network has none")
        parameters, ascent = gradient(loss, affine)
        uphill, _ = backward_at(self, batches, parameters, of_length(ascent, self.hparams.rho, eps=1e-16))
        self.optimizer.step()
        return {"loss": loss.detach(), "sharpness": uphill - loss.detach()}
