"""A merger for dgbench: one model out of the finished runs of a trial, those of all hyperparameter draws.

dgbench launch runs/mine --include mine.py --algorithms ERM ERM+MyMerger --datasets RotatedDigits --n_hparams 4
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dgbench import Checked, Member, Merged, Merger, MergerCard, RunningMean, Tools, hparam


class MyMerger(Merger):
    """Average the weights of the `share` of runs that validate best on the training domains."""

    card = MergerCard(paper="Author et al., Venue Year", min_members=2)

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of MyMerger."""

        share: float = hparam(0.5, help="share of the runs that is averaged", within="(0, 1]")

    hparams: Hparams

    def candidates(self, members: Sequence[Member], tools: Tools) -> Iterator[Merged]:
        """Yield merged models; the last is the one to take. A selector may choose among several (see `choices`)."""
        best = sorted(members, key=lambda member: member.accuracy, reverse=True)
        best = best[: max(1, round(self.hparams.share * len(best)))]
        mean = RunningMean()
        for member in best:
            mean.add(member.load())  # read from disk one at a time
        yield Merged(mean.mean, best)
