"""Risk distribution matching: the losses of the worst domain should be distributed like those of all domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power, uniform
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

_GAMMAS = (1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100, 1000)


class RDM(Algorithm):
    r"""Match the distribution of the worst domain's losses to that of all domains' losses.

    $$
    \min_\theta \; \frac1E \sum_e L_e + \lambda\, \mathrm{MMD}^2(\ell_w, \ell) +
    \nu\, \big[\mathrm{Var}(\ell_w) + \mathrm{Var}(\ell)\big], \qquad w = \arg\max_e L_e
    $$

    $\ell$ are the losses of all examples of the minibatches, $\ell_w$ those of the domain with the greatest mean loss
    $L_e$; $\lambda$ is `rdm_lambda` and $\nu$ is `variance_weight`. $\mathrm{MMD}^2$ is the biased estimate by the sum
    of the kernels $\exp(-\gamma (a - b)^2)$, $\gamma = 10^{-4}, 10^{-3}, \dots, 10^3$; $\mathrm{Var}$ divides by
    $n - 1$. Before step `rdm_penalty_anneal_iters` the loss is the mean alone; at that step the optimizer starts
    afresh, with `rdm_lr` as its learning rate.

    Reference:
        Nguyen, Do, Duong and Nguyen, "Domain Generalisation via Risk Distribution Matching", WACV 2024.

    Departures from DomainBed's code: minibatches of the domains may differ in size; the penalties are not computed
    before they count; differences are squared, not expanded into a difference of squares, so that no distance needs a
    floor.
    """

    card = AlgorithmCard(
        paper="Nguyen et al., WACV 2024",
        link="https://arxiv.org/abs/2310.18598",
        tags=("distribution-robustness", "invariance"),
        min_domains=2,
        penalties=("rdm_lambda", "variance_weight"),
        base=None,
        rehearsal={"rdm_penalty_anneal_iters": 2, "rdm_lr": 1e-3},
        unlike_domainbed="needs CUDA and minibatches of one size",
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of RDM; defaults and draws are DomainBed's, those for `few_examples` are ours."""

        batch_size: int = hparam(
            88,
            uniform(70, 100, integer=True),
            help="examples of each domain in a step",
            variants={
                "few_examples": (32, power(2, 3, 5.5, integer=True)),
                "small_images": (64, power(2, 3, 9, integer=True)),
                "DomainNet": (40, uniform(30, 60, integer=True)),
                "TerraIncognita": (40, uniform(30, 60, integer=True)),
            },
            within="[2, inf)",
        )
        rdm_lambda: float = hparam(
            5.0,
            uniform(0.1, 10.0),
            help="weight of the matching penalty",
            variants={
                "DomainNet": (0.5, uniform(0.1, 1.0)),
                "PACS": (5.0, uniform(1.0, 10.0)),
                "TerraIncognita": (5.0, uniform(1.0, 10.0)),
            },
        )
        rdm_penalty_anneal_iters: int = hparam(
            1500,
            uniform(800, 2700, integer=True),
            help="first step with the penalties",
            begins="step",
            variants={"DomainNet": (2400, uniform(1500, 3000, integer=True))},
        )
        variance_weight: float = hparam(
            0.004,
            uniform(0.001, 0.007),
            help="weight of the variances",
            variants=dict.fromkeys(("TerraIncognita", "OfficeHome", "DomainNet"), (0.0, None)),
        )
        rdm_lr: float = hparam(
            1.5e-5, uniform(8e-6, 2e-5), help="learning rate from the annealing step on", within="[0, inf)"
        )

    hparams: Hparams

    def before_step(self) -> None:
        """Drop the optimizer's moments where the penalties set in."""
        if self.step == self.hparams.rdm_penalty_anneal_iters:
            self.optimizer = self.new_optimizer(self.parameters(), lr=self.hparams.rdm_lr)

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts, from one forward pass."""
        logits, y = self(torch.cat([b.x for b in batches])), torch.cat([b.y for b in batches])
        losses = torch.split(F.cross_entropy(logits, y, reduction="none"), [len(b.y) for b in batches])
        mean = torch.stack([each.mean() for each in losses]).mean()
        if self.step < self.hparams.rdm_penalty_anneal_iters:
            return {"loss": mean, "nll": mean}
        matching, variance = penalties(losses)
        loss = mean + self.hparams.rdm_lambda * matching + self.hparams.variance_weight * variance
        return {"loss": loss, "nll": mean, "matching": matching, "variance": variance}


def penalties(losses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the two penalties of RDM from the losses of all examples.

    Args:
        losses: Of each domain, the losses (B,) of its examples.

    Returns:
        MMD^2 between the losses of the worst domain and all losses, and the sum of the variances of these two sets;
        both are scalars with a gradient.
    """
    # Which domain is the worst stays on the device, since reading it would stall the step: its losses are picked out by
    # weights of the examples, which are 0 for all other domains.
    worst = torch.stack([each.mean() for each in losses]).argmax().view(1)
    pooled = torch.cat(list(losses))
    shares: Tensor = torch.block_diag(*[torch.full_like(each, 1 / len(each)) for each in losses])  # type: ignore[no-untyped-call]
    difference = shares.index_select(0, worst).squeeze(0) - 1 / len(pooled)
    squares = (pooled[:, None] - pooled).square()
    kernel = torch.stack([torch.exp(-gamma * squares) for gamma in _GAMMAS]).sum(dim=0)
    variances = torch.stack([each.var() for each in losses])
    return difference @ kernel @ difference, variances.index_select(0, worst).squeeze(0) + pooled.var()
