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
from dgbench.algorithms.sam import SAM
from dgbench.core.cards import AlgorithmCard, Need
from dgbench.core.errors import UserError
from dgbench.core.space import hparam
from dgbench.methods.algorithm import Batch
from dgbench.methods.ascent import backward_at, global_norm, gradient, of_length, remembering_nothing
from dgbench.networks.norms import use_batch_statistics

PERTURBATIONS = ("raw", "style")
LENGTHS = ("example", "pixel")


class UDIM(SAM):
    """min of L(theta + eps) + lambda * sum_e [||v_e - v~_e||^2 / 4P + E~_e[q^2]], eps SAM's, q the head's gradients.

    Shin, Bae, Na, Kim and Moon, "Unknown Domain Inconsistency Minimization for Domain Generalization", ICLR 2024. First
    `steps // warm_up_ratio` steps of SAM; from those of them that are evaluated, and the last, the weights and the
    optimizer's state with the best accuracy on the training domains' validation parts are taken; then this. Inputs x~
    of unknown domains are x, moved along the gradient of L(x) + rho * ||grad_theta L(x)|| by x: `raw` pixels by a step
    of length syn_lr, or the `style`, mean and standard deviation of each channel, by syn_lr times the gradient. v_e is
    the variance over domain e's examples of each one's gradient q by the P parameters of the classifier, v~_e that over
    their x~ around the mean of the unperturbed; the last term is the mean square of q on x~, parameter by parameter.

    Departures from the authors' code. It gives a step a length pixel by pixel, across the examples of a minibatch, so
    that an example's x~ depends on the others: that is `step_length` `pixel`; ours is by default each example's own, as
    the paper's bound on x~ - x is. syn_lr is their value for theirs, a far longer step over 224 x 224 images. Its style
    mode never applies the new style, so nothing is perturbed; ours does. It goes over to batch norm that uses the
    statistics of whatever is in the batch, in evaluation too; ours stays as the setting has it. Unperturbed gradients
    are those of the pass that L takes, without another dropout mask, and x~ pass apart from x where batch norm is
    live. 1e-12 is added to SAM's norm.
    """

    card = AlgorithmCard(
        paper="Shin et al., ICLR 2024",
        forwards=3.0,
        backwards=6.0,
        penalties=("udim_lambda",),
        base="SAM",
        rehearsal={"warm_up_ratio": 60},
        needs=(
            "classes",
            "real_inputs",
            Need("images", when={"perturbation": "style"}),
            Need("eager", why="takes gradients of gradients, which PyTorch has no compiled form of"),
        ),
    )

    @dataclass(frozen=True)
    class Hparams(SAM.Hparams):
        """Defaults are those of the authors' scripts for PACS; the draw of `rho` is SAM's."""

        udim_lambda: float = hparam(1.0, help="weight of the inconsistency")
        perturbation: str = hparam("raw", help="what of the inputs is moved", options=PERTURBATIONS)
        syn_lr: float = hparam(10.0, help="length of that move")
        step_length: str = hparam("example", help="of what that is the length, in raw", options=LENGTHS)
        warm_up_ratio: int = hparam(5, help="the run's steps, by those of SAM that come first", within="[1, inf)")

    hparams: Hparams

    def build(self) -> None:
        """Note where the second stage begins; refuse to change the style of what is no image."""
        self.warm_up = self.setting.steps // self.hparams.warm_up_ratio
        self.validate_at = self.warm_up
        self.best: dict[str, Any] = {}
        if self.hparams.perturbation == "style" and len(self.task.input_shape) != 3:
            raise UserError("UDIM with perturbation 'style' needs images; for other inputs there is 'raw'")

    def validated(self, accuracy: float) -> None:
        """Keep the best state of the first stage."""
        if self.step < self.warm_up and accuracy > self.best.get("accuracy", -1.0):
            network, optimizer = dict(self.network.state_dict()), self.optimizer.state_dict()
            self.best = copy.deepcopy({"accuracy": accuracy, "network": network, "optimizer": optimizer})

    def get_extra_state(self) -> dict[str, Any]:
        """The best state so far."""
        return self.best

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_extra_state` gave."""
        self.best = state

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """A step of SAM, or of the second stage."""
        if self.step < self.warm_up:
            logged = super().update(batches)
            return {**logged, "inconsistency": torch.zeros_like(logged["loss"])}
        if self.best:
            self.network.load_state_dict(self.best["network"])
            self.optimizer.load_state_dict(self.best["optimizer"])
            self.best = {}
        x, y = torch.cat([b.x for b in batches]).requires_grad_(), torch.cat([b.y for b in batches])
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            features = self.network.dropout(self.network.features(x))
        logits, layers = per_example(self.network.classifier, features, y)
        loss = F.cross_entropy(logits, y)
        parameters, g = gradient(loss, self.network.parameters(), create_graph=True)
        moved = self.perturbed(x, loss + self.hparams.rho * global_norm(g))
        inconsistency = _inconsistency([len(b.y) for b in batches], *self.compared(batches, layers, moved))
        _, alike = gradient(inconsistency, parameters)
        ascent = of_length([part.detach() for part in g], self.hparams.rho)
        uphill, descent = backward_at(self, batches, parameters, ascent)
        torch._foreach_add_(descent, alike, alpha=self.hparams.udim_lambda)
        self.optimizer.step()
        loss = loss.detach()
        return {"loss": loss, "sharpness": uphill - loss, "inconsistency": inconsistency.detach()}

    def compared(self, batches: Sequence[Batch], layers: list[Layer], moved: Tensor) -> tuple[list[Layer], list[Layer]]:
        """Find each example's gradient by the classifier on x and on x~.

        Args:
            batches: Those of the step.
            layers: Of x, as found in the pass that L takes.
            moved: x~ of all domains.

        Returns:
            Those of x and those of x~, all domains' examples one after another.
        """
        with remembering_nothing(self.network):
            features = self.network.dropout(self.network.features(moved))
        return layers, per_example(self.network.classifier, features, torch.cat([b.y for b in batches]))[1]

    def perturbed(self, x: Tensor, objective: Tensor) -> Tensor:
        """x~, constant."""
        (slope,) = torch.autograd.grad(objective, x, retain_graph=True)
        x = x.detach()
        if self.hparams.perturbation == "style":
            variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True)
            content = (x - mean) / (variance + 1e-5).sqrt()
            by_mean, by_deviation = (s.sum(dim=(2, 3), keepdim=True) for s in (slope, slope * content))
            return x + self.hparams.syn_lr * (by_mean + by_deviation * content)
        if self.hparams.step_length == "pixel":
            return x + self.hparams.syn_lr * F.normalize(slope, dim=0)
        return x + self.hparams.syn_lr * F.normalize(slope.flatten(1), dim=1).view_as(x)


class UDIMTransductive(UDIM):
    """UDIM whose batch norm uses the statistics of whatever is in the batch, in training and at prediction.

    What the authors' release does, and so what their published numbers stand on: a prediction depends on the other
    inputs of its batch, which no method that is compared with it is shown. The gradients that are compared come from
    one pass a domain, over its x and its x~ together, which share their statistics. Without batch norm it is UDIM.

    Departure from the release: there batch norm is ordinary in the first stage and loses its running statistics at the
    second; here it never has any, so that weights say by themselves how they predict. With batch norm a step costs a
    fourth forward pass, which the card, of networks without, leaves out.
    """

    card = dataclasses.replace(UDIM.card, transductive=True)

    def build(self) -> None:
        """As UDIM; batch norm forgets its running statistics."""
        super().build()
        self.has_batch_norm = bool(use_batch_statistics(self.network))

    def train(self, mode: bool = True) -> UDIMTransductive:
        """As any module; batch norm goes on using the batch's statistics."""
        super().train(mode)
        use_batch_statistics(self.network)
        return self

    def compared(self, batches: Sequence[Batch], layers: list[Layer], moved: Tensor) -> tuple[list[Layer], list[Layer]]:
        """As UDIM's; where there is batch norm, of one pass a domain over x and x~ together."""
        if not self.has_batch_norm:
            return super().compared(batches, layers, moved)
        network, here, there = self.network, list[Tensor](), list[Tensor]()
        for batch, x in zip(batches, torch.split(moved, [len(b.y) for b in batches]), strict=True):
            features = network.dropout(network.features(torch.cat([batch.x, x])))
            here.append(features[: len(x)])
            there.append(features[len(x) :])
        y = torch.cat([b.y for b in batches])
        one, other = (per_example(network.classifier, torch.cat(parts), y)[1] for parts in (here, there))
        return one, other


def _inconsistency(sizes: Sequence[int], layers: Sequence[Layer], moved_layers: Sequence[Layer]) -> Tensor:
    """The sum over domains, whose examples follow one another."""
    total, start = [], 0
    for size in sizes:
        here = moments(layer.rows(start, start + size) for layer in layers)
        there = moments(layer.rows(start, start + size) for layer in moved_layers)
        mean, moved_mean = torch.cat(here.means), torch.cat(there.means)
        # E[(q~ - E q)^2] - E[(q - E q)^2]
        gap = torch.cat(there.squares) - torch.cat(here.squares) - 2 * mean * (moved_mean - mean)
        total += [gap.square().mean() / 4, *(square.mean() for square in there.squares)]
        start += size
    return torch.stack(total).sum()
