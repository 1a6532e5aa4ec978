"""Diversity: how differently the runs of a trial err, represent and lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgbench.core.cards import AnalysisCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.analysis import Analysis, Finding, FinishedModel, Views
from dgbench.methods.average import Weights
from dgbench.methods.similarity import disagreement, linear_cka, mean_of_finite, q_statistic, ratio_error


class Diversity(Analysis):
    r"""Compare the runs of a trial with each other: their errors, their logits, and the way from their start.

    $$
    \mathrm{ratio} = \frac{N_{one}}{N_{both}}, \qquad
    Q = \frac{N_{11} N_{00} - N_{10} N_{01}}{N_{11} N_{00} + N_{10} N_{01}}
    $$

    $N_{one}$ counts the examples that just one of two models gets wrong and $N_{both}$ those that both do; $N_{ab}$
    counts those that the first gets right ($a = 1$) or wrong and so does the second. Each measure is the mean over all
    pairs of runs, of pairs for which it is defined. `cka` compares logits, centered, up to rotation and scale. `apart`
    is the distance between two runs' weights, `moved` that from a run's weights to its start.

    Reference:
        Ramé, Kirchmeyer, Rahier, Rakotomamonjy, Gallinari and Cord, "Diverse Weight Averaging for Out-of-Distribution
        Generalization", NeurIPS 2022; Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations
        Revisited", ICML 2019, for `cka`.

    Departures from the first: `cka` is of logits, which every network has, not of the featurizer's output.
    """

    card = AnalysisCard(
        paper="Ramé et al., NeurIPS 2022",
        link="https://arxiv.org/abs/2205.09739",
        tags=("averaging", "ensembling"),
        takes="trial",
        needs=("classes",),
        measures={
            "disagreement": "share of examples that two runs put into different classes",
            "ratio_error": "examples that one of two runs gets wrong, for each that both do",
            "q_statistic": "Yule's Q of two runs' errors: 0 if independent, 1 if alike",
            "cka": "similarity of two runs' logits, from 0 to 1",
            "apart": "distance between two runs' weights",
            "moved": "distance of a run's weights from its start",
        },
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of Diversity."""

        examples: int = hparam(2048, help="most examples of each view", within="[1, inf)")
        batch_size: int = hparam(256, help="examples at once, which changes memory alone", within="[1, inf)")

    hparams: Hparams

    @torch.no_grad()
    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield the measures of each view, then those of the weights."""
        h = self.hparams
        for view in data.all:
            # Examples cost more to read than models: networks are loaded anew for each view.
            batches, logits = data.examples(view, h.examples, h.batch_size), list[Tensor]()
            for model in models:
                network = model.load()
                logits.append(torch.cat([network(x) for x, _ in batches]).double().cpu())
                yield view, {}
            yield view, _of_pairs(logits, torch.cat([y for _, y in batches]).cpu().numpy())
        flat = [_joined(model.weights()) for model in models]
        moved = [float((own - _joined(model.initial())).norm()) for own, model in zip(flat, models, strict=True)]
        apart = [float((one - other).norm()) for one, other in combinations(flat, 2)]
        yield None, {"apart": float(np.mean(apart)), "moved": float(np.mean(moved))}


def _of_pairs(logits: Sequence[Tensor], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return each measure of predictions, as its mean over the pairs for which it is a number."""
    predicted = [of_one.argmax(dim=1).numpy() for of_one in logits]
    right = [of_one == labels for of_one in predicted]
    pairs = list(combinations(range(len(logits)), 2))
    found = {
        "disagreement": [disagreement(predicted[i], predicted[j]) for i, j in pairs],
        "ratio_error": [ratio_error(right[i], right[j]) for i, j in pairs],
        "q_statistic": [q_statistic(right[i], right[j]) for i, j in pairs],
        "cka": [linear_cka(logits[i], logits[j]) for i, j in pairs],
    }
    return {name: mean_of_finite(values) for name, values in found.items()}


def _joined(weights: Weights) -> Tensor:
    """Return all weights as one vector, by name, without integers; the statistics of batch norm are part of it."""
    named = sorted(weights.items())
    return torch.cat([tensor.flatten().double().cpu() for _, tensor in named if tensor.is_floating_point()])
