"""Turn a report into the texts that all of its written forms share: tables of cells, the signature, notes.

A document has one signature for all of its tables. A fact that differs between selectors names the selector that it
holds for. DomainBed's form, which shows tables one by one, has the signature of each below it (`below`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from dgbench.core.wording import group_values, printable
from dgbench.report.networks import MARK
from dgbench.report.results import WARNING
from dgbench.report.tables import Report, Section, Table

MOST_NOTES = 20
"""Most notes printed below a table; JSON has all of them."""

SIGNATURE_LINES = (
    "protocol, metric, selector, preset, trials, +/-",
    "reported",
    "trials vary",
    "chosen once",
    "Δ",
    "not tested",
    "beside the preset",
    "hparams, runs, diverged, merged",
    "evaluated steps",
    "search",
    "shown of the test domain",
    "folders",
    "data, commit, methods from",
)
"""Keys of the signature that share a line; all others share the last."""


SHORT = ("protocol", "preset", "reported", "trials", "trials vary", "+/-", "Δ", "collected by")
"""Keys of the signature that a short note has."""

_OF_ALL = (WARNING, "* ", "! ", f"{MARK} ")
"""Beginnings of notes that hold for the whole document, and stand below all tables."""


def marked(report: Report) -> Report:
    """Return a report for readers, in which data sets that share examples with pretraining have a mark and a note."""
    marks = {line.dataset: line for line in report.networks if line.shares}

    def mark(table: Table) -> Table:
        columns = table.columns
        if not table.dataset:
            columns = tuple(f"{name}{MARK if name in marks else ''}" for name in columns)
        notes = (line.footnote for name, line in marks.items() if name == table.dataset or name in table.columns)
        ending = MARK if table.dataset in marks else ""
        return replace(table, mark=ending, columns=columns, notes=(*table.notes, *notes))

    return replace(report, tables=tuple(map(mark, report.tables))) if marks else report


def shown(report: Report) -> list[Table]:
    """Return the tables that a document shows: averages over data sets only if there are several."""
    several = len({table.dataset for table in report.tables if table.dataset}) > 1
    return [table for table in report.tables if table.dataset or several]


def own_notes(report: Report) -> Iterator[tuple[Table, list[str]]]:
    """Yield each shown table with the printable lines that stand right below it: what holds for it alone.

    A note stands once for each data set, below the first of its tables.
    """
    seen: set[tuple[str, str]] = set()
    for table in shown(report):
        notes = [note for note in table.notes if not note.startswith(_OF_ALL) and (table.dataset, note) not in seen]
        seen |= {(table.dataset, note) for note in notes}
        yield table, [*map(printable, (*_in_domain(table), *_first_notes(notes)))]


def closing(report: Report) -> Iterator[str]:
    """Yield the printable lines below all tables of a document: the signature, warnings, marks, what is absent."""
    tables = shown(report)
    yield from map(printable, _lines(joined_signature(tables)))
    reads = _by_selector((table.reads, table.selector.name) for table in tables)
    yield from (printable(f"reads: {text}") for text in ([reads] if reads else []))
    notes = (note for table in tables for note in table.notes if note.startswith(_OF_ALL))
    yield from map(printable, dict.fromkeys(notes))
    yield from map(printable, map(str, report.networks))
    yield from remarks(report)


def short_signature(table: Table) -> str:
    """Return the few facts of a table without which its numbers can't be read, in one line."""
    return printable(_one_line({key: table.signature[key] for key in SHORT if key in table.signature}))


def joined_signature(tables: Sequence[Table]) -> dict[str, str]:
    """Join the signatures of several tables: a fact that all share stands alone, others name their selector.

    Tables of one selector are joined first: the one over all data sets speaks for the others.
    """
    widest: dict[str, list[Table]] = {}
    for table in tables:
        mine = widest.setdefault(table.selector.name, [])
        # The averages' signature is over all data sets, so it holds what their own tables' have.
        mine[:] = [table] if not table.dataset else [*mine, table]
    found: dict[str, str] = {}
    several = [table for mine in widest.values() for table in mine]
    for key in dict.fromkeys(key for table in several for key in table.signature if key != "selector"):
        alike = len({name for name, mine in widest.items() if len(mine) > 1}) == 0
        values = (
            (table.signature[key], table.selector.name if alike else f"{table.dataset}, {table.selector.name}")
            for table in several
            if key in table.signature
        )
        found[key] = _by_selector(values, len(several))
    return found


def _by_selector(values: Iterator[tuple[str, str]] | list[tuple[str, str]], number: int = 0) -> str:
    """Join (text, name) pairs: a text that holds for all names stands alone."""
    groups = group_values(dict.fromkeys(values))
    if len(groups) == 1 and len(next(iter(groups.values()))) >= number:
        return next(iter(groups))
    return "; ".join(f"{text} [{', '.join(names)}]" for text, names in groups.items())


def below(table: Table) -> Iterator[str]:
    """Yield the printable lines below a table that stands alone: its signature, the records read, notes."""
    lines = (*_lines(table.signature), f"reads: {table.reads}", *_in_domain(table), *_first_notes(table.notes))
    yield from map(printable, lines)


def remarks(report: Report) -> Iterator[str]:
    """Yield the printable lines that hold for no table: what is absent, and findings in the folder."""
    yield from map(printable, (*report.absent, *_first_notes(report.notes)))


def _in_domain(table: Table) -> Iterator[str]:
    """Yield the line of in-domain values, if there are any."""
    if table.in_domain:
        values = ", ".join(f"{row} {100 * accuracy:.1f}" for row, accuracy in table.in_domain.items())
        yield f"in-domain {table.metric} of what was chosen (training domains' validation parts): {values}"


def cells(table: Table, plus_minus: str = "+/-") -> list[list[str]]:
    """Return the printable texts of a table, its header first."""
    rows, last = table.rows.items(), table.differences
    header = ["Algorithm", *table.columns, *([last.column] if last else [])]
    texts = (
        [row, *(str(cell).replace("+/-", plus_minus) for cell in found), *([last.text(row)] if last else [])]
        for row, found in rows
    )
    return [[printable(text) for text in row] for row in (header, *texts)]


def section_cells(section: Section, plus_minus: str = "+/-") -> list[list[str]]:
    """Return the printable texts of a section, its header first."""
    return [[printable(text.replace("+/-", plus_minus)) for text in row] for row in section.cells]


def _first_notes(notes: Sequence[str]) -> Iterator[str]:
    """Yield the first notes, then a line that counts the others."""
    yield from notes[:MOST_NOTES]
    if len(notes) > MOST_NOTES:
        yield f"... and {len(notes) - MOST_NOTES} more, all of them with --format json"


def _lines(signature: Mapping[str, str]) -> Iterator[str]:
    """Yield the signature in lines, grouped by `SIGNATURE_LINES`."""
    groups = [line.split(", ") for line in SIGNATURE_LINES]
    named = {key for group in groups for key in group}
    for group in (*groups, [key for key in signature if key not in named]):
        if line := _one_line({key: signature[key] for key in group if key in signature}):
            yield line


def _one_line(signature: Mapping[str, str]) -> str:
    """Join facts of a signature in one line."""
    return " | ".join(f"{key}: {value}" for key, value in signature.items())
