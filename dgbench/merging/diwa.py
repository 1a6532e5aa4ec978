"""DiWA: the mean of the weights of many runs that began alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dgbench.core.cards import MergerCard
from dgbench.merging._greedy import greedy
from dgbench.methods.average import RunningMean, Weights
from dgbench.methods.merger import Member, Merged, Merger, Tools

_PAPER = "Ramé et al., NeurIPS 2022"


class DiWA(Merger):
    """theta = (1/M) sum_m theta_m, over the runs of one trial.

    Ramé, Kirchmeyer, Rahier, Rakotomamonjy, Gallinari and Cord, "Diverse Weight Averaging for Out-of-Distribution
    Generalization", NeurIPS 2022; its uniform selection.

    Departures from the authors' code: buffers are averaged like parameters (theirs are those of the first run added,
    which is the same while batch norm is frozen).
    """

    card = MergerCard(paper=_PAPER)

    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """The uniform mean; two copies of the model in memory."""
        mean = RunningMean()
        for member in members:
            mean.add(member.load())
        return mean.mean


class DiWARestricted(Merger):
    """theta = mean of a greedy subset: in order of validation accuracy, each run that does not lower the mean's.

    The paper's restricted selection. The first is the best run; the next stays if the accuracy of the mean with it, on
    the pooled validation parts of the training domains, is at least the best so far.

    Departures from the authors' code: as of `DiWA`.
    """

    card = MergerCard(paper=_PAPER)

    def candidates(self, members: Sequence[Member], tools: Tools) -> Iterator[Merged]:
        """The greedy mean. Equally accurate runs keep their order."""
        yield greedy(sorted(members, key=lambda member: member.accuracy, reverse=True), tools.score)


class DiWADagger(DiWA):
    """theta = (1/M) sum_m theta_m, over the runs of all trials.

    The paper's DiWA with a dagger: 60 runs where DiWA has 20 for each of three trials. What one trial validates on,
    another has trained on, so nothing is selected, there is one number and no error, and the accuracy on the training
    domains is not shown. All trials must begin alike: `--hparams '{"init": "sweep"}'`.

    Departures from the authors' code: as of `DiWA`; the test domain's part that is reported is drawn for the merged
    model itself, as each trial draws one for its runs.
    """

    card = MergerCard(paper=_PAPER, all_trials=True)
