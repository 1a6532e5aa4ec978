"""Domain-adversarial training: features from which a discriminator can't tell the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms._adversary import discriminator, domain_labels, is_discriminators_turn
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import choice, hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import FROM_SCRATCH, Algorithm, Batch


class DANN(Algorithm):
    """min over f, c and max over d of CE(c(f(x)), y) - lambda * CE(d(f(x)), domain).

    Ganin, Ustinova, Ajakan, Germain, Larochelle, Laviolette, Marchand and Lempitsky, "Domain-Adversarial Training of
    Neural Networks", JMLR 2016. In turns: `d_steps_per_g_step` steps of the discriminator d, one of featurizer f and
    classifier c. d also pays `grad_penalty` times the mean squared norm of the gradient of its loss by its input, an
    example at a time; f is paid for it.

    Departures from the paper: turns instead of gradient reversal, no schedule of lambda, as many domains as there are.
    From DomainBed's code: in the discriminator's turn nothing is sent back through the featurizer (its gradient was
    thrown away), and the penalty's graph is built only where its weight is not 0. The discriminator sees features
    after dropout in both. As there, `lr` and `weight_decay` are not used; those that end in _g and _d are.
    """

    card = AlgorithmCard(
        paper="Ganin et al., JMLR 2016",
        backwards=0.5,
        min_domains=2,
        penalties=("dann_lambda", "grad_penalty"),
        base=None,
        rehearsal={"lr_g": 3e-3, "lr_d": 1e-3, "dann_lambda": 0.1},
        needs=("feature_vectors",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Defaults and draws are DomainBed's; `dann_lambda` is its `lambda`, which is a word of Python."""

        dann_lambda: float = hparam(1.0, power(10, -2, 2), help="weight of the discriminator's loss", stream="lambda")
        lr_g: float = hparam(
            5e-5,
            power(10, -5, -3.5),
            help="learning rate of featurizer and classifier",
            variants=FROM_SCRATCH,
            within="[0, inf)",
        )
        lr_d: float = hparam(
            5e-5,
            power(10, -5, -3.5),
            help="learning rate of the discriminator",
            variants=FROM_SCRATCH,
            within="[0, inf)",
        )
        weight_decay_g: float = hparam(
            0.0,
            power(10, -6, -2),
            help="weight decay of featurizer and classifier",
            variants={"small_images": (0.0, None)},
            within="[0, inf)",
        )
        weight_decay_d: float = hparam(
            0.0, power(10, -6, -2), help="weight decay of the discriminator", within="[0, inf)"
        )
        d_steps_per_g_step: int = hparam(
            1,
            power(2, 0, 3, integer=True),
            help="the discriminator's steps for each of the network's",
            within="[1, inf)",
        )
        grad_penalty: float = hparam(0.0, power(10, -2, 1), help="weight of the discriminator's gradient penalty")
        beta1: float = hparam(0.5, choice(0.0, 0.5), help="first beta of Adam; the second is 0.9", within="[0, 1)")
        mlp_width: int = hparam(
            256, power(2, 6, 10, integer=True), help="width of the discriminator", within="[1, inf)"
        )
        mlp_depth: int = hparam(3, choice(3, 4, 5), help="linear layers of the discriminator", within="[2, inf)")
        mlp_dropout: float = hparam(0.0, choice(0.0, 0.1, 0.5), help="dropout in the discriminator", within="[0, 1)")

    hparams: Hparams

    def build(self) -> None:
        """Make the discriminator."""
        self.discriminator = discriminator(self.network.num_features, self.task.num_domains, self.hparams)

    def build_optimizers(self) -> None:
        """One for the network, one for all that belongs to the discriminator."""
        h, betas = self.hparams, (self.hparams.beta1, 0.9)
        network, adversary = (
            self.network.parameters(),
            [p for name, p in self.named_parameters() if not name.startswith("network.")],
        )
        self.optimizer = self.new_optimizer(network, lr=h.lr_g, weight_decay=h.weight_decay_g, betas=betas)
        self.disc_optimizer = self.new_optimizer(adversary, lr=h.lr_d, weight_decay=h.weight_decay_d, betas=betas)

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """A step of the discriminator or of the network, as the turn is."""
        y = torch.cat([b.y for b in batches])
        adversarys = is_discriminators_turn(self.step, self.hparams.d_steps_per_g_step)
        with torch.set_grad_enabled(not adversarys):
            features = self.network.dropout(self.network.features(torch.cat([b.x for b in batches])))
            nll = self.criterion(self.network.classifier(features), y)
        disc_loss = self._adversarys_loss(self.judged(features, y), y, domain_labels(batches))
        if adversarys:
            self.disc_optimizer.zero_grad(set_to_none=True)
            disc_loss.backward()  # type: ignore[no-untyped-call]
            self.disc_optimizer.step()
        else:
            self.descend(nll - self.hparams.dann_lambda * disc_loss)
        return {"loss": nll.detach(), "disc_loss": disc_loss.detach()}

    def judged(self, features: Tensor, y: Tensor) -> Tensor:
        """What the discriminator is shown of the examples."""
        return features

    def weighed(self, losses: Tensor, y: Tensor) -> Tensor:
        """One loss of the discriminator's losses on the examples."""
        return losses.mean()

    def _adversarys_loss(self, shown: Tensor, y: Tensor, domains: Tensor) -> Tensor:
        penalized = self.hparams.grad_penalty != 0
        if penalized and not shown.requires_grad:
            shown.requires_grad_()
        losses = F.cross_entropy(self.discriminator(shown), domains, reduction="none")
        loss = self.weighed(losses, y)
        if penalized:
            (gradients,) = torch.autograd.grad(losses.sum(), shown, create_graph=True)
            loss = loss + self.hparams.grad_penalty * gradients.square().sum(dim=1).mean()
        return loss


class CDANN(DANN):
    """min over f, c and max over d, e of CE(c(f(x)), y) - lambda * mean over classes y of CE(d(f(x) + e_y), domain).

    Li, Tian, Gong, Liu, Liu, Zhang and Tao, "Deep Domain Generalization via Conditional Invariant Adversarial
    Networks", ECCV 2018.

    Departures from the paper, all as in DomainBed: one discriminator that is told the class by an embedding e_y added
    to the features, which learns with it, instead of one a class; its loss weighs classes alike instead of a further
    discriminator with class priors divided out; those of `DANN`. From DomainBed's code: those of `DANN`, and the mean
    divides by the number of classes (theirs by the greatest label of the minibatch plus 1).
    """

    card = AlgorithmCard(
        paper="Li et al., ECCV 2018",
        backwards=0.5,
        min_domains=2,
        penalties=("dann_lambda", "grad_penalty"),
        base=None,
        rehearsal={"lr_g": 3e-3, "lr_d": 1e-3, "dann_lambda": 0.1},
        needs=("classes",),
    )

    def build(self) -> None:
        """Make the discriminator and what tells it the class."""
        super().build()
        self.class_embeddings = nn.Embedding(self.task.num_classes, self.network.num_features)

    def judged(self, features: Tensor, y: Tensor) -> Tensor:
        """Features plus the embedding of the class."""
        embedded: Tensor = self.class_embeddings(y)
        return features + embedded

    def weighed(self, losses: Tensor, y: Tensor) -> Tensor:
        """The mean over classes of each one's mean; a class that is not there counts 0."""
        of_class = (y[:, None] == torch.arange(self.task.num_classes, device=y.device)).to(losses.dtype)
        per_class: Tensor = of_class / of_class.sum(dim=0).clamp(min=1)
        return (losses @ per_class).mean()
