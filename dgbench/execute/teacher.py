"""Provide the teacher of a run: a finished model, or an ensemble of several, whose logits the run learns from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgbench.catalogue.rows import is_ensemble, teacher_rows
from dgbench.core.run import BEST, Input
from dgbench.core.stats import nan_as_worst
from dgbench.execute.context import RunContext
from dgbench.execute.models import SavedModel, predict_with


def teacher_of(context: RunContext) -> Callable[[Tensor], Tensor]:
    """Return the teacher of a run: a function from inputs, as the data set gives them, to logits (B, classes).

    If the teacher's row is an ensemble, the logits are the mean over all the run's inputs. Otherwise the teacher is the
    input with the best validation score, the last of those that tie, as a selector would choose.
    """
    (row,) = teacher_rows(context.run.method.name, context.run.method.hparams, context.catalogue)
    found = [(source, context.find_input_model(source, BEST)) for source in context.run.inputs]
    if not is_ensemble(row, context.catalogue):
        found = [max(reversed(found), key=lambda one: nan_as_worst(one[1].accuracy))]
    models = [_model(context, source, saved) for source, saved in found]

    @torch.no_grad()
    def teach(x: Tensor) -> Tensor:
        return torch.stack([model(x) for model in models]).mean(dim=0)

    return teach


def _model(context: RunContext, source: Input, saved: SavedModel) -> Callable[[Tensor], Tensor]:
    """Load an input's model; it predicts by the algorithm of its own run, which may have another network."""
    algorithm = context.context_of_input(source).algorithm()
    algorithm.load_state_dict(saved.load(context.device), strict=False)
    return predict_with(algorithm)
