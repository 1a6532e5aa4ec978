"""UDIM: the loss should curve alike on the training domains and on unknown ones, made from them by perturbation."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dgbench.algorithms._head import Layer, moments, per_example
from dgbench.core.cards import AlgorithmCard
from dgbench.core.errors import UserError
from dgbench.core.needs import Need
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.ascent import gradient
from dgbench.methods.batch import Batch
from dgbench.methods.rule import First, Rule
from dgbench.networks.norms import frozen_batch_norm_statistics, use_batch_statistics

PERTURBATIONS = ("raw", "style")
"""The parts of the inputs that may be moved: pixels, or mean and deviation of each channel."""
LENGTHS = ("example", "pixel")
"""The vectors that get the length `syn_lr`: each example's move, or each pixel's over the examples of the minibatch."""


class UDIM(Algorithm):
    r"""Minimize SAM's loss plus the mismatch of curvature between inputs and perturbed inputs.

    $$
    \min_\theta \; L(\theta + \epsilon) + \lambda \sum_e \Big[ \frac{\|v_e - \tilde v_e\|^2}{4P} +
    \sum_j \mathrm{mean}\, \mathbb{E}_{\tilde e}\big[q_j^2\big] \Big]
    $$

    $L$ is ERM's loss, $\epsilon$ is SAM's and $\lambda$ is `udim_lambda`. $q$ is the gradient of one example's loss by
    the $P$ parameters of the classifier, $q_j$ its part for the parameter tensor $j$ (weight, bias). $v_e$ is the
    variance of $q$ over the examples of domain $e$; $\tilde v_e$ is the mean square of $q$ on their perturbed inputs
    $\tilde x$ around the mean of the unperturbed. The last term is the mean over a tensor's entries of the mean square
    of $q$ on $\tilde x$.

    The inputs $\tilde x$ of unknown domains are $x$, moved along the gradient of $L(x) + \rho\, \|\nabla_\theta L(x)\|$
    by $x$. With `perturbation="raw"` pixels move by a step of length `syn_lr`; with `style`, mean and standard
    deviation of each channel move by `syn_lr` times their gradient.

    The first `steps // warm_up_ratio` steps are SAM's. Among those of them that are evaluated, and the last, the
    weights and the optimizer's state with the best accuracy on the training domains' validation parts are restored;
    then UDIM's steps begin.

    Reference:
        Shin, Bae, Na, Kim and Moon, "Unknown Domain Inconsistency Minimization for Domain Generalization", ICLR 2024.

    Departures from the authors' code:

    - Theirs gives the step a length pixel by pixel, across the examples of a minibatch, so that the $\tilde x$ of an
      example depends on the others; `step_length="pixel"` does so. Our default, `example`, gives each example's move
      that length, as the paper bounds $\tilde x - x$. `syn_lr` is their value for their length, a far longer step over
      224 × 224 images.
    - Their style mode never applies the new style, so that nothing is perturbed; ours does.
    - Theirs goes over to batch norm that uses the statistics of the batch at hand, in evaluation too; ours stays as the
      setting has it. `UDIMTransductive` does as they do.
    - The gradients on unperturbed inputs come from the same pass as $L$, not from one with another dropout mask, and
      $\tilde x$ passes apart from $x$ where batch norm is live.
    - 1e-12 is added to SAM's norm.

    DomainBed: has no UDIM.
    """

    card = AlgorithmCard(
        paper="Shin et al., ICLR 2024",
        link="https://openreview.net/forum?id=eNoiRal5xi",
        tags=("flat-minima", "augmentation"),
        forwards=3.0,
        backwards=6.0,
        penalties=("udim_lambda",),
        base="SAM",
        rule="SAM",
        rehearsal={"warm_up_ratio": 60},
        needs=(
            "classes",
            "real_inputs",
            Need("images", when={"perturbation": "style"}),
            Need("eager", why="takes gradients of gradients, which PyTorch has no compiled form of"),
        ),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of UDIM; defaults are those of the authors' scripts for PACS, those of `rho` are SAM's."""

        udim_lambda: float = hparam(1.0, help="weight of the inconsistency")
        perturbation: str = hparam("raw", help="part of the inputs that is moved", options=PERTURBATIONS)
        syn_lr: float = hparam(10.0, help="length of the move")
        step_length: str = hparam(
            "example", help="vector that has the length syn_lr, with perturbation raw", options=LENGTHS
        )
        warm_up_ratio: int = hparam(5, help="the run's steps divided by those of SAM at its start", within="[1, inf)")

    hparams: Hparams

    def build(self) -> None:
        """Set the step at which the second stage begins; raise UserError for `style` without images."""
        self.warm_up = self.setting.steps // self.hparams.warm_up_ratio
        self.validate_at = self.warm_up
        self.best: dict[str, Any] = {}
        if self.hparams.perturbation == "style" and len(self.task.input_shape) != 3:
            raise UserError("UDIM with perturbation 'style' needs images; for other inputs there is 'raw'")

    def validated(self, accuracy: float) -> None:
        """Keep a copy of the network and the optimizer's state if this accuracy is the best of the first stage."""
        if self.step < self.warm_up and accuracy > self.best.get("accuracy", -1.0):
            network, optimizer = dict(self.network.state_dict()), self.optimizer.state_dict()
            self.best = copy.deepcopy({"accuracy": accuracy, "network": network, "optimizer": optimizer})

    def get_extra_state(self) -> dict[str, Any]:
        """Return the best state of the first stage so far; empty before the first and after its restoration."""
        return self.best

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `get_extra_state`."""
        self.best = state

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor | float]:
        """Take a step of the rule alone in the first stage, with the inconsistency in the second."""
        if self.step < self.warm_up:
            return {**super().update(batches), "inconsistency": batches[0].x.new_zeros(())}
        assert isinstance(self, Rule), "UDIM's steps are a rule's"
        self.begin_step()
        if self.best:
            self.network.load_state_dict(self.best["network"])
            self.optimizer.load_state_dict(self.best["optimizer"])
            self.best = {}
        x, y = torch.cat([b.x for b in batches]).requires_grad_(), torch.cat([b.y for b in batches])
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            features = self.network.dropout(self.network.features(x))
        logits, layers = per_example(self.network.classifier, features, y)
        loss = F.cross_entropy(logits, y)
        # With a graph: the inputs are moved along the gradient of the norm of g, a derivative of a derivative.
        parameters, g = gradient(loss, self.network.parameters(), create_graph=True)
        moved = self.perturbed(x, self.surrogate(loss, parameters, g))
        inconsistency = _inconsistency([len(b.y) for b in batches], *self.compared(batches, layers, moved))
        # Taken at the weights themselves; only the gradient of L is taken at theta + eps, below.
        _, penalty_gradients = gradient(inconsistency, parameters)
        first = First({"loss": loss}, parameters, [part.detach() for part in g])
        logged = self.backward(batches, first)
        for parameter, extra in zip(parameters, penalty_gradients, strict=True):
            assert parameter.grad is not None
            parameter.grad.add_(extra, alpha=self.hparams.udim_lambda)
        self.optimizer.step()
        self.passes.finish()
        return {**logged, "inconsistency": inconsistency.detach()}

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return ERM's loss, which the step rule descends."""
        return self.joint_loss(batches)

    def compared(self, batches: Sequence[Batch], layers: list[Layer], moved: Tensor) -> tuple[list[Layer], list[Layer]]:
        """Return each example's gradient by the classifier, on x and on x~.

        Args:
            batches: Minibatches of the step.
            layers: Gradients on x, from the pass that L takes.
            moved: x~ of all domains (B, ...).

        Returns:
            Gradients on x and gradients on x~, all domains' examples one after another.
        """
        with frozen_batch_norm_statistics(self.network):
            features = self.network.dropout(self.network.features(moved))
        return layers, per_example(self.network.classifier, features, torch.cat([b.y for b in batches]))[1]

    def perturbed(self, x: Tensor, objective: Tensor) -> Tensor:
        """Return x~, of the shape of `x` and without a gradient.

        Args:
            x: Inputs (B, ...) of all domains, which require a gradient.
            objective: The scalar along whose gradient by `x` they move uphill.
        """
        (slope,) = torch.autograd.grad(objective, x, retain_graph=True)
        x = x.detach()
        if self.hparams.perturbation == "style":
            variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True)
            content = (x - mean) / (variance + 1e-5).sqrt()
            # The chain rule by hand, x being mean + deviation * content: no second forward pass for the style's
            # gradient.
            by_mean, by_deviation = (s.sum(dim=(2, 3), keepdim=True) for s in (slope, slope * content))
            return x + self.hparams.syn_lr * (by_mean + by_deviation * content)
        # dim=0 runs over the examples: the authors' code, in which examples share their step.
        if self.hparams.step_length == "pixel":
            return x + self.hparams.syn_lr * F.normalize(slope, dim=0)
        return x + self.hparams.syn_lr * F.normalize(slope.flatten(1), dim=1).view_as(x)


