"""TENT: test-time entropy minimization by the scales and shifts of batch norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from dgbench.adaptation._batches import Batches, entropies, scales_and_shifts
from dgbench.core.cards import AdapterCard
from dgbench.core.errors import UserError
from dgbench.core.needs import Need
from dgbench.core.space import Checked, choice, hparam
from dgbench.methods.adapter import Adapter
from dgbench.networks.network import Network
from dgbench.networks.norms import use_batch_statistics

OPTIMIZERS = ("adam", "sgd")
"""The optimizers of the authors' code."""
ADAPTS = ("batch_norm", "head", "head_norm")
"""The parts of the network that may learn: TENT's own, and those of two forms by T3A's authors."""


class TENT(Adapter):
    r"""Minimize the entropy of each test batch's predictions by batch norm's scales and shifts.

    $$
    \min_a \; \frac1B \sum_{n=1}^{B} H\big(\mathrm{softmax}\, f(x_n; a)\big)
    $$

    $a$ are the scales and shifts of batch norm, $H$ is the entropy, and the $B$ inputs are a test batch. Batch norm
    always normalizes by the test batch, also where it was frozen in training: with `lr` 0 this is `BNAdapt`. For each
    batch `steps` optimizer steps are taken. The batch is predicted by the last forward pass, before the step that
    follows it. Learned parameters stay for the next batch, unless `episodic` is on.

    `adapts` chooses other parameters to learn, in two forms that T3A's authors made for DomainBed: `head`, the
    classifier (their TentClf, Tent-C in their paper), and `head_norm`, the scale and shift of a fresh batch norm before
    the classifier (TentPreBN, Tent-BN). In both, the network's own batch norm keeps its training statistics.

    Reference:
        Wang, Shelhamer, Liu, Olshausen and Darrell, "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR
        2021.

    Departures from the authors' code: dropout is off (theirs is on, that of the ports off). Batch norm of any dimension
    learns; theirs of two. A batch has 32 inputs, as in the ports; theirs 200. A last batch of a single input is
    normalized together with the batch before it, and only its own entropy is learned from.

    Departures from the ports to DomainBed: the learning rate is not a multiple of the training's, and there is no
    weight decay.
    """

    card = AdapterCard(
        paper="Wang et al., ICLR 2021",
        link="https://arxiv.org/abs/2006.10726",
        tags=("test-time",),
        forwards=1.0,
        backwards=1.0,
        needs=(Need("batch_norm", when={"adapts": "batch_norm"}),),
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of TENT: defaults are those of the authors' code on CIFAR.

        Draws are the factors and numbers of steps of the ports to DomainBed.
        """

        lr: float = hparam(1e-3, choice(1e-4, 1e-3, 1e-2), help="learning rate at test time", within="[0, inf)")
        steps: int = hparam(1, choice(1, 3), help="optimizer steps on each batch", within="[1, inf)")
        episodic: bool = hparam(False, help="reset the weights before each batch")
        optimizer: str = hparam("adam", help="optimizer at test time; sgd has momentum 0.9", options=OPTIMIZERS)
        adapts: str = hparam("batch_norm", help="parameters that learn", options=ADAPTS)

    hparams: Hparams

    def __init__(self, network: Network, hparams: Any) -> None:
        super().__init__(network.eval().requires_grad_(False), hparams)
        self._parameters = self._select_parameters()
        if not self._parameters:
            raise UserError(
                "TENT learns the scales and shifts of batch norm, and this network has none: train another backbone, "
                "such as resnet18, or let TENT's adapts be 'head' or 'head_norm'"
                if self.hparams.adapts == "batch_norm"
                else "TENT's adapts is 'head', and this network's classifier has nothing that learns"
            )
        self._initial = [parameter.detach().clone() for parameter in self._parameters]
        self._optimizer = self._new_optimizer()
        self._batches = Batches()

    def predict(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) from before the last step that the batch teaches."""
        inputs = self._batches.join_single(x)
        if self.hparams.episodic:
            self._begin_anew()
        for _ in range(self.hparams.steps):
            # The batch that a lone input was joined to has been learned from already: only the last rows count.
            logits = self.network(inputs)[-len(x) :]
            self._optimizer.zero_grad()
            entropies(logits).mean().backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return logits.detach()  # type: ignore[no-any-return]

    def _select_parameters(self) -> list[Tensor]:
        """Return the tensors that learn, after the changes to the network that `adapts` needs."""
        network = self.network
        if self.hparams.adapts == "head":
            return list(network.classifier.requires_grad_(True).parameters())
        if self.hparams.adapts == "head_norm":
            # Without running statistics, so that it normalizes by the batch also in evaluation mode.
            norm = nn.BatchNorm1d(network.num_features, track_running_stats=False, device=network.mean.device)
            network.classifier = nn.Sequential(norm, network.classifier)
            return scales_and_shifts([norm])
        return scales_and_shifts(use_batch_statistics(network))

    @torch.no_grad()
    def _begin_anew(self) -> None:
        torch._foreach_copy_(self._parameters, self._initial)
        self._optimizer = self._new_optimizer()

    def _new_optimizer(self) -> Optimizer:
        if self.hparams.optimizer == "sgd":
            return SGD(self._parameters, lr=self.hparams.lr, momentum=0.9)
        return Adam(self._parameters, lr=self.hparams.lr)
