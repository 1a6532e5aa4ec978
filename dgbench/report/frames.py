"""Give the results of sweep folders as frames of pandas, for notebooks, plots and tests.

    results = dgbench.load_results("runs/a", "runs/b")
    results.table("training-domain").pivot(index="row", columns="column", values="mean")

The numbers are those of `dgbench collect`: frames are made from the same `Results`, by the same selectors and cells.
Text columns with few values are categories in the order of the tables, so that sorting and pivoting keep that order.
pandas is imported only inside functions, because this file is also imported where no frame is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench.core.errors import UserError
from dgbench.core.wording import unknown_name
from dgbench.report import study_frames
from dgbench.report.analyses import agreement, analyses_frame
from dgbench.report.cost import cost_frame, costs
from dgbench.report.errors import KINDS, STYLES, WILDS, default_kind, with_errors
from dgbench.report.folders import combine, open_each
from dgbench.report.networks import networks_frame
from dgbench.report.pick_frames import picks_frame
from dgbench.report.plots import Plots
from dgbench.report.predictions.frame import metrics_frame
from dgbench.report.record_frames import finished_series, records_frame, streams_frame
from dgbench.report.results import Results
from dgbench.report.run_frames import add_hparams, runs_frame
from dgbench.report.select import Selector
from dgbench.report.selectors import default_selectors, selectors
from dgbench.report.sensitivity import sensitivity_frame
from dgbench.report.series import Series, read_series, series_frame
from dgbench.report.tables import Columns, Report, build, shortfall

if TYPE_CHECKING:
    import pandas as pd

AVERAGES = "Averages"
"""Name in place of the data set in those lines of a table's frame that are averages over data sets."""


def load_results(*folders: Path | str) -> SweepResults:
    """Read sweep folders, dgbench's or DomainBed's, finished or not, as one result.

    Args:
        *folders: One folder or more. Rows of several stand in common tables, as in `dgbench collect A B`.

    Returns:
        The results, of which each attribute and method gives a frame.

    Raises:
        UserError: A folder holds no sweep, or folders differ in what decides a number; each difference is named.
    """
    if not folders:
        raise UserError("load_results() takes the folder of a sweep, or several")
    parts = open_each(folders, all_metrics=True)
    return SweepResults(parts, combine(parts))


