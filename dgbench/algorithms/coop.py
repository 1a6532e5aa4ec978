"""CoOp: learn the words around the class names instead of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import choice, hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from dgbench.networks.clip_text import in_words, text_tower


class CoOp(Algorithm):
    r"""Learn vectors in the place of the words before a class name, through CLIP's text tower; both towers stay.

    $$
    \min_{w_1, \dots, w_k} \; - \frac{1}{n} \sum_{i=1}^{n} \log
    \frac{\exp \tau \langle v_i, t_{y_i} \rangle}{\sum_c \exp \tau \langle v_i, t_c \rangle}, \qquad
    t_c \propto u(w_1, \dots, w_k, c)
    $$

    $v_i$ is the embedding of an image and $t_c$ that of a class, both of length 1; $u$ is the text tower, $w_1, \dots,
    w_k$ are vectors at the places of $k$ = `context_tokens` words, the same before all names, and $\tau$ is the scale
    of CLIP's logits. Predictions are by a linear classifier, the vectors $\tau t_c$, which is made anew after each step
    and is what averages and mergers see.

    Reference:
        Zhou, Yang, Loy and Liu, "Learning to Prompt for Vision-Language Models", IJCV 2022, with one context for all
        classes and the name at the end.

    Departures from the authors' code: weights are float32. Optimizer and schedule are the setting's; theirs are SGD and
    cosine after one epoch at a lower rate.
    """

    card = AlgorithmCard(
        paper="Zhou et al., IJCV 2022",
        link="https://arxiv.org/abs/2109.01134",
        tags=("pretraining", "training-recipe"),
        backwards=0.0,
        setting={"classifier_init": "zero_shot"},
        rehearsal={"lr": 0.05, "context_tokens": 4},
        followers=("network",),
        needs=("classes", "text_tower", "linear_classifier", "learning_classifier"),
        no_feedback={"weights": "predicts by a classifier that its learned words make anew after each step"},
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of CoOp; the defaults are the paper's."""

        lr: float = hparam(2e-3, power(10, -3.5, -2), within="[0, inf)")
        weight_decay: float = hparam(5e-4, power(10, -6, -3), within="[0, inf)")
        context_tokens: int = hparam(16, choice(4, 16), help="k, number of learned vectors", within="[1, inf)")

    hparams: Hparams

    def build(self) -> None:
        """Freeze the network, and draw the vectors."""
        self.network.freeze("featurizer")
        self.network.requires_grad_(False)
        device = next(self.network.buffers()).device
        # No module, so that checkpoints don't hold it: it is made from the same file again.
        self.tower = text_tower(self.setting, self.task.input_shape, device)
        count = self.hparams.context_tokens
        words = " ".join(["X"] * count)
        self.tokens = self.tower.tokens([f"{words} {in_words(name)}." for name in self.task.classes]).to(device)
        self.context = nn.Parameter(0.02 * torch.randn(count, self.tower.width))
        self.context.data = self.context.data.to(device)
        self.write_classifier()

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor | float]:
        """Descend the mean cross-entropy, in one forward pass through the image tower and none back."""
        with torch.no_grad():
            features = self.network.features(torch.cat([b.x for b in batches]))
        loss = self.criterion(features @ self.class_vectors().T, torch.cat([b.y for b in batches]))
        self.descend(loss)
        self.write_classifier()
        return {"loss": loss.detach()}

    def class_vectors(self) -> Tensor:
        """Return the embeddings of the classes in their learned context, times the logits' scale: (classes, n)."""
        return self.tower.scale * self.tower.embed_with(self.context, self.tokens)

    @torch.no_grad()
    def write_classifier(self) -> None:
        """Put the vectors of the classes into the linear classifier, which predicts."""
        head = self.network.classifier
        assert isinstance(head, nn.Linear), "refused in planning"
        head.weight.copy_(self.class_vectors())
        head.bias.zero_()
