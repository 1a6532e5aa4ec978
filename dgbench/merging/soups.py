"""Model soups: the mean of the weights of models that were fine-tuned with different hyperparameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dgbench.core.cards import MergerCard
from dgbench.merging._greedy import greedy
from dgbench.merging.diwa import DiWA
from dgbench.methods.merger import Member, Merged, Merger, Tools

_PAPER = "Wortsman et al., ICML 2022"


class UniformSoup(DiWA):
    """theta = (1/M) sum_m theta_m, over the runs of one trial: what DiWA is too.

    Wortsman, Ilharco, Gadre, Roelofs, Gontijo-Lopes, Morcos, Namkoong, Farhadi, Carmon, Kornblith and Schmidt, "Model
    soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time",
    ICML 2022. Here it differs from `DiWA` in the name alone: both average all tensors of the same members.

    Departures from the authors' code: whole numbers (batch norm's count) are the last member's, not averaged; with live
    batch norm the statistics are measured afresh on training minibatches.
    """

    card = MergerCard(paper=_PAPER)


class GreedySoup(Merger):
    """theta = mean of a greedy subset: by pooled validation accuracy, each run that does not lower that of the mean.

    The paper's recipe: held-out accuracy ranks the models, and a model stays if the accuracy of the mean with it is at
    least the best so far. `DiWARestricted` differs in the ranking alone, which is by the mean accuracy over domains;
    here one accuracy serves both, on the pooled validation parts of the training domains.

    Departures from the authors' code: a tie lets a model in, as in the paper (the code wants the accuracy to rise);
    of equally accurate models the one with the lower hyperparameter seed comes first; else as of `UniformSoup`.
    """

    card = MergerCard(paper=_PAPER)

    def candidates(self, members: Sequence[Member], tools: Tools) -> Iterator[Merged]:
        """The greedy mean; three copies of the model in memory."""
        accuracies = [tools.score(member.load()) for member in members]
        order = sorted(range(len(members)), key=lambda i: -accuracies[i])
        yield greedy([members[i] for i in order], tools.score)
