"""Export a sweep as a folder that DomainBed's collector reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dgbench.core.errors import UserError
from dgbench.core.progress import ReportProgress
from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.plan import planfile
from dgbench.plan.planfile import PlanTable, read_plan
from dgbench.report.domainbed.folder import ENVIRONMENTS, RunArgs, accuracy_key, write_run
from dgbench.report.reader import read_results
from dgbench.report.results import Results, Series
from dgbench.store.run_folder import RunFolder


def write(source: Path, target: Path, report: ReportProgress) -> Iterator[str]:
    """Write every finished candidate of every row as a run of its own; see `formats.Write`."""
    if not (source / planfile.FILE).exists():
        raise UserError(f"{source} holds no sweep of dgbench: there is no {planfile.FILE} in it")
    table, results = read_plan(source), read_results(source)
    if table.protocol != LeaveOneDomainOut.name:
        raise UserError(
            f"DomainBed knows the protocol {LeaveOneDomainOut.name!r} alone, the sweep's is {table.protocol!r}"
        )
    written = 0
    for _ in _write(source, target, table, results):
        written += 1
        report("runs", written, 0)
    yield f"wrote {written} runs to {target}"
    for dataset in results.datasets:
        if dataset not in ENVIRONMENTS:
            yield f"DomainBed has no data set called {dataset}: its collect_results prints no table of it"
    yield from results.notes


def _write(source: Path, root: Path, table: PlanTable, results: Results) -> Iterator[Path]:
    hparams: dict[str, Mapping[str, Any]] = {}
    for (row, dataset), spots in results.candidates.items():
        domains = table.datasets[dataset].domains
        setting = table.setting_on(dataset)
        steps = setting.steps or table.datasets[dataset].steps
        for (position, trial), seeds in spots.items():
            fold = results.folds[position]
            for seed, series in seeds.items():
                if not isinstance(series, Series):
                    continue
                if series.run not in hparams:
                    hparams[series.run] = RunFolder(source, series.run).run().method.hparams
                test_envs = tuple(domains.index(domain) for domain in fold.held_out)
                args = RunArgs(dataset, row, test_envs, seed, trial)
                plain = args.to_json(steps, setting.holdout_fraction)
                yield write_run(root, plain, hparams[series.run], _records(series, domains))


def _records(series: Series, domains: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a record for each step; only views that were evaluated."""
    keys = [accuracy_key(domains.index(view.domain), view.part) for view in series.views]
    for step, accuracies in zip(series.steps, series.values.tolist(), strict=True):
        yield {"step": step, **dict(zip(keys, accuracies, strict=True))}
