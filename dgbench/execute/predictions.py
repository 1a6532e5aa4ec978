"""Save logits of the models that a selector may name, for use outside dgbench.

The files lie in the run's folder, one for each predictor and selector: `predictions/PREDICTOR.SELECTOR.safetensors`.
SELECTOR is `training-domain` or `validation-domain` for the model of this run that the selector of that name chooses,
and `last` for the last model, which the oracle takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dgbench.core.protocol import View
from dgbench.core.run import CHOSEN_BY, Run
from dgbench.core.stats import nan_as_worst
from dgbench.data.dataset import Named
from dgbench.data.views import ViewData
from dgbench.execute.evaluate import mean_score
from dgbench.execute.models import to_bytes
from dgbench.store.files import write_atomic


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
    names: Sequence[str],
    step: int,
    logits: Mapping[View, Tensor],
    data: ViewData,
    classes: Sequence[str],
) -> None:
    """Write `predictions/NAME.safetensors` for each name, whole.

    The tensors of a view are `VIEW/logits`, `VIEW/labels` and `VIEW/positions`, the last in the view's domain. The
    metadata holds `classes` (JSON), `step`, and for views of files `VIEW/files`: JSON of their paths below the data
    set's folder.

    Args:
        folder: The run's folder.
        names: Names of the files, all of the same content.
        step: The step after which the model was taken.
        logits: View -> (n, ...), in the view's order.
        data: The run's views.
        classes: Names of the classes, in the order of the labels.
    """
    content, about = {}, {"classes": json.dumps(list(classes)), "step": str(step)}
    for view, values in logits.items():
        positions, examples = data.indices[view], data.examples[view.domain]
        content[f"{view}/logits"] = values.contiguous()
        content[f"{view}/labels"] = torch.from_numpy(data.labels(view).copy())
        content[f"{view}/positions"] = torch.from_numpy(np.asarray(positions, dtype=np.int64).copy())
        if isinstance(examples, Named):
            about[f"{view}/files"] = json.dumps([examples.files[i] for i in positions])
    whole = to_bytes(content, about) if names else b""
    (folder / "predictions").mkdir(exist_ok=True)
    for name in names:
        write_atomic(folder / "predictions" / f"{name}.safetensors", whole)
