"""Write a sweep's finished runs in the format of another suite.

dgbench export runs/mine --format domainbed --output_dir exported
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dgbench import cli
from dgbench.core.errors import Problems, UserError
from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.core.wording import unknown_name
from dgbench.plan import planfile
from dgbench.plan.planfile import PlanTable, read_plan
from dgbench.report.domainbed.folder import ENVIRONMENTS, RunArgs, accuracy_key, write_run
from dgbench.report.results import Results, Series, read_results
from dgbench.store.run_folder import RunFolder

FORMATS = ("domainbed",)


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench export", doc=__doc__)
    found.add_folder("input_dir", "the sweep's folder")
    found.add_argument("--output_dir", type=Path, required=True, help="folder to write to: new, or empty")
    found.add_argument("--format", required=True, help=f"one of {', '.join(FORMATS)}")
    return found


def main(argv: Sequence[str]) -> int:
    """Write every finished candidate of every row as a run of its own, and say how many; return 0."""
    args, problems = parser().parse_args(argv), Problems()
    if args.format not in FORMATS:
        problems.add(unknown_name("format", args.format, FORMATS))
    if args.output_dir.exists() and (not args.output_dir.is_dir() or any(args.output_dir.iterdir())):
        problems.add(f"--output_dir {args.output_dir} holds something already: name a new folder")
    if not (args.input_dir / planfile.FILE).exists():
        problems.add(f"--input_dir {args.input_dir} holds no sweep: there is no {planfile.FILE} in it")
    problems.raise_if_any()
    table, results = read_plan(args.input_dir), read_results(args.input_dir)
    if table.protocol != LeaveOneDomainOut.name:
        raise UserError(
            f"DomainBed knows the protocol {LeaveOneDomainOut.name!r} alone, the sweep's is {table.protocol!r}"
        )
    written = sum(1 for _ in _write(args.input_dir, args.output_dir, table, results))
    print(f"wrote {written} runs to {args.output_dir}")
    for dataset in results.datasets:
        if dataset not in ENVIRONMENTS:
            print(f"DomainBed has no data set called {dataset}: its collect_results prints no table of it")
    for note in results.notes:
        print(note)
    return 0


def _write(source: Path, root: Path, table: PlanTable, results: Results) -> Iterator[Path]:
    hparams: dict[str, Mapping[str, Any]] = {}
    for (row, dataset), spots in results.candidates.items():
        domains = table.datasets[dataset].domains
        steps = table.setting.steps or table.datasets[dataset].steps
        for (position, trial), seeds in spots.items():
            fold = results.folds[position]
            for seed, series in seeds.items():
                if not isinstance(series, Series):
                    continue
                if series.run not in hparams:
                    hparams[series.run] = RunFolder(source, series.run).run().method.hparams
                test_envs = tuple(domains.index(domain) for domain in fold.held_out)
                args = RunArgs(dataset, row, test_envs, seed, trial)
                plain = args.to_json(steps, table.setting.holdout_fraction)
                yield write_run(root, plain, hparams[series.run], _records(series, domains))


def _records(series: Series, domains: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a record for each step; only views that were evaluated."""
    keys = [accuracy_key(domains.index(view.domain), view.part) for view in series.views]
    for step, accuracies in zip(series.steps, series.values.tolist(), strict=True):
        yield {"step": step, **dict(zip(keys, accuracies, strict=True))}


if __name__ == "__main__":
    sys.exit(cli.run(main))
