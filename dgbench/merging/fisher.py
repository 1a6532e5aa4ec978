"""Means of weights in which each parameter of a model counts by how sure the model is of it: its Fisher information."""

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


class FisherMerging(Merger):
    """theta = sum_m F_m theta_m / sum_m F_m in each parameter, F_m the diagonal of run m's Fisher information.

    Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022. F_m is the mean over training
    examples of the square of the gradient of log p(y | x); `normalise`: scaled to length 1, over all parameters
    together, as in the authors' code and not in the paper's formula. No F_m counts less than `floor` times its length
    (the authors scale it first); which share of the parameters that concerns is logged for each member.

    Departures from the authors' code: y is drawn once for each example from the model's predictions (theirs is the
    expectation over y); members weigh alike (theirs are weighed by a search on the test task); the floor holds for all
    members, not for the target task's alone. What is no parameter is averaged plainly.
    """

    card = MergerCard(paper="Matena and Raffel, NeurIPS 2022", needs=("classes",))

    @dataclass(frozen=True)
    class Hparams(Checked):
        """The authors' defaults."""

        examples: int = hparam(
            4096, help="training examples that each Fisher information is estimated on", within="[1, inf)"
        )
        floor: float = hparam(
            1e-6, help="lowest Fisher information of a parameter, by the length of that of all", within="(0, inf)"
        )
        normalise: bool = hparam(True, help="scale each model's Fisher information to length 1")

    hparams: Hparams

    @torch.no_grad()
    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """Member after member, mean += (F / sum of F so far) (theta - mean), so that what is equal stays as it is."""
        plain, total, mean = RunningMean(), Weights(), Weights()
        for member in members:
            weights = member.load()
            plain.add(weights)
            fisher = self._counted(member.run, tools.fisher(weights, self.hparams.examples))
            for name, tensor in fisher.items():
                if name in total:
                    total[name] += tensor
                    mean[name].lerp_(weights[name], tensor / total[name])
                else:
                    total[name], mean[name] = tensor, weights[name].clone()
        return {**plain.mean, **mean}

    def _counted(self, run: str, fisher: Weights) -> Weights:
        """The Fisher information as it counts: at least the floor, and scaled."""
        # Of a model that knows nothing of any parameter the least number stands for 0, and all count alike.
        length = torch.stack([tensor.norm() for tensor in fisher.values()]).norm().clamp(min=_LEAST)
        floor = (self.hparams.floor * length).clamp(min=_LEAST)
        low = torch.stack([(tensor < floor).sum() for tensor in fisher.values()]).sum().item()
        share = 100 * low / sum(tensor.numel() for tensor in fisher.values())
        log.info("%s: %.1f %% of the parameters have the lowest Fisher information allowed", run, share)
        scale = length if self.hparams.normalise else 1.0
        return {name: tensor.clamp(min=floor) / scale for name, tensor in fisher.items()}


class UBGM(Merger):
    """theta = theta_0 + a sum_m (H_0 + d + H_m) / (H_0 + d + a sum_k H_k) (theta_m - theta_0), a = alpha / M.

    Daheim, Möllenhoff, Ponti, Gurevych and Khan, "Model Merging by Uncertainty-Based Gradient Matching", ICLR 2024.
    theta_0 are the weights that the members began with; H = (examples) x (diagonal of the Fisher information), for a
    member of the training examples. For quadratic losses, theta_m the minimum of L_0 + L_m, theta is that of
    L_0 + a sum_m L_m.

    Departures: the paper merges models of different tasks with a = 1. Members of a sweep have seen the same data, which
    must not count M times: a = alpha / M, and alpha = M is the paper's. H_0 is the information of theta_0 on the
    training domains' inputs (labels drawn from its own predictions), for want of the data that it was pretrained on,
    times `initial_examples`. Estimated on `examples` of the examples, as many of each domain, where the release takes
    all. What is no parameter is averaged plainly.
    """

    card = MergerCard(paper="Daheim et al., ICLR 2024", needs=("classes",))

    @dataclass(frozen=True)
    class Hparams(Checked):
        """`delta` and `initial_examples` are the release's."""

        alpha: float = hparam(1.0, help="M a: how often the data that all members have seen counts", within="(0, inf)")
        delta: float = hparam(1e-12, help="d, added to the Hessian of the initial weights' loss", within="(0, inf)")
        initial_examples: int = hparam(
            25000, help="examples that the initial weights stand for; 0: H_0 = 0", within="[0, inf)"
        )
        examples: int = hparam(
            4096, help="training examples that each Fisher information is estimated on", within="[1, inf)"
        )

    hparams: Hparams

    @torch.no_grad()
    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """Six copies of the model in memory, and the gradients of a few examples."""
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
