"""Export a sweep as an SQLite file of MLflow: `mlflow ui --backend-store-uri sqlite:///OUT/mlflow.db` shows it.

mlflow is imported only inside functions, because it is an extra.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dgbench.core.progress import ReportProgress
from dgbench.core.wording import count_nouns, shorten
from dgbench.report.export.tracked import SafeNames, TrackedRun, tracked_runs

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FILE = "mlflow.db"
_FORBIDDEN = r"[^\w\-. /:]"
"""Characters that MLflow refuses in names."""
_MOST_METRICS, _MOST_PARAMS, _LONGEST = 1000, 100, 5900
"""Most metrics and parameters that MLflow takes at once, and most characters of a value (MLflow's limit is 6,000)."""


def write(source: Path, target: Path, report: ReportProgress) -> Iterator[str]:
    """Write a run for each predictor, with parameters, tags and metrics; see `formats.Write`."""
    total, runs = tracked_runs(source)
    target.mkdir(parents=True, exist_ok=True)
    # MLflow would report to its makers that it is used.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.tracking import MlflowClient

    # Its database is made by some fifty migrations, each of which logs a line.
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    place = target.resolve()
    uri = f"sqlite:///{place / FILE}"
    # The registry of models isn't used; mlflow-skinny can keep none in SQLite.
    client = MlflowClient(tracking_uri=uri, registry_uri=str(place))
    experiment = client.create_experiment(source.resolve().name, artifact_location=(place / "artifacts").as_uri())
    names = SafeNames(_FORBIDDEN)
    for done, run in enumerate(runs, 1):
        _write_run(client, experiment, run, names)
        report("runs", done, total)
    yield f"wrote {count_nouns(total, 'run')} to {target}; to see them: mlflow ui --backend-store-uri {uri}"


def _write_run(client: MlflowClient, experiment: str, run: TrackedRun, names: SafeNames) -> None:
    """Write one run."""
    from mlflow.entities import Metric, Param

    started, ended = (round(1000 * time) for time in (run.started, run.started + run.seconds))
    id = client.create_run(experiment, start_time=started, tags=run.labels, run_name=run.name).info.run_id
    values = {**run.hparams, **{f"setting.{name}": value for name, value in run.setting.items()}}
    params = [Param(names[name], shorten(str(value), _LONGEST)) for name, value in values.items()]
    metrics = [
        Metric(names[name], value, started, step)
        for step, scalars in run.scalars.items()
        for name, value in scalars.items()
    ]
    for start in range(0, len(params), _MOST_PARAMS):
        client.log_batch(id, params=params[start : start + _MOST_PARAMS])
    for start in range(0, len(metrics), _MOST_METRICS):
        client.log_batch(id, metrics=metrics[start : start + _MOST_METRICS])
    client.set_terminated(id, end_time=ended)
