"""Make the frame of `SweepResults.metrics`.

pandas is imported only inside functions, because this file is also imported where no frame is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dgbench.report.predictions.chosen import chosen_values, metrics_of
from dgbench.report.predictions.examples import find_examples
from dgbench.report.predictions.metrics import METRICS
from dgbench.report.results import Results
from dgbench.report.select import Selector
from dgbench.report.study_frames import able_datasets

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("row", "dataset", "held_out", "trial", "metric", "of_class", "value", "why")


def metrics_frame(
    results: Results, selector: Selector, names: Sequence[str], examples: Path | str | None, partial: bool
) -> pd.DataFrame:
    """Make the frame of `SweepResults.metrics`."""
    import pandas as pd

    datasets = able_datasets(results, selector)
    metrics = metrics_of(names) or tuple(METRICS.values())
    listed = find_examples(examples, ((results, dataset) for dataset in datasets)) if examples else None
    lines = [
        (v.row, v.dataset, "+".join(results.folds[v.fold].held_out), v.trial, v.metric, v.of_class, v.value, v.why)
        for dataset in datasets
        for v in chosen_values(
            results, selector, dataset, results.rows, (*metrics, *(listed.metrics(dataset) if listed else ())), partial
        )
    ]
    return pd.DataFrame(lines, columns=list(_COLUMNS)).astype({"trial": "int64", "value": "float64"})
