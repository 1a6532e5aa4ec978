"""DiWA: the mean of the weights of many runs that started from the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dgbench.core.cards import MergerCard
from dgbench.merging._greedy import greedy
from dgbench.methods.average import RunningMean, Weights
from dgbench.methods.merger import Member, Merged, Merger, Tools

_PAPER = "Ramé et al., NeurIPS 2022"


class DiWA(Merger):
    r"""Average the weights of all runs of a trial, uniformly.

    $$
    \bar\theta = \frac1M \sum_{m=1}^{M} \theta_m
    $$

    $\theta_m$ are the weights of run $m$ of $M$, at its best training-domain validation accuracy. All runs start from
    the same weights. This is the paper's uniform selection.

    Reference:
        Ramé, Kirchmeyer, Rahier, Rakotomamonjy, Gallinari and Cord, "Diverse Weight Averaging for Out-of-Distribution
        Generalization", NeurIPS 2022.

    Departures from the authors' code: buffers are averaged like parameters; theirs are those of the first run added,
    which is the same while batch norm is frozen.
    """

    card = MergerCard(paper=_PAPER, link="https://arxiv.org/abs/2205.09739", tags=("averaging",))

    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """Return the uniform mean of the members' weights; two copies of the model are in memory."""
        mean = RunningMean()
        for member in members:
            mean.add(member.load())
        return mean.mean


class DiWARestricted(Merger):
    r"""Average the weights of a greedy subset of the runs of a trial, tried in order of their accuracy.

    $$
    \bar\theta = \frac{1}{|S|} \sum_{m \in S} \theta_m
    $$

    This is the paper's restricted selection. Runs are tried in descending order of their training-domain validation
    accuracy. The first is in $S$; each next one stays if the accuracy of the mean with it, on the pooled validation
    parts of the training domains, is at least the best so far.

    Reference:
        Ramé, Kirchmeyer, Rahier, Rakotomamonjy, Gallinari and Cord, "Diverse Weight Averaging for Out-of-Distribution
        Generalization", NeurIPS 2022.

    Departures from the authors' code: those of `DiWA`.
    """

    card = MergerCard(paper=_PAPER, link="https://arxiv.org/abs/2205.09739", tags=("averaging",))

    def candidates(self, members: Sequence[Member], tools: Tools) -> Iterator[Merged]:
        """Yield the greedy mean, for which equally accurate runs keep their order."""
        yield greedy(sorted(members, key=lambda member: member.accuracy, reverse=True), tools.score)


class DiWADagger(DiWA):
    r"""Average the weights of the runs of all trials, uniformly.

    $$
    \bar\theta = \frac1M \sum_{m=1}^{M} \theta_m
    $$

    This is the paper's DiWA with a dagger: 60 runs, where DiWA has 20 for each of three trials. One trial validates on
    examples that another has trained on, so that nothing is selected, there is a single number without an error, and no
    accuracy on the training domains. All trials must start from the same weights: `--set init=sweep`.

    Reference:
        Ramé, Kirchmeyer, Rahier, Rakotomamonjy, Gallinari and Cord, "Diverse Weight Averaging for Out-of-Distribution
        Generalization", NeurIPS 2022.

    Departures from the authors' code: those of `DiWA`. The part of the test domain that is reported is drawn for the
    merged model itself, as each trial draws one for its runs.
    """

    card = MergerCard(paper=_PAPER, link="https://arxiv.org/abs/2205.09739", tags=("averaging",), all_trials=True)
