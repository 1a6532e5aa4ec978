"""Domain-adversarial training (DANN, CDANN): learn features from which a discriminator can't find the domain."""

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
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from dgbench.methods.hparams import FROM_SCRATCH


class DANN(Algorithm):
    r"""Learn features from which a discriminator, trained against them, can't find the domain.

    $$
    \min_{f, c} \; \max_d \; \mathrm{CE}(c(f(x)), y)
    - \lambda \Big( \mathrm{CE}(d(f(x)), e) + \eta\, \big\| \nabla_{f(x)} \mathrm{CE}(d(f(x)), e) \big\|_2^2 \Big)
    $$

    $e$ is the domain, $\lambda$ is `dann_lambda` and $\eta$ is `grad_penalty`. In turns, the discriminator $d$ takes
    `d_steps_per_g_step` steps, featurizer $f$ and classifier $c$ one. The squared norm of the gradient is that of each
    example, averaged; it is part of the discriminator's loss in both turns.

    Reference:
        Ganin, Ustinova, Ajakan, Germain, Larochelle, Laviolette, Marchand and Lempitsky, "Domain-Adversarial Training
        of Neural Networks", JMLR 2016.

    Departures from the paper: turns instead of gradient reversal, no schedule of $\lambda$, as many domains as there
    are.

    Departures from DomainBed's code: in the discriminator's turn nothing is sent back through the featurizer (its
    gradient was thrown away), and the penalty's graph is built only where its weight is not 0. The discriminator sees
    features after dropout in both. As there, `lr` and `weight_decay` are not used; those that end in `_g` and `_d` are.
    """

    card = AlgorithmCard(
        paper="Ganin et al., JMLR 2016",
        link="https://arxiv.org/abs/1505.07818",
        tags=("adversarial", "alignment"),
        backwards=0.5,
        min_domains=2,
        penalties=("dann_lambda", "grad_penalty"),
        base=None,
        rehearsal={"lr_g": 3e-3, "lr_d": 1e-3, "dann_lambda": 0.1},
        needs=("feature_vectors",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of DANN and CDANN; defaults and draws are DomainBed's.

        `dann_lambda` is its `lambda`, which is a keyword of Python.
        """

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
        """Create the discriminator."""
        self.discriminator = discriminator(self.network.num_features, self.task.num_domains, self.hparams)

    def build_optimizers(self) -> None:
        """Create one optimizer for the network and one for the discriminator and its further parameters."""
        h, betas = self.hparams, (self.hparams.beta1, 0.9)
        network, adversary = (
            self.network.parameters(),
            [p for name, p in self.named_parameters() if not name.startswith("network.")],
        )
        self.optimizer = self.new_optimizer(network, lr=h.lr_g, weight_decay=h.weight_decay_g, betas=betas)
        self.disc_optimizer = self.new_optimizer(adversary, lr=h.lr_d, weight_decay=h.weight_decay_d, betas=betas)

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Take one step of the discriminator or of the network, whichever has its turn."""
        y = torch.cat([b.y for b in batches])
        train_discriminator = is_discriminators_turn(self.step, self.hparams.d_steps_per_g_step)
        # The discriminator's gradient stops at its inputs, so in its turn the featurizer needs no graph.
        with torch.set_grad_enabled(not train_discriminator):
            features = self.network.dropout(self.network.features(torch.cat([b.x for b in batches])))
            nll = self.criterion(self.network.classifier(features), y)
        disc_loss = self._discriminator_loss(self.discriminator_inputs(features, y), y, domain_labels(batches))
        if train_discriminator:
            self.disc_optimizer.zero_grad(set_to_none=True)
            disc_loss.backward()  # type: ignore[no-untyped-call]
            self.disc_optimizer.step()
        else:
            self.descend(nll - self.hparams.dann_lambda * disc_loss)
        return {"loss": nll.detach(), "disc_loss": disc_loss.detach()}

    def discriminator_inputs(self, features: Tensor, y: Tensor) -> Tensor:
        """Return the discriminator's inputs (n, num_features) for features and classes."""
        return features

    def reduce_losses(self, losses: Tensor, y: Tensor) -> Tensor:
        """Reduce the discriminator's losses of the examples (n,) to one."""
        return losses.mean()

    def _discriminator_loss(self, inputs: Tensor, y: Tensor, domains: Tensor) -> Tensor:
        """Compute the discriminator's loss, with the gradient penalty if it has a weight."""
        penalized = self.hparams.grad_penalty != 0
        # In the discriminator's turn the features have no graph, but the penalty differentiates with respect to them.
        if penalized and not inputs.requires_grad:
            inputs.requires_grad_()
        losses = F.cross_entropy(self.discriminator(inputs), domains, reduction="none")
        loss = self.reduce_losses(losses, y)
        if penalized:
            # The sum's gradient at an example's features is that of the example's own loss.
            (gradients,) = torch.autograd.grad(losses.sum(), inputs, create_graph=True)
            loss = loss + self.hparams.grad_penalty * gradients.square().sum(dim=1).mean()
        return loss


class CDANN(DANN):
    r"""Learn features from which a discriminator that knows the class can't find the domain.

    $$
    \min_{f, c} \; \max_{d, v} \; \mathrm{CE}(c(f(x)), y) - \lambda\, \mathrm{mean}_y\, \mathrm{CE}(d(f(x) + v_y), e)
    $$

    $e$ is the domain and $v_y$ an embedding of the class, which learns with the discriminator $d$. The mean is over
    classes, of the mean over each one's examples. Turns and the gradient penalty are as in DANN.

    Reference:
        Li, Tian, Gong, Liu, Liu, Zhang and Tao, "Deep Domain Generalization via Conditional Invariant Adversarial
        Networks", ECCV 2018.

    Departures from the paper, all as in DomainBed:

    - One discriminator, which gets the class by the embedding added to the features, instead of one a class.
    - Its loss weighs classes alike instead of a further discriminator with class priors divided out.
    - Those of DANN.

    Departures from DomainBed's code: those of DANN; the mean divides by the number of classes (theirs by the greatest
    label of the minibatch plus 1).
    """

    card = AlgorithmCard(
        paper="Li et al., ECCV 2018",
        link="https://openaccess.thecvf.com/content_ECCV_2018/html/Ya_Li_Deep_Domain_Generalization_ECCV_2018_paper.html",
        tags=("adversarial", "alignment"),
        backwards=0.5,
        min_domains=2,
        penalties=("dann_lambda", "grad_penalty"),
        base=None,
        rehearsal={"lr_g": 3e-3, "lr_d": 1e-3, "dann_lambda": 0.1},
        needs=("classes",),
    )

    def build(self) -> None:
        """Create the discriminator and the embeddings of the classes."""
        super().build()
        self.class_embeddings = nn.Embedding(self.task.num_classes, self.network.num_features)

    def discriminator_inputs(self, features: Tensor, y: Tensor) -> Tensor:
        """Return the features (n, num_features) plus the embeddings of the classes."""
        embedded: Tensor = self.class_embeddings(y)
        return features + embedded

    def reduce_losses(self, losses: Tensor, y: Tensor) -> Tensor:
        """Return the mean over classes of each one's mean loss; a class without examples counts as 0."""
        of_class = (y[:, None] == torch.arange(self.task.num_classes, device=y.device)).to(losses.dtype)
        per_class: Tensor = of_class / of_class.sum(dim=0).clamp(min=1)
        return (losses @ per_class).mean()
