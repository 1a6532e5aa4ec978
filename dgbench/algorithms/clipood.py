"""CLIPood: fine-tune CLIP's image tower against fixed class names, with margins between names of like meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import choice, hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class CLIPood(Algorithm):
    r"""Train the featurizer by a softmax with margins that follow how like the class names are; the classifier stays.

    $$
    \min_\phi \; - \frac{1}{n} \sum_{i=1}^{n} \log
    \frac{\exp \tau \big(\langle v_i, t_{y_i} \rangle + \lambda (1 - \langle t_{y_i}, t_{y_i} \rangle)\big)}
    {\sum_c \exp \tau \big(\langle v_i, t_c \rangle + \lambda (1 - \langle t_{y_i}, t_c \rangle)\big)}
    $$

    $v_i = \phi(x_i) / \lVert \phi(x_i) \rVert$ is the embedding of an image, $t_c$ that of a class name, and $\tau$ the
    scale of CLIP's logits. A class whose name is unlike the right one's must be further away: its logit is raised by
    up to $\tau \lambda$, $\lambda$ = `margin`. Predictions have no margin. Embeddings of names and the scale stay as
    CLIP has them.

    This class is the loss alone. The method averages the weights along the run, which is the row `CLIPood+BMA`.

    Reference:
        Shu, Guo, Wu, Wang, Wang and Long, "CLIPood: Generalizing CLIP to Out-of-Distributions", ICML 2023.

    Departures from the authors' code: weights are float32, where theirs are half precision between steps. Batch size,
    optimizer and schedule are the setting's; theirs are 12 examples of each domain, AdamW and cosine.
    """

    card = AlgorithmCard(
        paper="Shu et al., ICML 2023",
        link="https://arxiv.org/abs/2302.00864",
        tags=("pretraining", "regularization"),
        penalties=("margin",),
        base=None,
        setting={"classifier_init": "zero_shot"},
        needs=("classes", "clip", "linear_classifier", "learning_features"),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of CLIPood; defaults are the paper's, and draws lie around them."""

        lr: float = hparam(5e-6, power(10, -6, -4.5), within="[0, inf)")
        weight_decay: float = hparam(0.1, choice(0.01, 0.1), within="[0, inf)")
        margin: float = hparam(
            0.3, choice(0.1, 0.3, 0.5), help="lambda, largest margin in units of the cosine", within="[0, inf)"
        )

    hparams: Hparams

    def build(self) -> None:
        """Freeze the classifier, the embeddings of the class names."""
        self.network.classifier.requires_grad_(False)

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the mean cross-entropy of logits with margins, in one forward pass."""
        y = torch.cat([b.y for b in batches])
        return F.cross_entropy(self(torch.cat([b.x for b in batches])) - self.margins()[y], y)

    def margins(self) -> Tensor:
        """Return the margins to subtract from logits, (classes, classes): a row for each right class.

        They are tau lambda times the cosines of names. A constant that all logits share drops out of the softmax.
        """
        names = self.network.classifier.get_parameter("weight")  # each row has the length tau
        return self.hparams.margin * F.normalize(names, dim=1) @ names.T
