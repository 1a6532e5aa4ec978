"""StartConnectivity: loss and accuracy on the line from the start of a training to its model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dgbench.analyses._lines import BARRIERS, LINE, LineHparams, OnLines
from dgbench.core.cards import AnalysisCard
from dgbench.methods.analysis import Finding, FinishedModel, Views


class StartConnectivity(OnLines):
    r"""Score the models on the line from the weights that training started from to the trained model.

    $$
    \theta(\alpha) = (1 - \alpha)\, \theta_0 + \alpha\, \theta_1
    $$

    It is the line of `WiSEFT`, on each training and held-out view: whether a share of the start is better on the
    held-out domain than on the training domains. $\theta_0$ includes the initial classifier, which predicts nothing
    unless `classifier_init` makes one. `barrier` is as in `Connectivity`.

    With live batch norm, statistics are measured on minibatches of training at each point, at both ends too.

    Reference:
        Wortsman, Ilharco, Kim, Li, Kornblith, Roelofs, Gontijo-Lopes, Hajishirzi, Farhadi, Namkoong and Schmidt,
        "Robust Fine-Tuning of Zero-Shot Models", CVPR 2022.
    """

    card = AnalysisCard(
        paper="Wortsman et al., CVPR 2022",
        link="https://arxiv.org/abs/2109.01903",
        tags=("averaging", "pretraining"),
        needs=("classes",),
        examples="examples",
        passes=((1, "points"),),
        measures=dict(BARRIERS),
        series={"line": LINE},
    )

    @dataclass(frozen=True)
    class Hparams(LineHparams):
        """Hyperparameters of StartConnectivity."""

    hparams: Hparams

    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield the line of each training and held-out view."""
        (model,) = models
        yield from self.between(model.load(), {"start to model": (model.initial, model.weights)}, data)
