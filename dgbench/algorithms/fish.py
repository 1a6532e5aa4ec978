"""Fish: align the gradients of the domains by meta-steps that pass through the domains one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.core.cards import AlgorithmCard
from dgbench.core.errors import UserError
from dgbench.core.needs import Need
from dgbench.core.space import choice, hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

FORMS = ("domainbed", "wilds")
"""The choices of `form`."""


class Fish(Algorithm):
    r"""Step on each domain's loss in turn, then go part of the way: this aligns the domains' gradients.

    $$
    \theta \leftarrow \theta + \epsilon\, (\tilde\theta - \theta)
    $$

    $\tilde\theta$ comes from $\theta$ by one optimizer step on each domain's loss in turn. To first order this raises
    the inner products of the domains' gradients.

    `form` chooses between the two published forms. `domainbed`: every domain in its fixed order (the paper permutes
    them), $\epsilon$ = `meta_lr`. `wilds`, as in the authors' code: `meta_steps` domains drawn without replacement,
    $\epsilon$ = `meta_lr` / `meta_steps`. The optimizer's state goes on from one meta-step to the next. Everything is
    interpolated, batch norm's statistics too; integers are cut off towards 0 after that, as loading a state dict does.

    The first `pretrain_steps` steps are ERM's, over the same minibatches; meta-steps then begin with a new optimizer.

    Reference:
        Shi, Seely, Torr, Siddharth, Hannun, Usunier and Synnaeve, "Gradient Matching for Domain Generalization", ICLR
        2022.

    Departures from the authors' code:

    - Pre-training is off unless `pretrain_steps` asks for it. Its minibatches are those of the step's domains; theirs
      are drawn from all domains at once. Its last weights go on; theirs are those of the best validation (on FMoW the
      last ones too).
    - The inner optimizer is the run's and remembers throughout (theirs is Adam with amsgrad, and forgets its state at
      each epoch).
    - Minibatches don't run out, so a domain is always there to be drawn, and the draw is uniform (their default; they
      offer one by the batches that are left).

    Departures from DomainBed's code: the logged loss is the mean over domains (theirs is the last domain's), and the
    network itself takes the inner steps, so that no step makes a network and an optimizer.
    """

    card = AlgorithmCard(
        paper="Shi et al., ICLR 2022",
        link="https://arxiv.org/abs/2104.09937",
        tags=("gradient-matching",),
        min_domains=2,
        needs=(Need("domains", when={"form": "wilds"}, least="meta_steps"),),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of Fish; default and draw of `meta_lr` are DomainBed's.

        The paper's values on WILDS are 0.01 to 0.15.
        """

        meta_lr: float = hparam(0.5, choice(0.05, 0.1, 0.5), help="how far to go towards the end of the inner steps")
        form: str = hparam("domainbed", help="which of the two published forms", options=FORMS)
        meta_steps: int = hparam(3, help="domains drawn a step, in the form wilds alone", within="[1, inf)")
        pretrain_steps: int = hparam(
            0, help="steps of ERM before the first meta-step", within="[0, inf)", begins="step"
        )

    hparams: Hparams

    def build(self) -> None:
        """Raise `UserError` if more domains are to be drawn than a step shows.

        The authors' loop would then not take one step.
        """
        steps, domains = self.hparams.meta_steps, self.task.num_domains
        domains = min(domains, self.setting.domains_per_step or domains)
        if self.hparams.form == "wilds" and not 1 <= steps <= domains:
            raise UserError(f"Fish's meta_steps is {steps}; it must lie between 1 and the {domains} training domains")

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Take a step of ERM while pre-training, or one meta-step: a step a domain, then part of the way to its end."""
        if self.step < self.hparams.pretrain_steps:
            loss = self.joint_loss(batches)
            self.descend(loss)
            return {"loss": loss.detach()}
        if 0 < self.step == self.hparams.pretrain_steps:
            self.build_optimizers()
        live = [*self.network.parameters(), *self.network.buffers()]
        start = [tensor.detach().clone() for tensor in live]
        eps, losses = self.hparams.meta_lr, []
        if self.hparams.form == "wilds":
            eps /= self.hparams.meta_steps
            # Drawn by the CPU's generator, so that the step doesn't wait for the device.
            batches = [batches[i] for i in torch.randperm(len(batches))[: self.hparams.meta_steps].tolist()]
        for batch in batches:
            loss = self.joint_loss([batch])
            self.descend(loss)
            losses.append(loss.detach())
        _interpolate(start, live, eps)
        return {"loss": torch.stack(losses).mean()}


@torch.no_grad()
def _interpolate(start: Sequence[Tensor], live: Sequence[Tensor], eps: float) -> None:
    """Set `live` to start + eps * (live - start), in place."""
    floats = [i for i, tensor in enumerate(live) if tensor.is_floating_point()]
    torch._foreach_lerp_([live[i] for i in floats], [start[i] for i in floats], 1 - eps)
    for begin, end in zip(start, live, strict=True):
        if not end.is_floating_point():
            # Copying a float into an integer tensor cuts it off towards 0.
            end.copy_(begin + eps * (end - begin))
