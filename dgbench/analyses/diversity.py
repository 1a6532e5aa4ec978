"""Diversity: how differently the runs of a trial err, represent and lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dgbench.core.cards import AnalysisCard, SeriesCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.analysis import Analysis, Batches, Finding, FinishedModel, Views
from dgbench.methods.average import Weights
from dgbench.methods.similarity import disagreement, linear_cka, mean_of_finite, q_statistic, ratio_error

_DRAWS = 3
"""Draws of members, for each number of them."""


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

    The series `members` is accuracy over the number of members, of the mean of their logits and of one network with the
    mean of their weights: for 1, 2, 4, … members and for all, the mean over up to three draws of so many of the runs,
    the same draws for both. Weights of runs that started apart have no mean worth a measurement.

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
        examples="examples",
        passes=((2.5, "models"),),  # one each, and three for each power of two of members
        measures={
            "disagreement": "share of examples that two runs put into different classes",
            "ratio_error": "examples that one of two runs gets wrong, for each that both do",
            "q_statistic": "Yule's Q of two runs' errors: 0 if independent, 1 if alike",
            "cka": "similarity of two runs' logits, from 0 to 1",
            "apart": "distance between two runs' weights",
            "moved": "distance of a run's weights from its start",
        },
        series={
            "members": SeriesCard(
                title="Accuracy over the number of members",
                drawing="lines",
                labels={"members": "members", "mean": "mean of", "accuracy": "accuracy"},
                x="members",
                values=("accuracy",),
                by=("mean",),
                caption="Means over up to three draws of the members.",
            )
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
        h, drawn = self.hparams, _draws(len(models), self.generator)
        for view in data.all:
            # Examples cost more to read than models: networks are loaded anew for each view.
            batches, logits = data.examples(view, h.examples, h.batch_size), list[Tensor]()
            for model in models:
                logits.append(_logits(model.load(), batches))
                yield view, {}
            labels = torch.cat([y for _, y in batches]).cpu()
            yield view, _of_pairs(logits, labels.numpy())
            for members, draws in drawn.items():
                found: dict[str, list[float]] = {"outputs": [], "weights": []}
                for chosen in draws:
                    outputs = torch.stack([logits[i] for i in chosen]).mean(dim=0)
                    # Of a single model both are the model.
                    one = outputs if members == 1 else _logits(_merged([models[i] for i in chosen]), batches)
                    for mean, those in (("outputs", outputs), ("weights", one)):
                        found[mean].append(float((those.argmax(dim=1) == labels).double().mean()))
                    yield view, {}
                means = [float(np.mean(accuracies)) for accuracies in found.values()]
                yield view, {"members": {"members": [members] * 2, "mean": list(found), "accuracy": means}}
        flat = [_joined(model.weights()) for model in models]
        moved = [float((own - _joined(model.initial())).norm()) for own, model in zip(flat, models, strict=True)]
        apart = [float((one - other).norm()) for one, other in combinations(flat, 2)]
        yield None, {"apart": float(np.mean(apart)), "moved": float(np.mean(moved))}


def _draws(runs: int, generator: torch.Generator) -> dict[int, list[tuple[int, ...]]]:
    """Return each number of members -> draws of so many of the runs, all or up to `_DRAWS`; of one, every run."""
    found: dict[int, list[tuple[int, ...]]] = {1: [(run,) for run in range(runs)]}
    for members in [2**power for power in range(1, runs.bit_length()) if 2**power < runs] + [runs]:
        draws = dict.fromkeys(combinations(range(runs), members)) if math.comb(runs, members) <= _DRAWS else {}
        while len(draws) < min(_DRAWS, math.comb(runs, members)):
            order = torch.randperm(runs, generator=generator, device=generator.device)
            draws[tuple(sorted(order[:members].tolist()))] = None
        found[members] = list(draws)
    return found


def _logits(network: nn.Module, batches: Batches) -> Tensor:
    """Return the logits (N, classes) of all batches."""
    return torch.cat([network(x) for x, _ in batches]).double().cpu()


def _merged(models: Sequence[FinishedModel]) -> nn.Module:
    """Return the first model's network with the mean of all models' weights."""
    network, total = models[0].load(), dict[str, Tensor]()
    for model in models:
        for name, tensor in model.weights().items():
            total[name] = total[name] + tensor if name in total else tensor.clone()
    mean = {name: tensor / len(models) for name, tensor in total.items() if tensor.is_floating_point()}
    network.load_state_dict(mean, strict=False)
    return network


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
