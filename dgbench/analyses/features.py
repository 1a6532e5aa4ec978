"""Features: how well classes and domains are told apart in a network's features, and a picture of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgbench.core.cards import AnalysisCard, SeriesCard
from dgbench.core.errors import UserError
from dgbench.core.protocol import View
from dgbench.core.space import Checked, hparam
from dgbench.methods.analysis import Analysis, Columns, Finding, FinishedModel, Views, features_of, network_of
from dgbench.methods.representation import class_alignment, class_separation, plane_of, probe_accuracy
from dgbench.methods.similarity import mean_of_finite

Labeled = tuple[Tensor, Tensor]
"""Features (N, D), float64, and labels (N,), on the CPU."""


class Features(Analysis):
    r"""Measure classes and domains in a network's features, the inputs of its classifier, and draw them.

    $$
    \mathrm{separation} = 1 - \frac{\sum_k \frac1K \, \mathbb{E}\,[\, d(x, y) \mid x, y \in k \,]}
    {\sum_{k, l} \frac{1}{K^2} \, \mathbb{E}\,[\, d(x, y) \mid x \in k, y \in l \,]}
    $$

    $d$ is the cosine distance of two features and $K$ the number of classes. `domain_probe` is the accuracy, over five
    folds, at which a linear probe tells features of a view from as many of the training domains other than its own, in
    equal shares; at 0.5 it can't. `domains_probe` is that of telling all training domains apart, which is
    `domains_chance` by chance. A probe may tell domains by their shares of classes. `class_cka` compares the means of
    the classes in a view with those in each training domain other than its own, by linear centered kernel alignment,
    and is the mean over these: 1 where classes lie to each other alike. It needs three classes, and is high with few.

    The series `picture` is a layout of up to `points` features of each training and held-out domain in a plane, by
    t-SNE, or by UMAP with `picture` = `umap`. Distances between far points of it mean nothing.

    Reference:
        Kornblith, Chen, Lee and Norouzi, "Why Do Better Loss Functions Lead to Less Transferable Features?", NeurIPS
        2021, for `separation`; Ben-David, Blitzer, Crammer and Pereira, "Analysis of Representations for Domain
        Adaptation", NeurIPS 2006, for the probes; Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network
        Representations Revisited", ICML 2019, for the alignment; van der Maaten and Hinton, "Visualizing Data using
        t-SNE", JMLR 2008; McInnes, Healy and Melville, "UMAP", 2018.

    Departures: the alignment is of the means of classes, where the third compares matched examples, which domains don't
    have. Accuracies $a$ stand in place of the second's distance, $2 (2a - 1)$.
    """

    card = AnalysisCard(
        paper="Kornblith et al., NeurIPS 2021",
        link="https://arxiv.org/abs/2010.16402",
        tags=("alignment",),
        needs=("classes",),
        examples="examples",
        needs_features=True,
        measures={
            "separation": "how much nearer features of one class are, from 0 to 1",
            "class_cka": "likeness of the layout of classes to that in other training domains, from 0 to 1",
            "domain_probe": "accuracy of telling features of the view from those of other training domains; chance 0.5",
            "domains_probe": "accuracy of telling all training domains apart; chance is one over their number",
        },
        series={
            "picture": SeriesCard(
                title="Features in a plane",
                drawing="points",
                labels={"x": "first axis", "y": "second axis", "class": "class", "domain": "domain"},
                x="x",
                y="y",
                by=("class", "domain"),
                caption="Neighbors are near in the features; distances between far points mean nothing.",
            )
        },
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of Features."""

        examples: int = hparam(512, help="most examples of each view", within="[1, inf)")
        batch_size: int = hparam(128, help="examples at once, which changes memory alone", within="[1, inf)")
        picture: str = hparam("tsne", options=("tsne", "umap", "none"), help="method of the picture")
        points: int = hparam(150, help="most points of each domain in the picture", within="[1, inf)")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.picture == "umap" and find_spec("umap") is None:
                raise UserError("picture 'umap' needs umap-learn: pip install 'dgbench[umap]', or leave it at tsne")

    hparams: Hparams

    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield the measures of each view, those of all training domains, and the picture."""
        network, h, found = network_of(models[0].load()), self.hparams, dict[View, Labeled]()
        for view in data.all:
            batches = features_of(network, data.examples(view, h.examples, h.batch_size))
            features, labels = (torch.cat(parts).cpu() for parts in zip(*batches, strict=True))
            found[view] = (features.flatten(1).double(), labels)
            yield view, {}
        training = {view.domain: found[view] for view in data.training}
        for view, own in found.items():
            others = [labeled for domain, labeled in training.items() if domain != view.domain]
            yield (
                view,
                {
                    "separation": class_separation(*own),
                    "class_cka": mean_of_finite([class_alignment(own, other) for other in others]),
                    "domain_probe": self._told_from(own, others),
                },
            )
        told = probe_accuracy([features.numpy() for features, _ in training.values()], self._seed())
        yield None, {"domains_probe": told}
        if h.picture != "none":
            yield None, {"picture": self._picture({view: found[view] for view in (*data.training, *data.held_out)})}

    def _told_from(self, own: Labeled, others: Sequence[Labeled]) -> float:
        """Return the accuracy of telling features from those of other domains, of which each has an equal share."""
        size = min([len(own[0]) // max(len(others), 1), *(len(features) for features, _ in others)])
        shares = [features[:size].numpy() for features, _ in others]
        return probe_accuracy([own[0].numpy(), np.concatenate(shares)] if shares else [], self._seed())

    def _picture(self, found: dict[View, Labeled]) -> Columns:
        """Return the columns of the picture, in which domains and classes are named."""
        most = self.hparams.points
        features = torch.cat([features[:most] for features, _ in found.values()]).numpy()
        labels = torch.cat([labels[:most] for _, labels in found.values()]).numpy()
        domains = np.array([view.domain for view, (features, _) in found.items() for _ in features[:most]])
        plane: NDArray[np.float64] = plane_of(features, self.hparams.picture, self._seed()).round(3)
        # Classes in their order, as legends then have them.
        order = np.argsort(labels, kind="stable")
        return {
            "x": plane[order, 0],
            "y": plane[order, 1],
            "class": labels[order].astype(str),
            "domain": domains[order],
        }

    def _seed(self) -> int:
        """Draw a seed for scikit-learn."""
        return int(torch.randint(2**31, (1,), generator=self.generator, device=self.generator.device))
