"""Ask for further trials of the hyperparameters that a search chose, as requests of the sweep like any other.

Each trial of a search draws its hyperparameters afresh, so a choice is a hyperparameter seed and the trial that drew
it. A request that repeats it gives every trial that draw (`Request.repeats`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from dgbench.core.protocol import Fold
from dgbench.core.wording import group_values
from dgbench.plan.declaration import Declaration
from dgbench.plan.planner import Drawn
from dgbench.plan.request import Repeat, Request


class Choice(NamedTuple):
    """The hyperparameters that a selector chose for one row, once for all trials."""

    row: str
    dataset: str
    fold: Fold
    drawn: Drawn


def repeating(declaration: Declaration, choices: Sequence[Choice], selector: str, trials: int) -> Declaration:
    """Return a declaration that repeats the choices of a selector, in place of those that it repeated before.

    Args:
        declaration: The sweep's declaration so far.
        choices: The choices.
        selector: Name of the selector that made them.
        trials: Number of trials of each. They are numbered from the first that no search has.
    """
    first = max(trial for request in declaration.searches for trial in request.trials) + 1
    rows = {row.name: row for request in declaration.searches for row in request.rows}
    # A run that holds out two domains serves the search alone, so the protocol of the fold is enough.
    protocol = declaration.searches[0].protocol
    alike = group_values(((choice.dataset, choice.fold, choice.drawn), rows[choice.row]) for choice in choices)
    requests = [
        Request(
            rows=tuple(own),
            datasets=(dataset,),
            protocol=protocol.of_fold(fold),
            hparams_seeds=(drawn.seed,),
            trials=tuple(range(first, first + trials)),
            repeats=Repeat(selector, drawn.trial),
        )
        for (dataset, fold, drawn), own in alike.items()
    ]
    kept = [old for old in declaration.requests if old.repeats is None or old.repeats.selector != selector]
    return replace(declaration, requests=(*kept, *requests))
