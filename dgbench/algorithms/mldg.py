"""Meta-learning for domain generalization: a step on some domains should help the others too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import choice, hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.ascent import gradient
from dgbench.methods.batch import Batch


class MLDG(Algorithm):
    r"""Take steps on some training domains that also lower the loss of the other training domains.

    $$
    \min_\theta \; F(\theta) + \beta\, G(\theta'), \qquad \theta' = \theta \text{ after an optimizer step on } F
    $$

    In each step the domains are split at random: $G$ is the mean loss of `n_meta_test` of them, $F$ that of the others,
    and $\beta$ is `mldg_beta`. Only first derivatives are taken: the update gradient is
    $\nabla F(\theta) + \beta\, \nabla G(\theta')$. If `n_meta_test` would leave no domain to train on, one is left.

    Reference:
        Li, Yang, Song and Hospedales, "Learning to Generalize: Meta-Learning for Domain Generalization", AAAI 2018,
        Algorithm 1.

    Departures from the paper: there is no derivative through the inner step, and a fresh optimizer of the run's kind
    takes that step instead of gradient descent with a rate of its own; both as in DomainBed.

    Departures from DomainBed's code:

    - DomainBed takes an inner step on each meta-train domain apart and pairs it with one meta-test domain, so that of
      three domains with two for meta-test, one is never looked at. This is the paper's single split.
    - Each of the two losses comes from one forward pass, in which live batch norm sees its domains mixed; DomainBed
      passes domain by domain.
    - The network is not copied: its parameters take the inner step and are copied back. Live batch norm remembers both
      passes; the statistics that DomainBed's clones have seen are lost with them.
    """

    card = AlgorithmCard(
        paper="Li et al., AAAI 2018",
        link="https://arxiv.org/abs/1710.03463",
        tags=("meta-learning",),
        min_domains=2,
        penalties=("mldg_beta",),
        base=None,
        unlike_domainbed="pairs each meta-train domain with one meta-test domain; with 2 training domains and "
        "n_meta_test 2 (its default) there is no pair, and nothing is learnt",
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of MLDG; defaults and draws are DomainBed's."""

        mldg_beta: float = hparam(1.0, power(10, -1, 1), help="weight of the loss on the meta-test domains")
        n_meta_test: int = hparam(
            2, choice(1, 2), help="meta-test domains; at least one domain is left to train on", within="[1, inf)"
        )

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Take one step, in which every domain passes through the network once."""
        order = torch.randperm(len(batches)).tolist()
        held_out = min(self.hparams.n_meta_test, len(batches) - 1)
        train = self.domain_losses([batches[i] for i in order[held_out:]]).mean()
        parameters, total = gradient(train, self.parameters())
        start = [parameter.detach().clone() for parameter in parameters]
        try:
            for parameter, g in zip(parameters, total, strict=True):
                parameter.grad = g.clone()  # clipping, where the setting has it, works in place
            # The inner step of Algorithm 1, by a fresh optimizer, which remembers nothing of earlier steps.
            self.new_optimizer(self.parameters()).step()
            test = self.domain_losses([batches[i] for i in order[:held_out]]).mean()
            _, ahead = gradient(test, self.parameters())
        finally:
            with torch.no_grad():
                torch._foreach_copy_(parameters, start)
        torch._foreach_add_(total, ahead, alpha=self.hparams.mldg_beta)
        for parameter, g in zip(parameters, total, strict=True):
            parameter.grad = g
        self.optimizer.step()
        loss = train + self.hparams.mldg_beta * test
        return {"loss": loss.detach(), "meta_train": train.detach(), "meta_test": test.detach()}
