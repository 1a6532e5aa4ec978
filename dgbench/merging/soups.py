"""Model soups: the mean of the weights of models that were fine-tuned with different hyperparameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dgbench.core.cards import MergerCard
from dgbench.merging._greedy import greedy
from dgbench.merging.diwa import DiWA
from dgbench.methods.merger import Member, Merged, Merger, Tools

_PAPER = "Wortsman et al., ICML 2022"


class UniformSoup(DiWA):
    r"""Average the weights of all runs of a trial, uniformly; the same as `DiWA`.

    $$
    \bar\theta = \frac1M \sum_{m=1}^{M} \theta_m
    $$

    $\theta_m$ are the weights of run $m$ of $M$. It differs from `DiWA` in the name alone: both average all tensors of
    the same members.

    Reference:
        Wortsman, Ilharco, Gadre, Roelofs, Gontijo-Lopes, Morcos, Namkoong, Farhadi, Carmon, Kornblith and Schmidt,
        "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference
        time", ICML 2022.

    Departures from the authors' code: integer tensors (batch norm's count) are the last member's, not averaged. With
    live batch norm the statistics are measured afresh on training minibatches.
    """

    card = MergerCard(paper=_PAPER, link="https://arxiv.org/abs/2203.05482", tags=("averaging",))


class GreedySoup(Merger):
    r"""Average the weights of a greedy subset of the runs of a trial, tried in order of pooled accuracy.

    $$
    \bar\theta = \frac{1}{|S|} \sum_{m \in S} \theta_m
    $$

    This is the paper's recipe: held-out accuracy ranks the models, and a model stays in $S$ if the accuracy of the mean
    with it is at least the best so far. One accuracy serves both, that on the pooled validation parts of the training
    domains. `DiWARestricted` differs in the ranking alone, which is by the mean accuracy over domains.

    Reference:
        Wortsman, Ilharco, Gadre, Roelofs, Gontijo-Lopes, Morcos, Namkoong, Farhadi, Carmon, Kornblith and Schmidt,
        "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference
        time", ICML 2022.

    Departures from the authors' code: a tie lets a model in, as in the paper (their code wants the accuracy to rise).
    Of equally accurate models, the one with the lower hyperparameter seed comes first. The other departures are those
    of `UniformSoup`.
    """

    card = MergerCard(paper=_PAPER, link="https://arxiv.org/abs/2203.05482", tags=("averaging",))

    def candidates(self, members: Sequence[Member], tools: Tools) -> Iterator[Merged]:
        """Yield the greedy mean; three copies of the model are in memory."""
        accuracies = [tools.score(member.load()) for member in members]
        # A stable sort: members come in the order of their hyperparameter seeds, which decides between equal
        # accuracies.
        order = sorted(range(len(members)), key=lambda i: -accuracies[i])
        yield greedy([members[i] for i in order], tools.score)