class UDIMTransductive(UDIM):
    r"""Run UDIM with batch norm that uses the statistics of the batch at hand, at prediction too.

    This is what the authors' release does, and so their published numbers stand on it: a prediction depends on the
    other inputs of its batch, which no method that they compare with may see. The compared gradients come from one pass
    for each domain, over its $x$ and its $\tilde x$ together, which share their statistics. Without batch norm it is
    UDIM.

    Reference:
        Shin, Bae, Na, Kim and Moon, "Unknown Domain Inconsistency Minimization for Domain Generalization", ICLR 2024.

    Departures from the authors' code: there, batch norm is ordinary in the first stage and loses its running statistics
    at the second. In this form it never has any, so that the weights alone determine how they predict. With batch norm
    a step costs a fourth forward pass, which the card leaves out: it is that of networks without batch norm.
    """

    card = dataclasses.replace(
        UDIM.card,
        transductive=True,
        tags=("flat-minima", "augmentation", "test-time"),
        needs=(*UDIM.card.needs, Need("whole_batches", why="normalizes by the statistics of each minibatch")),
    )

    def build(self) -> None:
        """Prepare as UDIM does, then drop the running statistics of batch norm."""
        super().build()
        self.has_batch_norm = bool(use_batch_statistics(self.network))

    def train(self, mode: bool = True) -> UDIMTransductive:
        """Set the mode as any module does, then let batch norm use the batch's statistics again."""
        super().train(mode)
        use_batch_statistics(self.network)
        return self

    def compared(self, batches: Sequence[Batch], layers: list[Layer], moved: Tensor) -> tuple[list[Layer], list[Layer]]:
        """Return gradients as UDIM's; if there is batch norm, from one pass for each domain over x and x~ together."""
        if not self.has_batch_norm:
            return super().compared(batches, layers, moved)
        network, original, displaced = self.network, list[Tensor](), list[Tensor]()
        for batch, x in zip(batches, torch.split(moved, [len(b.y) for b in batches]), strict=True):
            features = network.dropout(network.features(torch.cat([batch.x, x])))
            original.append(features[: len(x)])
            displaced.append(features[len(x) :])
        y = torch.cat([b.y for b in batches])
        one, other = (per_example(network.classifier, torch.cat(found), y)[1] for found in (original, displaced))
        return one, other


def _inconsistency(sizes: Sequence[int], layers: Sequence[Layer], moved_layers: Sequence[Layer]) -> Tensor:
    """Return the sum over domains of UDIM's penalty, a scalar.

    Args:
        sizes: Number of examples of each domain, in the order of the rows.
        layers: Gradients on x, from which rows are taken.
        moved_layers: Gradients on x~, in the same order.
    """
    total, start = [], 0
    for size in sizes:
        original = moments(layer.rows(start, start + size) for layer in layers)
        displaced = moments(layer.rows(start, start + size) for layer in moved_layers)
        mean, moved_mean = torch.cat(original.means), torch.cat(displaced.means)
        # v~ - v, that is E[(q~ - E q)^2] - E[(q - E q)^2], from means and mean squares alone.
        gap = torch.cat(displaced.squares) - torch.cat(original.squares) - 2 * mean * (moved_mean - mean)
        total += [gap.square().mean() / 4, *(square.mean() for square in displaced.squares)]
        start += size
    return torch.stack(total).sum()
