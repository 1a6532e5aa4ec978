"""Means of weights in which each parameter counts by its Fisher information: how much predictions hang on it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dgbench.core.cards import MergerCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.average import RunningMean, Weights
from dgbench.methods.merger import Member, Merger, Tools

log = logging.getLogger(__name__)

_LEAST = torch.finfo(torch.float32).tiny
"""The least normal float32, in place of a Fisher information of 0."""


class FisherMerging(Merger):
    r"""Average the weights of all runs of a trial, each parameter weighted by its Fisher information.

    $$
    \bar\theta = \frac{\sum_m F_m \odot \theta_m}{\sum_m F_m}, \qquad
    F_m = \mathrm{mean}_x \big( \nabla_\theta \log p_m(y \mid x) \big)^2
    $$

    All operations are elementwise. $F_m$ is the diagonal of the Fisher information of run $m$, the mean over training
    examples, with $y$ drawn from the predictions. With `normalise` it is scaled to length 1, over all parameters
    together, as in the authors' code and unlike the paper's formula. No entry of $F_m$ counts less than `floor` times
    its length (the authors scale it first); the log names the share of the parameters that this concerns, for each
    member.

    Reference:
        Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022.

    Departures from the authors' code:

    - $y$ is drawn once for each example; theirs takes the expectation over $y$.
    - Members weigh alike; theirs are weighed by a search on the test task.
    - The floor holds for all members, not for that of the target task alone.
    - Tensors that are not parameters are averaged uniformly.
    """

    card = MergerCard(
        paper="Matena and Raffel, NeurIPS 2022",
        link="https://arxiv.org/abs/2111.09832",
        tags=("averaging",),
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of FisherMerging; the defaults are the authors'."""

        examples: int = hparam(
            4096, help="training examples that each Fisher information is estimated on", within="[1, inf)"
        )
        floor: float = hparam(
            1e-6,
            help="lowest Fisher information of a parameter, relative to the length of the whole",
            within="(0, inf)",
        )
        normalise: bool = hparam(True, help="scale each model's Fisher information to length 1")

    hparams: Hparams

    @torch.no_grad()
    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """Return the weighted mean of the members' weights, which are read one by one."""
        plain, total, mean = RunningMean(), Weights(), Weights()
        for member in members:
            weights = member.load()
            plain.add(weights)
            fisher = self._floored(member.run, tools.fisher(weights, self.hparams.examples))
            for name, tensor in fisher.items():
                if name in total:
                    # mean += (F / sum of F so far) (theta - mean): this leaves a tensor that is equal in all members
                    # exactly as it is.
                    total[name] += tensor
                    mean[name].lerp_(weights[name], tensor / total[name])
                else:
                    total[name], mean[name] = tensor, weights[name].clone()
        return {**plain.mean, **mean}

    def _floored(self, run: str, fisher: Weights) -> Weights:
        """Return the Fisher information as it counts: at least the floor, and scaled."""
        # If all Fisher information is 0, the least number stands for it, and all parameters count alike.
        length = torch.stack([tensor.norm() for tensor in fisher.values()]).norm().clamp(min=_LEAST)
        floor = (self.hparams.floor * length).clamp(min=_LEAST)
        low = torch.stack([(tensor < floor).sum() for tensor in fisher.values()]).sum().item()
        share = 100 * low / sum(tensor.numel() for tensor in fisher.values())
        log.info("%s: %.1f %% of the parameters have the lowest Fisher information allowed", run, share)
        scale = length if self.hparams.normalise else 1.0
        return {name: tensor.clamp(min=floor) / scale for name, tensor in fisher.items()}


class UBGM(Merger):
    r"""Combine the runs' displacements from their start, each weighted by the curvature at its end.

    $$
    \bar\theta = \theta_0 + a \sum_m \frac{H_0 + \delta + H_m}{H_0 + \delta + a \sum_k H_k} \odot (\theta_m - \theta_0),
    \qquad a = \frac{\alpha}{M}
    $$

    All operations are elementwise. $\theta_0$ are the weights that the $M$ members started from, $\theta_m$ those of
    member $m$. $H_m$ is the number of training examples times the diagonal of the Fisher information, an estimate of
    the Hessian of the member's loss $L_m$. $H_0$ is `initial_examples` times that of $\theta_0$; $\alpha$ is `alpha`
    and $\delta$ is `delta`. If the losses are quadratic and $\theta_m$ is the minimum of $L_0 + L_m$, then $\bar\theta$
    is that of $L_0 + a \sum_m L_m$.

    Reference:
        Daheim, Möllenhoff, Ponti, Gurevych and Khan, "Model Merging by Uncertainty-Based Gradient Matching", ICLR 2024.

    Departures from the paper and its release:

    - The paper merges models of different tasks with $a = 1$. Members of a sweep have seen the same data, which must
      not count $M$ times; `alpha` = $M$ is the paper's.
    - $H_0$ is the information of $\theta_0$ on the inputs of the training domains, with labels drawn from its own
      predictions, for want of the data that it was pretrained on.
    - Fisher information is estimated on `examples` examples, equally many of each domain; the release takes all.
    - Tensors that are not parameters are averaged uniformly.
    """

    card = MergerCard(
        paper="Daheim et al., ICLR 2024",
        link="https://arxiv.org/abs/2310.12808",
        tags=("averaging",),
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of UBGM; `delta` and `initial_examples` are the release's."""

        alpha: float = hparam(1.0, help="how often the data that all members have seen counts", within="(0, inf)")
        delta: float = hparam(1e-12, help="added to the Hessian of the initial weights' loss", within="(0, inf)")
        initial_examples: int = hparam(
            25000, help="examples that the initial weights stand for; 0: H_0 = 0", within="[0, inf)"
        )
        examples: int = hparam(
            4096, help="training examples that each Fisher information is estimated on", within="[1, inf)"
        )

    hparams: Hparams

    @torch.no_grad()
    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """Return the merged weights; six copies of the model are in memory, and the gradients of a few examples."""
        h = self.hparams
        share = h.alpha / len(members)
        initial, plain = tools.initial(), RunningMean()
        anchor, summed, pulls = Weights(), Weights(), Weights()
        if h.initial_examples:
            anchor = {n: h.initial_examples * f + h.delta for n, f in tools.fisher(initial, h.examples).items()}
        for member in members:
            weights = member.load()
            plain.add(weights)
            for name, fisher in tools.fisher(weights, h.examples).items():
                hessian = tools.examples * fisher
                if name not in summed:
                    anchor.setdefault(name, torch.full_like(hessian, h.delta))
                    summed[name], pulls[name] = torch.zeros_like(hessian), torch.zeros_like(hessian)
                summed[name] += hessian
                pulls[name] += (anchor[name] + hessian) * (weights[name] - initial[name])
        moved = {name: share * pull / (anchor[name] + share * summed[name]) for name, pull in pulls.items()}
        return {**plain.mean, **{name: initial[name] + by for name, by in moved.items()}}