class SweepResults:
    """The results of one or several sweep folders as frames of pandas; made by `load_results`.

    It holds what was read when it was made: load again to see runs that finished since. Accuracies in `records` and
    `picks` lie in [0, 1] as in the folder; those of `table` are in percent, as printed.
    """

    def __init__(self, parts: Mapping[str, Results], results: Results) -> None:
        self.parts = parts
        """Folder -> its own results."""
        self.results = results
        """The results of all folders together, as selectors and tables take them."""

    def __repr__(self) -> str:
        runs = {candidate.run for *_, candidate in finished_series(self.results)}
        rows, sets = len(self.results.rows), len(self.results.datasets)
        return f"<{len(runs)} finished runs of {', '.join(self.parts)}: {rows} rows on {sets} data sets>"

    @cached_property
    def records(self) -> pd.DataFrame:
        """Every value that finished runs recorded, one a line.

        Columns:
            row, dataset, held_out, run, predictor, domain, part, metric (category): `held_out` joins several domains
                by `+`; `metric` is the data set's own first, then `loss` and others where they were recorded.
            trial, hparams_seed, step (int32): trial -1 is a merger of all trials.
            value (float64): NaN where the value was no number.
        """
        return records_frame(self.results)

    @cached_property
    def streams(self) -> pd.DataFrame:
        """The accuracy along the streams that adapters were shown (`--stream`), one part of a view's stream a line.

        Columns:
            row, dataset, held_out, run, domain, part (str): `part` is that of the domain, as in `records`.
            trial, hparams_seed, step, tenth (int64): tenths of the view's examples as they came, counted from 0.
            accuracy (float64): in [0, 1].
        """
        return streams_frame(self.results)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Every run that the sweeps ask for, one a line, finished or not.

        Columns:
            folder, run, kind, method, dataset, held_out, state, why (category or str): `why` is the error of a run
                that failed or is damaged.
            trial, hparams_seed (int64).
            seconds, peak_bytes (float64), host, device (str): of its last execution; missing before it is finished.
            hparams.NAME, hparams.AVERAGE.NAME, setting.NAME: each hyperparameter of the method and of its averages,
                and each field of the run's setting; missing before it is begun, and where a run has none of this name.
                Integers are Int64, other numbers float64, yes and no boolean, all else str.
        """
        return runs_frame(self.parts)

    @cached_property
    def analyses(self) -> pd.DataFrame:
        """Every number that analyses found, one a line; `dgbench analyze` makes them.

        Columns:
            row, analysis, dataset, held_out, role, view, measure (category): `analysis` is the name with its
                values, if any (`Sharpness:m=64`); `role` is `training`, `validation` or `held out`, the part that the
                view has in the fold; `all`, with an empty view, of a number that belongs to no single view.
            run, models (str): ids of the analysis and of the run that it measured; several are joined by `+`.
            trial, hparams_seed, step (int64).
            value, in_domain, out_of_domain (float64): the last two are the measured model's score on the training
                domains' validation parts and on the test views; NaN where several models were compared.
        """
        return analyses_frame(self.parts)

    def series(self, analysis: str, name: str | None = None) -> pd.DataFrame:
        """Return a series that an analysis found, data of curves, surfaces or pictures, one point a line.

        Args:
            analysis: Name of the analysis.
            name: Name of the series; None if the analysis has a single one.

        Returns:
            A frame with the columns row, analysis, dataset, held_out, run, models, trial, hparams_seed, step, role and
            view as in `analyses`, and those of the series, which `dgbench list analyses NAME` names.

        Raises:
            UserError: No run has found it, or the analysis has several and none is named.
        """
        return series_frame(self.found_series, analysis, name)

    @cached_property
    def found_series(self) -> tuple[Series, ...]:
        """Return every series of every finished run of an analysis, as figures take them."""
        return tuple(read_series(self.parts))

    def agreement(self) -> pd.DataFrame:
        """Return how the order of runs by each measure of `analyses` agrees with their order by accuracy.

        Returns:
            A line for each analysis, measure and role: runs (int64) and Kendall's tau-b, within data set and held-out
            domain and averaged over these, with the 95 % interval over resampled runs: tau, low, high (float64) with
            out-of-domain accuracy, tau_gap, low_gap, high_gap with in-domain less out-of-domain accuracy.
        """
        return agreement(self.analyses)

    @property
    def plot(self) -> Plots:
        """Return the figures of the report as methods that draw on axes of matplotlib, as in `plot.accuracy()`."""
        return Plots(self)

    @cached_property
    def networks(self) -> pd.DataFrame:
        """The network of each data set, as `dgbench collect` prints it below its tables.

        Columns:
            dataset, architecture, trained_on (str): what its weights were trained on is empty for random ones.
            pretrained (bool).
            weights (str): hash of the weights that runs began with; several are joined by `|`.
            parameters, most_parameters (Int64): they differ where rows have networks of their own.
            inputs, batch_norm, precision (str): `inputs` is the shape of one, as `3 x 224 x 224`.
            shares (str): what the data set and the pretraining have in common; empty: nothing that is known.

            Empty text, and a missing number, stand for what the folder doesn't record.
        """
        return networks_frame(self.results)

    def cost(self) -> pd.DataFrame:
        """Return time, speed and memory of the runs behind each row, as `dgbench collect --cost` prints them.

        Returns:
            A line for each row and data set, and one of row `all rows` that counts each of the data set's runs once,
            with the columns row, dataset (str), runs, untimed (int64: finished runs, and those without a recorded
            time), seconds, hours, gpu_hours (float64: of all runs, added up), steps_per_second (float64: in training
            runs, with their evaluations), peak_bytes, host_bytes (Int64: most GPU memory and main memory of a run).
        """
        return cost_frame(costs(self.results, self.parts))

    def picks(self, selector: str | None = None) -> pd.DataFrame:
        """Return the choices of a selector, one line for each row, data set, fold and trial.

        Args:
            selector: Its name; None for the first of `dgbench collect`.

        Returns:
            A frame with the columns row, dataset, held_out, run, predictor (category or str; `run` is empty where no
            draw is complete), trial (int64), hparams_seed, step (Int64), score, in_domain, value (float64: on the test
            views, on the training domains' validation parts, and what it was chosen by), diverged (bool), complete,
            planned, lacking (int64: draws that could be rated, draws that the sweep should have, and runs that the
            others lack), and `hparams.NAME` for each hyperparameter of the chosen runs.
        """
        return add_hparams(picks_frame(self.results, self._selector(selector)), self.parts)

    def table(
        self,
        selector: str | None = None,
        *,
        style: str | None = None,
        partial: bool = False,
        columns: Columns = "domain",
    ) -> pd.DataFrame:
        """Return the tables of `dgbench collect` under one selector, a cell a line, in percent.

        Args:
            selector: Its name; None for the first of `dgbench collect`.
            style: What `error` is: `domainbed` (or `standard-error`), `wilds` (the standard deviation over trials, and
                for `Avg` over ways of splitting, if there are several), `std` (over trials always), `t-interval` or
                `bootstrap-interval` (half of the width of the 95 % interval), or `sampling` (binomial, by the number of
                test examples). Under all but the first the column `Avg` has an error too. None: `wilds` for data with
                fixed splits, else `domainbed`.
            partial: Whether incomplete cells have a number, as with `--partial`.
            columns: As `--columns`.

        Returns:
            A frame with the columns dataset, row, column (category; data set `Averages` is the table over data sets,
            column `Avg` the mean over columns), mean, error (float64; NaN where there is none), n (int64: trials, and
            for averages the means that they are over), partial, diverged (bool), lacking (int64: runs that the cell
            lacks) and why (str: why there is no number). `attrs` has the lines below the tables.
        """
        import pandas as pd

        kind = STYLES.get(style, style) if style else default_kind(self.results)
        if kind not in KINDS:
            raise UserError(unknown_name("style", kind, {**STYLES, **KINDS}))
        report = with_errors(self.report(selector, partial=partial, columns=columns, once=kind == WILDS), kind)
        frame = pd.DataFrame.from_records(list(_cells(report)), columns=_CELL_COLUMNS)
        names = [table.dataset or AVERAGES for table in report.tables]
        frame["dataset"] = pd.Categorical(frame["dataset"], categories=list(dict.fromkeys(names)), ordered=True)
        frame["row"] = pd.Categorical(frame["row"], categories=list(self.results.rows), ordered=True)
        frame["column"] = pd.Categorical(frame["column"], categories=list(dict.fromkeys(frame["column"])), ordered=True)
        frame = frame.astype({"mean": "float64", "error": "float64", "n": "int64", "lacking": "int64"})
        frame.attrs["signatures"] = [{"dataset": n, **t.signature} for n, t in zip(names, report.tables, strict=True)]
        frame.attrs["notes"] = [*(note for table in report.tables for note in table.notes), *report.notes]
        return frame

    def compare(self, first: str, second: str, selector: str | None = None) -> pd.DataFrame:
        """Compare two rows within trials and folds, the first minus the second, in percentage points.

        Returns:
            A line for each data set, with the columns dataset (str), difference, low, high (float64: the mean over
            folds and trials, with Student's 95 % interval over trials), bootstrap_low, bootstrap_high (float64: trials
            resampled within folds), p, p_holm (float64: Wilcoxon's test over fold x trial, and corrected over data
            sets), pairs, trials (int64), refused (str: why there is no interval: fewer than 3 trials have none).
        """
        return study_frames.comparison(self.results, self._selector(selector), first, second)

    def statistics(self, selector: str | None = None, *, reference: str | None = None) -> pd.DataFrame:
        """Return the statistics of `dgbench collect --statistics`, a line for each data set and row, in percent.

        Args:
            selector: Its name; None for the first of `dgbench collect`.
            reference: The row that others are compared with; None for the baseline, ERM, or else the first.

        Returns:
            A frame with the columns dataset, row (str), mean, low, high (float64: of the mean over folds, with its
            interval over trials), trials (int64), delta, delta_low, delta_high, p_holm (float64: against the
            reference), tied (bool: with the best), settled_by (float64: trials that find a difference of a point),
            worst, across (float64: lowest fold, and standard deviation over folds), sampling (float64: standard error
            for test sets of this size), candidates (int64), lost (float64: against the oracle), refused (str).
        """
        return study_frames.statistics(self.results, self._selector(selector), reference)

    def metrics(
        self,
        selector: str | None = None,
        names: Sequence[str] = (),
        *,
        examples: Path | str | None = None,
        partial: bool = False,
    ) -> pd.DataFrame:
        """Return metrics of the chosen models' kept predictions on the test domains; see `dgbench collect --metrics`.

        Args:
            selector: Its name; None for the first of `dgbench collect`.
            names: Metrics, keys of `METRICS`; empty for all.
            examples: A file that lists examples, as for `dgbench collect --examples`: gives the metrics `listed` and
                `others` too. None for neither.
            partial: Whether choices count that stand on fewer runs than planned.

        Returns:
            A line for each row, data set, fold, trial, metric and, of `per_class`, class, with the columns row,
            dataset, held_out, metric, of_class (str; empty for all classes), trial (int64), value (float64: shares in
            [0, 1]; NaN where there is none) and why (str: why there is none).
        """
        return metrics_frame(self.results, self._selector(selector), names, examples, partial)

    def ranks(self, selector: str | None = None) -> pd.DataFrame:
        """Rank the rows over data sets, or over the folds of a single one, by several rules; the best mean rank first.

        Returns:
            A frame with the columns row (str), mean_score, mean_rank, borda, copeland, minimax, bradley_terry (float64)
            and kemeny (Int64: the place in Kemeny's order; missing above 10 rows). Rows without a complete trial
            everywhere are left out. `attrs` has voters, friedman (with the critical difference), groups (rows that the
            critical difference doesn't part), winners (by rule) and notes.
        """
        return study_frames.ranking(self.results, self._selector(selector))

    def selection(self, *names: str) -> pd.DataFrame:
        """Return the accuracy that selectors lost at each row, data set, fold and trial, in percent.

        Args:
            *names: Selectors; without any, those of `dgbench collect`.

        Returns:
            A frame with the columns selector, row, dataset, held_out (str), trial (int64), score, oracle, best, lost
            (float64): the score of the selector's choice, that of the oracle's choice, the best of all models that
            were evaluated, and oracle - score.
        """
        return study_frames.selection(self.results, selectors(names) or default_selectors(self.results))

    def correlations(self) -> pd.DataFrame:
        """Return how validation and test accuracy go together over all runs and steps of each row and fold.

        Returns:
            A frame with the columns row, dataset, held_out (str), pearson, spearman (float64), models (int64), refused
            (str: why there is no correlation).
        """
        return study_frames.correlations(self.results)

    def sensitivity(self, selector: str | None = None) -> pd.DataFrame:
        """Return the rows that name values (`SAM:rho=0.1`, as of `--grid`) by method and value, in percent.

        Returns:
            A line for each of these rows, data set and column of its table, with the columns dataset, method (str: the
            row without values), row, column (str: `Avg` is the mean over several), `hparams.NAME` for each value that
            some row names, in_domain, in_domain_error, out_of_domain, error (float64: of the chosen models on the
            training domains' validation parts and on the held-out domain, with standard errors over trials), n (int64:
            trials) and lacking (int64: runs without which there is no number).
        """
        return sensitivity_frame(self.report(selector), self.results.ddof)

    def search(self, selector: str | None = None) -> pd.DataFrame:
        """Return the expected result of a search with 1 to n draws, exactly, over all subsets of the draws.

        Returns:
            A frame with the columns row, dataset, held_out (str), draws (int64), mean, std (float64: expected score in
            percent, and its standard deviation over subsets; means over trials), trials (int64).
        """
        return study_frames.search(self.results, self._selector(selector))

    def report(
        self,
        selector: str | None = None,
        *,
        partial: bool = False,
        columns: Columns = "domain",
        once: bool = False,
    ) -> Report:
        """Return the tables under one selector as `dgbench collect` builds them, by the arguments of `tables.build`."""
        chosen = self._selector(selector)
        report = build(self.results, [chosen], partial, columns, once)
        if not report.tables:
            raise UserError(*report.absent)
        return report

    def _selector(self, name: str | None) -> Selector:
        """Return the selector of this name, or the first of the default ones."""
        (chosen, *_) = selectors([name]) if name else default_selectors(self.results)
        return chosen


_CELL_COLUMNS = ("dataset", "row", "column", "mean", "error", "n", "partial", "diverged", "lacking", "why")


def _cells(report: Report) -> Iterator[tuple[Any, ...]]:
    """Yield the lines of `SweepResults.table`."""
    for table in report.tables:
        for row, cells in table.rows.items():
            for cell in cells:
                found = cell.estimate
                numbers = (found.mean, found.error, found.n) if found else (None, None, 0)
                why = "" if found else shortfall(cell.gaps)
                marks = cell.partial, cell.diverged, len(cell.gaps), why
                yield table.dataset or AVERAGES, row, cell.column, *numbers, *marks
