"""Write a report as a tidy table, a row for each trial of each cell: CSV for spreadsheets, Parquet for programs.

How the numbers were made stands once, in a file beside (`signature`), not in every row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from dgbench.core.errors import UserError
from dgbench.core.wording import printable
from dgbench.report.document import joined_signature, shown
from dgbench.report.tables import AVERAGE, Cell, Report

Value: TypeAlias = "str | int | float | bool | None"

FIELDS: Mapping[str, str] = {
    "selector": "string",
    "dataset": "string",
    "metric": "string",
    "row": "string",
    "domain": "string",
    "trial": "Int64",
    "score": "Float64",
    "in_domain": "Float64",
    "hparams_seed": "Int64",
    "step": "Int64",
    "run": "string",
    "state": "string",
    "candidates": "Int64",
    "lacking": "Int64",
}
"""Column -> its type in pandas.

`score` and `in_domain` are in per cent for accuracies. `state` is `complete`, `partial` (some hyperparameter seeds lack
a result), `diverged` (the chosen model ended with a loss or metric that is no number) or `missing`. `candidates` counts
the hyperparameter seeds that were chosen from, `lacking` those without a result. `trial` is -1 for rows with one model
of all trials.
"""


def rows(report: Report) -> Iterator[dict[str, Value]]:
    """Yield a row for each trial of each cell of the data sets' tables; means over domains and data sets have none."""
    for table in report.tables:
        for name, cells in table.rows.items() if table.dataset else ():
            whole = {cell.column: cell for cell in cells}
            for cell in cells:
                if cell.column == AVERAGE and cell is cells[-1]:
                    continue
                shared = {
                    "selector": table.selector.name,
                    "dataset": table.dataset,
                    "metric": table.metric,
                    "row": name,
                    "domain": cell.column,
                }
                # A single one of several test domains holds no choices: they are the fold's.
                source = cell if cell.trials else _fold_of(cell, whole)
                if not source.trials:
                    yield {**dict.fromkeys(FIELDS), **shared, "state": "missing", "lacking": len(cell.gaps)}
                for trial, outcome in source.trials.items():
                    yield {**shared, "trial": trial, **_chosen(outcome, cell.domain)}


def _fold_of(cell: Cell, whole: Mapping[str, Cell]) -> Cell:
    """Return the cell of the fold that a single test domain is of."""
    fold = cell.column.removesuffix(f": {cell.domain}")
    if fold != cell.column:
        return whole[fold]
    return next((other for other in whole.values() if other.trials), cell)


def _chosen(outcome: Any, domain: str) -> dict[str, Value]:
    """Return the fields of one trial's choice."""
    pick, lacking = outcome.pick, outcome.planned - outcome.complete
    values: dict[str, Value] = dict.fromkeys(list(FIELDS)[6:])
    values |= {"candidates": outcome.complete, "lacking": lacking, "state": "missing"}
    if pick:
        score = pick.by_domain[domain] if domain else pick.score
        values |= {"score": 100 * score, "hparams_seed": pick.hparams_seed, "step": pick.step, "run": pick.run}
        values["in_domain"] = None if pick.in_domain is None else 100 * pick.in_domain
        values["state"] = "diverged" if pick.diverged else "partial" if lacking else "complete"
    return values


def select(found: Sequence[Mapping[str, Value]], columns: Sequence[str], sort: str) -> list[dict[str, Value]]:
    """Keep some columns, in the order given, and sort by one: numbers from the highest, texts from A, None last.

    Args:
        found: Rows.
        columns: Names of `FIELDS`; none: all.
        sort: Name of the column to sort by; empty: the order of the tables.
    """
    ordered = list(found)
    if sort:
        numbers = FIELDS[sort] != "string"
        there = [row for row in ordered if row[sort] is not None]
        there.sort(key=lambda row: row[sort], reverse=numbers)  # type: ignore[arg-type, return-value]
        ordered = there + [row for row in ordered if row[sort] is None]
    return [{name: row[name] for name in columns or FIELDS} for row in ordered]


def as_csv(report: Report, columns: Sequence[str] = (), sort: str = "") -> str:
    """Format a report as CSV, numbers in full precision; see `select` for the arguments."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(columns or FIELDS), lineterminator="\n")
    writer.writeheader()
    for row in select(list(rows(report)), columns, sort):
        writer.writerow({name: _escape(value) if isinstance(value, str) else value for name, value in row.items()})
    return file.getvalue()


def write_parquet(report: Report, path: Path, columns: Sequence[str] = (), sort: str = "") -> None:
    """Write a report as a Parquet file; see `select` for the arguments.

    Raises:
        UserError: pyarrow isn't installed.
    """
    if find_spec("pyarrow") is None:
        raise UserError("Parquet needs pyarrow: pip install 'dgbench[parquet]', or write --format csv")
    # Inside the function: tables do without pandas.
    import pandas as pd

    found = select(list(rows(report)), columns, sort)
    frame = pd.DataFrame({n: pd.array([r[n] for r in found], dtype=FIELDS[n]) for n in columns or FIELDS})
    frame.to_parquet(path, index=False)


def signature(report: Report) -> bytes:
    """Return JSON that says how the numbers were made: facts by key, warnings and notes."""
    tables = shown(report)
    content = {
        "signature": joined_signature(tables),
        "reads": {table.selector.name: table.reads for table in tables},
        "fields": FIELDS,
        "notes": list(dict.fromkeys((*(note for table in tables for note in table.notes), *report.notes))),
        "absent": report.absent,
        "networks": report.networks,
    }
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _escape(text: str) -> str:
    """Escape a text so that a spreadsheet shows it and doesn't evaluate it.

    A text that begins as a formula does gets a leading apostrophe; a domain may be named `+90%`. Control characters, a
    leading tab among them, are escaped first.
    """
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
