"""An analysis for dgbench: it measures finished models beyond their scores.

dgbench analyze MyAnalysis runs/mine --include mine.py --rows ERM
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dgbench import Analysis, AnalysisCard, Checked, FinishedModel, SeriesCard, Views, hparam
from dgbench.methods.analysis import Finding


class MyAnalysis(Analysis):
    """Measure how sure a model is, by the mean of its largest probabilities on each view."""

    card = AnalysisCard(
        paper="Author et al., Venue Year",
        measures={"confidence": "mean of the largest probability of each example"},  # all that `measure` yields
        series={  # data to be drawn: the report has a figure of it
            "shares": SeriesCard(
                title="How sure models are",
                drawing="lines",
                labels={"probability": "largest probability", "share": "share of examples"},
                x="probability",
                values=("share",),
            )
        },
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of MyAnalysis."""

        examples: int = hparam(500, help="most examples of each view", within="[1, inf)")

    hparams: Hparams

    @torch.no_grad()
    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield the numbers of each view; None in place of the view for numbers of all views together."""
        network = models[0].load()  # with `takes="trial"` on the card, all runs of a trial
        for view in data.all:
            batches = data.examples(view, self.hparams.examples, 100)
            sure = torch.cat([network(x).softmax(dim=1).amax(dim=1) for x, _ in batches])
            shares = torch.histc(sure, bins=10, min=0, max=1) / len(sure)
            middles = torch.linspace(0.05, 0.95, 10)
            yield (
                view,
                {
                    "confidence": float(sure.mean()),
                    "shares": {"probability": middles.tolist(), "share": shares.tolist()},
                },
            )
