"""An algorithm that writes `update`, because it changes gradients before the optimizer takes them.

dgbench check examples/median_gradient.py
dgbench train --include examples/median_gradient.py --algorithm MedianGradient --dataset RotatedDigits --test 75
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dgbench import Algorithm, AlgorithmCard, Batch


class MedianGradient(Algorithm):
    """Step along the median over domains, parameter by parameter, of the gradients of their losses."""

    card = AlgorithmCard(paper="none: an example", min_domains=2, backwards=3)  # one pass back a domain, of three

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Change the model once and return the values to log."""
        losses = self.domain_losses(batches)  # (domains,), in one forward pass
        parameters = [p for p in self.parameters() if p.requires_grad]
        gradients = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
        for parameter, *of_domains in zip(parameters, *gradients, strict=True):
            parameter.grad = torch.stack(of_domains).median(dim=0).values
        self.optimizer.step()  # learning rate, schedule and clipping are the setting's
        return {"loss": losses.mean().detach()}
