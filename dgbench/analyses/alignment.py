"""Alignment: how far the training domains ask the weights for the same step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dgbench.core.cards import AnalysisCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.analysis import Analysis, Finding, FinishedModel, Views, surface_of
from dgbench.methods.similarity import gradient_coherence, gradient_cosines, mean_over_pairs


class Alignment(Analysis):
    r"""Compare the gradients of the training domains' losses at a model's weights.

    $$
    \mathrm{inner} = \frac{2}{D (D - 1)} \sum_{d < e} g_d^\top g_e, \qquad
    \mathrm{coherence} = \frac{\lVert \frac1D \sum_d g_d \rVert^2}{\frac1D \sum_d \lVert g_d \rVert^2}
    $$

    $g_d$ is the gradient of the mean cross-entropy of up to `examples` of domain $d$, in evaluation mode, by all
    weights that learn. `inner` is what Fish raises, `cosine` is the same for gradients of length 1, and `coherence` is
    1 where all agree and $1/D$ where they are orthogonal. At a minimum of the mean loss gradients cancel, so `inner` is
    negative there whatever the method: compare models of one training loss.

    Reference:
        Shi, Seely, Torr, Siddharth, Hannun, Usunier and Synnaeve, "Gradient Matching for Domain Generalization", ICLR
        2022; Chatterjee, "Coherent Gradients: An Approach to Understanding Generalization in Gradient Descent-based
        Optimization", ICLR 2020, for `coherence`.

    Departures from the papers: gradients are of whole views, not of minibatches along training; coherence is over
    domains, not over examples.
    """

    card = AnalysisCard(
        paper="Shi et al., ICLR 2022",
        link="https://arxiv.org/abs/2104.09937",
        tags=("gradient-matching",),
        needs=("classes",),
        examples="examples",
        passes=((3,),),
        min_domains=2,
        measures={
            "inner": "mean inner product of two domains' gradients",
            "cosine": "mean cosine between two domains' gradients",
            "coherence": "squared length of the mean gradient over the mean squared length",
            "norm": "length of the mean gradient",
        },
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of Alignment."""

        examples: int = hparam(1024, help="most examples of each domain", within="[1, inf)")
        batch_size: int = hparam(128, help="examples at once, which changes memory alone", within="[1, inf)")

    hparams: Hparams

    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield the measures of all training domains together."""
        network, h = models[0].load(), self.hparams
        found = []
        for view in data.training:
            _, slope = surface_of(network, data.examples(view, h.examples, h.batch_size)).gradient()
            found.append(slope.double())
            yield view, {}
        gradients = torch.stack(found)
        products, cosines = gradient_cosines(gradients)
        yield (
            None,
            {
                "inner": mean_over_pairs(products.tolist()),
                "cosine": mean_over_pairs(cosines.tolist()),
                "coherence": gradient_coherence(gradients),
                "norm": float(gradients.mean(dim=0).norm()),
            },
        )
