"""The logits of those of a run's models that a selector may name, in files called after it, made to be read elsewhere.

`predictions/PREDICTOR.training-domain.safetensors` is of the model that training-domain validation chooses in the run,
`.validation-domain.` of that which validation on further domains does, `.last.` of the last, which an oracle takes.
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
    """List the selectors that name a model among those of its predictor so far.

    Args:
        run: The run, of which a selector looks at this run alone.
        predictor: The model's.
        scores: View -> what is recorded of it.
        metric: That selects.
        best: Predictor and selector -> the best value so far; brought up to date.
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

    For each view its logits, labels, and positions in the domain; among the metadata, as JSON, the classes, the step,
    and for each view of files their paths below the folder of the data set.

    Args:
        folder: The run's.
        names: What the files are called.
        step: After which the model was taken.
        logits: View -> (n, ...).
        data: Where the views are from.
        classes: Their names, in the order of the labels.
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
