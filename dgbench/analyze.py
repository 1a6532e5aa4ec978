"""Measure the models of a sweep beyond their scores, and print the numbers.

dgbench analyze Sharpness runs/mine
dgbench analyze Sharpness Curvature runs/mine --rows ERM SAM ERM+SWAD --jobs 2
dgbench analyze Diversity runs/mine --csv diversity.csv
dgbench analyze Sharpness runs/mine --set Sharpness.m=16

Each analysis is a run of the sweep like any other, for each model, each trial, or a model of each row together: planned
once, executed by the engine that `--launcher` names, resumed by the same command. Where models were not kept, the runs
train again. Values of `--set`, or behind an analysis' name (`Sharpness:m=16`), are runs beside those of other values.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench import cli
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import parse_row
from dgbench.core.cards import AnalysisCard
from dgbench.core.errors import Problems
from dgbench.core.grid import columns
from dgbench.core.paths import check_folder
from dgbench.core.row_names import words_of
from dgbench.core.wording import printable, unknown_name
from dgbench.flags import add_options
from dgbench.launchers.prepare import plan_launch
from dgbench.launchers.reconcile import Sweep
from dgbench.launchers.values import launcher_of
from dgbench.plan.changes import read_changes
from dgbench.plan.options import EXECUTING, LAUNCHER, PLACES
from dgbench.plan.planfile import read_plan
from dgbench.report.analyses import agreement, agreement_of_accuracy, analyses_frame
from dgbench.report.figures.agreement import drawings_of
from dgbench.report.figures.subject import subjects
from dgbench.report.frames import load_results
from dgbench.report.page.build import check_packages, write_drawings
from dgbench.report.selectors import default_selectors
from dgbench.report.series import Series, read_series, series_frame
from dgbench.report.tables import build
from dgbench.sweep import execute

if TYPE_CHECKING:
    import pandas as pd


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench analyze", doc=__doc__)
    found.add_argument("analyses", nargs="+", metavar="ANALYSIS", help="names, see `dgbench list analyses`")
    found.add_argument("input_dir", type=Path, metavar="DIR", help="the sweep's folder")
    found.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="only models of these rows; default: all")
    found.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="hyperparameters of the analyses, ANALYSIS.NAME=VALUE; they leave the sweep's own as they are",
    )
    add_options(found, {"data": PLACES, "where runs execute": LAUNCHER, "this machine": EXECUTING})
    shown = found.group("output")
    shown.add_argument("--shown", action="store_true", help="execute nothing, print what was found so far")
    shown.add_argument(
        "--csv", type=Path, metavar="FILE", help="write every number, a line each; series have files beside it"
    )
    shown.add_argument("--figures", type=Path, metavar="DIR", help="draw what was found there, as PDF, SVG and PNG")
    return found


def main(argv: Sequence[str]) -> int:
    """Execute the analyses as far as they are missing, and print them; return 1 if runs failed."""
    args, problems = parser().parse_args(argv), Problems()
    catalogue, table = Catalogue(args.include or ()), read_plan(args.input_dir)
    analyses: dict[str, AnalysisCard] = {}
    with problems.collecting():
        analyses = _analyses(args, catalogue)
    for name in (name for name in args.rows if name not in table.rows):
        problems.add(unknown_name("row", name, table.rows))
    if args.csv and not args.csv.parent.is_dir():
        problems.add(f"--csv {args.csv}: there is no folder {args.csv.parent}")
    if args.figures:
        with problems.collecting():
            check_folder(args.figures, "--figures")
            check_packages()
    with problems.collecting():
        launcher = launcher_of(vars(args), {})
    problems.raise_if_any()
    names = [f"{row}+{name}" for row in args.rows or table.rows for name in analyses]
    code = 0
    if not args.shown:
        places = {name: value for name, value in vars(args).items() if name != "set"}
        planned = plan_launch(args.input_dir, {"algorithms": names}, places, catalogue).with_ttl(launcher.ttl)
        launcher.check(planned)
        _refuse_unlike(planned)
        code = execute(planned, launcher)
    return _show(args, analyses) or code


def _analyses(args: Any, catalogue: Catalogue) -> dict[str, AnalysisCard]:
    """Return the analyses by name with their values, `Sharpness:m=16`; raise UserError with all that is wrong."""
    problems, known = Problems(), catalogue.of_kind("analysis")
    given: dict[str, list[str]] = {name: [] for name in args.analyses}
    own = {name: words_of(name)[0] for name in given}
    for word in own.values():
        if word not in known:
            problems.add(unknown_name("analysis", word, known))
    changes: dict[str, str] = {}
    with problems.collecting():
        changes = read_changes(args.set)
    for name, text in changes.items():
        owner, _, hparam = name.rpartition(".")
        takers = [each for each, word in own.items() if word == owner and word in known]
        if not takers:
            ways = " or ".join(f"{word}.NAME=VALUE" for word in dict.fromkeys(own.values()))
            problems.add(f"--set {name}={text}: write {ways}")
        for each in takers:
            given[each].append(f"{hparam}={text}")
    found: dict[str, AnalysisCard] = {}
    for name, values in given.items() if not problems.found else ():
        with problems.collecting():
            joint = "," if ":" in name else ":"
            named = parse_row(joint.join((name, ",".join(values))) if values else name, catalogue)
            found[named.analysis] = catalogue.get("analysis", named.analysis).card
    problems.raise_if_any()
    return found


def _refuse_unlike(planned: Sweep) -> None:
    """Raise UserError if rows are compared whose networks are unlike, as far as their models are there."""
    from dgbench.execute.analyze import refuse_unlike  # imports torch, which --help can do without

    across = {name for name, entry in planned.catalogue.of_kind("analysis").items() if entry.card.takes == "rows"}
    compared = (runs for (*_, name), runs in planned.plan.analyses.items() if name in across)
    refuse_unlike((run for runs in compared for run in runs), planned.store)


def _show(args: Any, cards: Mapping[str, AnalysisCard]) -> int:
    """Print the means of each measure, and how they go with accuracy; write the csv."""
    import pandas as pd  # as in `report.analyses`

    frame = analyses_frame([args.input_dir])
    frame = frame[frame["analysis"].isin(list(cards)) & (not args.rows or frame["row"].isin(_names_of(args.rows)))]
    rows = _names_of(args.rows)
    series = [one for one in read_series([args.input_dir]) if one.analysis in cards and (not rows or one.row in rows)]
    if args.csv:
        frame.to_csv(args.csv, index=False)
        _write_series(args, series)
    if frame.empty and not series:
        print("nothing was found yet")
        return 1
    if args.figures:
        _draw(args, frame, series)
    agreeing = pd.concat([agreement(frame), agreement_of_accuracy(frame)])
    for name, card in cards.items():
        own = frame[frame["analysis"] == name]
        print(f"\n{name}: mean over {own['run'].nunique():,} runs", *_table(_means(own)), sep="\n")
        print(*(f"  {measure}: {meaning}" for measure, meaning in card.measures.items()), sep="\n")
        if len(found := agreeing[(agreeing["analysis"] == name) & (agreeing["runs"] > 0)]):
            print(f"\n{name}: order of runs by the measure and by accuracy, Kendall's tau with 95 % interval")
            print(*_table(_taus(found)), sep="\n")
    return 0


def _names_of(rows: Sequence[str]) -> set[str]:
    """Return the names of rows as results have them: each, and those that are compared with each other as one."""
    return {*rows, ", ".join(rows)} if rows else set()


def _write_series(args: Any, found: Sequence[Series]) -> None:
    """Write each series beside the csv of the numbers, and print the paths."""
    for analysis, name in dict.fromkeys((one.analysis, one.name) for one in found):
        own = re.sub(r"[^\w.-]+", "-", analysis)  # values stand behind a colon
        path = args.csv.with_name(f"{args.csv.stem}-{own}-{name}{args.csv.suffix}")
        series_frame(found, analysis, name).to_csv(path, index=False)
        print(f"wrote {printable(str(path))}")


def _draw(args: Any, frame: pd.DataFrame, series: Sequence[Series]) -> None:
    """Write the figures of the findings on each data set."""
    results = load_results(args.input_dir)
    shown = subjects(results, build(results.results, default_selectors(results.results)))
    drawings = (drawing for subject in shown for drawing in drawings_of(subject, frame, series))
    files = list(write_drawings(drawings, args.figures))
    lacking = "nothing to draw: correlations take three runs, and no series was found"
    print(f"wrote {len(files)} files to {printable(str(args.figures))}" if files else lacking)


def _table(lines: Iterable[Sequence[str]]) -> Iterator[str]:
    return (line.rstrip() for line in columns([list(map(printable, line)) for line in lines]))


def _means(frame: pd.DataFrame) -> Iterator[Sequence[str]]:
    """Yield the cells of the means: a line for each measure and role, a column for each row."""
    rows = list(dict.fromkeys(frame["row"]))
    yield "measure", "on", *rows
    means = frame.groupby(["measure", "role", "row"], observed=True, sort=False)["value"].mean()
    for measure, role in dict.fromkeys(key[:2] for key in means.index):
        yield measure, role, *(f"{means.get((measure, role, row), math.nan):.4g}" for row in rows)


def _taus(frame: pd.DataFrame) -> Iterator[Sequence[str]]:
    """Yield the cells of the correlations: a line for each measure and role."""
    yield "measure", "on", "runs", "out-of-domain accuracy", "in-domain less out-of-domain"
    for line in frame.itertuples():
        both = (f"{t:+.2f} [{low:+.2f}, {high:+.2f}]" for t, low, high in (line[5:8], line[8:11]))
        yield line.measure, line.role, f"{line.runs}", *both


if __name__ == "__main__":
    sys.exit(cli.run(main))
