"""Save logits of the models that a selector may name, or of every evaluated model, for metrics and use elsewhere.

The files lie in the run's folder, one for each predictor and selector: `predictions/PREDICTOR.SELECTOR.safetensors`.
SELECTOR is `training-domain` or `validation-domain` for the model of this run that the selector of that name chooses,
and `last` for the last model, which the oracle takes. With `all`, `PREDICTOR.step-STEP.safetensors` is the model of
each evaluation. `store.predictions` says what is in a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from dgbench.core.protocol import View
from dgbench.core.run import CHOSEN_BY, Run
from dgbench.core.stats import nan_as_worst
from dgbench.data.dataset import Named, SplitExamples
from dgbench.data.views import ViewData
from dgbench.execute.evaluate import mean_score
from dgbench.store.files import write_atomic
from dgbench.store.predictions import PredictedView, Predictions, path_of, to_bytes


def selectors_naming(
    run: Run, predictor: str, scores: Mapping[str, Mapping[str, float]], metric: str, best: dict[str, float]
) -> list[str]:
    """Return the selectors that would choose a model among those of its predictor so far.

    Args:
        run: The run that the model is of.
        predictor: Its name.
        scores: View as text -> name of a score -> value, of the model.
        metric: The score by which models are chosen.
        best: `PREDICTOR.SELECTOR` -> the best score so far; updated.
    """
    found = []
    for selector, part in CHOSEN_BY.items():
        views: tuple[View, ...] = getattr(run.fold, part)
        if not views or not set(views) <= set(run.views):
            continue
        value, key = nan_as_worst(mean_score(scores, views, metric)), f"{predictor}.{selector}"
        if key not in best or value > best[key]:
            best[key] = value
            found.append(selector)
    return found


def save_predictions(
    folder: Path,
    predictor: str,
    names: Sequence[str],
    step: int,
    logits: Mapping[View, Tensor],
    data: ViewData,
    classes: Sequence[str],
) -> None:
    """Write `predictions/PREDICTOR.NAME.safetensors` for each name, whole.

    Args:
        folder: The run's folder.
        predictor: The predictor that the model is of.
        names: What the files are called, all of the same content.
        step: The step after which the model was taken.
        logits: View -> (n, ...), in the view's order.
        data: The run's views.
        classes: Names of the classes, in the order of the labels.
    """
    if not names:
        return
    views = {str(view): _predicted(view, values, data) for view, values in logits.items()}
    whole = to_bytes(Predictions(step, classes, views, _training_counts(data, len(classes))))
    path_of(folder, predictor, names[0]).parent.mkdir(exist_ok=True)
    for name in names:
        write_atomic(path_of(folder, predictor, name), whole)


def _predicted(view: View, logits: Tensor, data: ViewData) -> PredictedView:
    """Join the logits of a view with the facts about its examples."""
    positions, examples = np.asarray(data.indices[view], dtype=np.int64), data.examples[view.domain]
    domains = examples.domains[positions] if isinstance(examples, SplitExamples) else None
    files = [examples.files[i] for i in positions] if isinstance(examples, Named) else []
    return PredictedView(logits.numpy(), data.labels(view), positions, domains, data.attributes(view), files)


def _training_counts(data: ViewData, classes: int) -> list[int]:
    """Return how many training examples each class has; empty where labels are no classes."""
    if data.card.task != "classification":
        return []
    counts = [np.bincount(data.labels(view), minlength=classes) for view in data.train]
    return np.sum(counts, axis=0).tolist()  # type: ignore[no-any-return]
