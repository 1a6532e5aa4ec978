"""Find and read the predictions that the runs of sweep folders keep, each file once for all that look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dgbench.core.protocol import View
from dgbench.report.predictions.metrics import LackingError, Metric, Predicted, predicted_views
from dgbench.store.predictions import Predictions, find_steps, read
from dgbench.store.run_folder import RUNS
from dgbench.store.sealed import CorruptFile


class KeptPredictions:
    """The predictions that the runs of some sweep folders keep, and the metrics computed from them so far.

    Args:
        roots: The sweep folders; none for DomainBed's, which keep no predictions.
    """

    def __init__(self, *roots: Path | str) -> None:
        self.roots = tuple(map(Path, roots))
        self.tallies: dict[tuple[str, str, str], Any] = {}
        """(selector, row, data set) -> its `tally.Tally`, of those that were asked for so far."""
        self._steps: dict[str, Mapping[tuple[str, int], Path]] = {}
        self._values: dict[tuple[Path, Metric, tuple[View, ...]], Mapping[str, float] | str] = {}
        self._last: tuple[tuple[Path, tuple[View, ...]], list[Predicted]] | None = None

    def steps(self, run: str) -> Mapping[tuple[str, int], Path]:
        """Return (predictor, step) -> file of a run's models whose predictions are kept."""
        if run not in self._steps:
            found = (_steps_of(root / RUNS / run) for root in self.roots)
            self._steps[run] = next(filter(None, found), {})
        return self._steps[run]

    def read(self, run: str, predictor: str, step: int, views: Sequence[View]) -> Predictions:
        """Read the kept predictions of a model on some views; those that the file lacks are left out.

        Args:
            run: The run's id.
            predictor: Its predictor.
            step: The step after which the model was taken.
            views: The views.

        Raises:
            LackingError: They are not kept, or the file is not what was written.
        """
        path = self._file(run, predictor, step)
        try:
            return read(path, map(str, views))
        except CorruptFile as error:
            raise LackingError(str(error)) from None

    def predicted(self, run: str, predictor: str, step: int, views: Sequence[View]) -> list[Predicted]:
        """Return the kept predictions of a model as metrics read them, one for each of `views`; as `read` otherwise."""
        key = self._file(run, predictor, step), tuple(views)
        if self._last is None or self._last[0] != key:
            self._last = key, predicted_views(self.read(run, predictor, step, views), views)
        return self._last[1]

    def metric(self, metric: Metric, run: str, predictor: str, step: int, views: Sequence[View]) -> Mapping[str, float]:
        """Return class -> value of a metric of a model; one value under the empty name, but for metrics by class.

        Args:
            metric: The metric.
            run: The run's id.
            predictor: Its predictor.
            step: The step after which the model was taken.
            views: The views.

        Raises:
            LackingError: Something that it needs is not kept.
        """
        key = self._file(run, predictor, step), metric, tuple(views)
        if key not in self._values:
            try:
                self._values[key] = metric.compute(self.predicted(run, predictor, step, views))
            except LackingError as error:
                self._values[key] = str(error)
        found = self._values[key]
        if isinstance(found, str):
            raise LackingError(found)
        return found

    def _file(self, run: str, predictor: str, step: int) -> Path:
        """Return the file of a model's predictions; raise `LackingError` if they are not kept."""
        path = self.steps(run).get((predictor, step))
        if path is None:
            raise LackingError("its predictions are not kept: launch with --save_predictions")
        return path


def _steps_of(folder: Path) -> Mapping[tuple[str, int], Path]:
    """Return (predictor, step) -> file in a run's folder; empty if one is damaged, as then none is believed."""
    try:
        return find_steps(folder)
    except CorruptFile:
        return {}
