"""Batch-norm adaptation: batch norm normalizes by the test batch, and nothing learns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dgbench.adaptation._batches import Batches
from dgbench.core.cards import AdapterCard
from dgbench.core.errors import UserError
from dgbench.methods.adapter import Adapter
from dgbench.networks.network import Network
from dgbench.networks.norms import use_batch_statistics


class BNAdapt(Adapter):
    r"""Normalize by the statistics of each test batch instead of those of the training examples.

    $$
    \mathrm{BN}(h) = \gamma\, \frac{h - \mathrm{mean}_{\text{batch}}(h)}{\sqrt{\mathrm{var}_{\text{batch}}(h) +
    \varepsilon}} + \beta
    $$

    Each batch norm keeps its scale $\gamma$ and shift $\beta$. This is the baseline of the methods that learn on top of
    it: TENT's authors call it "norm", the DomainBed port of T3A's authors TentNorm. Batch norm that was frozen in
    training is adapted too.

    Reference:
        Nado, Padhy, Sculley, D'Amour, Lakshminarayanan and Snoek, "Evaluating Prediction-Time Batch Normalization for
        Robustness under Covariate Shift", arXiv:2006.10963, 2020. Schneider, Rusak, Eck, Bringmann, Brendel and Bethge,
        "Improving Robustness against Common Corruptions by Covariate Shift Adaptation", NeurIPS 2020, without a share
        of the training statistics (their N = 0).

    Departures from TENT's code and from TentNorm: dropout is off; both switch it on. A last batch of a single input is
    normalized together with the batch before it.
    """

    card = AdapterCard(
        needs=("batch_norm",),
        paper="Nado et al., arXiv 2020",
        link="https://arxiv.org/abs/2006.10963",
        tags=("test-time",),
    )

    def __init__(self, network: Network, hparams: Any) -> None:
        super().__init__(network.eval(), hparams)
        if not use_batch_statistics(network):
            raise UserError(
                "BNAdapt replaces the statistics of batch norm, and this network has none: train another backbone, "
                "such as resnet18"
            )
        self._batches = Batches()

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return logits (B, classes), each of which depends on the whole batch."""
        return self.network(self._batches.join_single(x))[-len(x) :]  # type: ignore[no-any-return]
