"""Read published numbers, and set them beside measured ones of a like protocol.

The files of `dgbench/published` (`results/published` in a checkout) hold tables as papers and repositories print them:
each block with its source, protocol, selector, network, and the family of baseline that it was compared with. Published
numbers of one method differ between sources by more than most gains, so a block is shown only beside a table that was
made alike (`reasons_against`), and every method's gain over the baseline of its own block stands beside the number.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from dgbench.core.errors import Problems, UserError
from dgbench.core.plain import from_plain
from dgbench.core.setting import Setting
from dgbench.core.stats import Estimate
from dgbench.core.wording import format_value, unknown_name
from dgbench.networks.backbones import SMALL
from dgbench.report.results import Results
from dgbench.report.selectors import SELECTORS
from dgbench.report.tables import Report, Section, Table, over_domains

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parents[1] / "published"
"""The package's files, one a source."""
FAMILIES = "families.toml"
"""Name of the file that names the baseline, and lists its numbers as blocks are built on them."""
LEAST_STEPS = 5_000
"""Fewest training steps of a sweep to be set beside a block that names none: DomainBed's, rounded down."""
_SIDE = 224
"""Image side in pixels of the published numbers, which are all of networks for ImageNet where images are large."""

_CELL = re.compile(r"(\d+(?:\.\d+)?)(?:±(\d+(?:\.\d+)?))?")


class Printed(NamedTuple):
    """A number as it is printed."""

    mean: float
    """In percent."""
    error: float | None
    """The number behind its ±, in percent; None if there is none."""


@dataclass(frozen=True)
class PublishedRow:
    """A line of a published table."""

    cells: tuple[Printed | None, ...]
    """A number for each column of the block; None where none is printed."""
    average: float | None = None
    """The average that is printed beside them, over all columns."""
    row: str = ""
    """The row of dgbench that it corresponds to; empty if none does."""
    note: str = ""
    misprinted: bool = False
    """Whether the printed average isn't that of the columns."""


@dataclass(frozen=True)
class Block:
    """A published table, or the part of one that has one network and one selector. Made by `read_blocks`."""

    name: str
    protocol: str
    """Name of the protocol, dgbench's where it has it."""
    network: str
    """The network and its pretraining, in words."""
    source: str
    """Paper or repository, and the place in it."""
    reading: str
    """How the numbers were read: printed text, a figure, scanned text."""
    columns: tuple[str, ...]
    """Data sets, each with its metric behind a space where that is not accuracy."""
    rows: Mapping[str, PublishedRow] = field(default_factory=dict)
    """Name as printed -> its line."""
    selector: str = ""
    """Name of the selector; empty if the source doesn't say."""
    backbone: str = ""
    """dgbench's name of the network, with its weights where the source says which; empty if none is equal."""
    backbones: Mapping[str, str] = field(default_factory=dict)
    """Data set -> the same, where it differs from `backbone`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of `Setting` that the source fixes."""
    steps: int | None = None
    draws: int | None = None
    """Hyperparameter draws, where the source says."""
    trials: int | None = None
    baseline: str = ""
    """The row over which gains are taken."""
    family: str = ""
    """Key in `FAMILIES` of the baseline's numbers in this block; empty if they stand in no other source."""
    unit: str = "per cent"
    note: str = ""
    statements: tuple[str, ...] = ()
    """Further numbers of the source that have no place in its table."""

    def metrics(self) -> dict[str, list[tuple[int, str]]]:
        """Return data set -> (index of the column, metric) of each of its columns."""
        found: dict[str, list[tuple[int, str]]] = {}
        for place, column in enumerate(self.columns):
            dataset, _, metric = column.partition(" ")
            found.setdefault(dataset, []).append((place, metric or "accuracy"))
        return found


def read_families(folder: Path = FOLDER) -> dict[str, PublishedRow]:
    """Return key -> the baseline's numbers, as different authors ran or quoted it."""
    content = _load(folder / FAMILIES)
    return {key: _row(dict(values), f"{FAMILIES}: {key}") for key, values in content["families"].items()}


def read_blocks(folder: Path = FOLDER) -> tuple[Block, ...]:
    """Read all published tables, sorted by file.

    Raises:
        UserError: A file can't be read, or a block lacks something or contradicts itself: everything at once.
    """
    problems, blocks, families = Problems(), [], read_families(folder)
    baseline = _load(folder / FAMILIES)["baseline"]
    for path in sorted(folder.glob("*.toml")):
        if path.name == FAMILIES:
            continue
        with problems.collecting():
            content = _load(path)
            shared = {"baseline": baseline, **{key: content.get(key) for key in ("source", "reading")}}
            for number, raw in enumerate(content.get("block", ())):
                where = f"{path.name}, block {number + 1}"
                with problems.collecting():
                    blocks.append(_block({**shared, **raw}, where, families))
    problems.raise_if_any()
    return tuple(blocks)


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from None


def _block(raw: Mapping[str, Any], where: str, families: Mapping[str, PublishedRow]) -> Block:
    """Make a block from its TOML; `where` names it in messages."""
    problems, rows = Problems(), {}
    for name, values in raw.get("rows", {}).items():
        with problems.collecting():
            rows[name] = _row(dict(values), f"{where}, {name}")
    problems.raise_if_any()
    try:
        block = from_plain(Block, {**raw, "rows": rows})
    except TypeError as error:
        raise UserError(f"{where}: {error}") from None
    if block.selector and block.selector not in SELECTORS:
        problems.add(f"{where}: {unknown_name('selector', block.selector, SELECTORS)}")
    if block.family and block.family not in families:
        problems.add(f"{where}: {unknown_name('family', block.family, families)}")
    for name, row in block.rows.items():
        if len(row.cells) != len(block.columns):
            problems.add(f"{where}, {name}: {len(row.cells)} numbers for {len(block.columns)} columns")
    problems.raise_if_any()
    return block


def _row(values: dict[str, Any], where: str) -> PublishedRow:
    """Make a line from its TOML, whose numbers stand in one text: `85.5±0.2 77.5 -`."""
    values.pop("where", None)
    text = values.pop("cells", None)
    if not isinstance(text, str):
        raise UserError(f"{where}: cells is a text of numbers, not {format_value(text)}")
    try:
        return from_plain(PublishedRow, {**values, "cells": tuple(map(_cell, text.split()))})
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None


def _cell(text: str) -> Printed | None:
    if text == "-":
        return None
    found = _CELL.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no number: 85.5, 85.5±0.2 and - are")
    return Printed(float(found[1]), None if found[2] is None else float(found[2]))


class Line(NamedTuple):
    """A measured number beside a published one, all in percent."""

    row: str
    name: str
    """The published row's name."""
    measured: Estimate
    published: Printed
    difference: Estimate
    """Measured minus published; its error is None unless both numbers have one."""
    gain: Estimate | None
    """Measured gain over the baseline, with its error over paired trials; None for the baseline and without one."""
    published_gain: float | None
    """Published gain over the baseline of the same block; None likewise."""
    note: str


def beside(report: Report, results: Results, blocks: Sequence[Block]) -> tuple[Section, ...]:
    """Set published numbers beside those of a report's tables.

    Args:
        report: The tables.
        results: What they were made of.
        blocks: The published tables.

    Returns:
        A section for each table and each block that was made alike and has a row of it, then one that says why the
        other blocks are left out.
    """
    tables = [table for table in report.tables if table.dataset]
    names = dict.fromkeys(table.dataset for table in tables)
    sections, reasons, others = [], [], 0
    for block in blocks:
        columns = block.metrics()
        if not columns.keys() & names:
            others += 1
            continue
        against: list[tuple[str, ...]] = []
        shown = False
        for table in tables:
            if table.dataset not in columns:
                continue
            why = tuple(reasons_against(block, results, table))
            lines = [] if why else list(_lines(block, results, table))
            if lines:
                sections.append(_section(block, table, lines))
                shown = True
            against.append(why or (f"none of its rows has a number here ({', '.join(block.rows)})",))
        if not shown:
            # Of several tables the most alike one says what stands in the way.
            nearest = min(against, key=len)
            reasons.append(f"{block.name}: {'; '.join(nearest)}")
    summary = [f"{len(blocks) - len(reasons) - others} of {len(blocks)} published tables are shown"]
    if unknown := [name for name in names if not any(name in block.metrics() for block in blocks)]:
        summary.append(f"there are no published numbers on {', '.join(unknown)}")
    if others and len(unknown) < len(names):
        summary.append(f"{others} tables are of other data sets")
    left_out = Section("Published, and left out", (), (*summary, *reasons), {"left_out": reasons})
    return (*sections, left_out)


def reasons_against(block: Block, results: Results, table: Table) -> Iterator[str]:
    """Yield each way in which a published table was made otherwise than a measured one of the same data set."""
    dataset = table.dataset
    if block.protocol != results.protocol:
        yield f"its protocol is {block.protocol}, here it is {results.protocol}"
    if block.selector != table.selector.name:
        yield f"it selects by {block.selector or 'what its source does not say'}, here by {table.selector.name}"
    if table.metric not in [metric for _, metric in block.metrics()[dataset]]:
        yield f"its metric isn't {table.metric}"
    if untested := results.untested(dataset):
        yield f"it tests all domains of {dataset}, here {', '.join(untested)} isn't tested"
    setting = results.settings.get(dataset)
    if setting is None:
        yield "which network was trained isn't recorded here"
    else:
        yield from _other_training(block, dataset, setting)


def _other_training(block: Block, dataset: str, setting: Setting) -> Iterator[str]:
    """Yield each way in which the models of a block were trained otherwise."""
    expected = block.backbones.get(dataset, block.backbone)
    # A block that names no weights is compared by the architecture alone.
    own = setting.backbone if "." in expected else setting.backbone.partition(".")[0]
    if own != expected:
        yield f"its network is {expected or block.network}, here it is {setting.backbone}"
    if own not in SMALL and (not setting.pretrained or setting.weights):
        yield "it starts from the network's published weights, which isn't so here"
    if own not in SMALL and setting.image_size not in (0, _SIDE):
        yield f"its images are {_SIDE} pixels wide, here {setting.image_size}"
    if block.steps and setting.steps != block.steps:
        yield f"it trains {block.steps:,} steps, here {setting.steps:,}"
    elif not block.steps and setting.steps < LEAST_STEPS:
        yield f"it trains at least {LEAST_STEPS:,} steps, here {setting.steps:,}"
    for name, value in block.settings.items():
        if (mine := getattr(setting, name)) != value:
            yield f"its {name} is {value}, here it is {mine}"


def _lines(block: Block, results: Results, table: Table) -> Iterator[Line]:
    """Yield a line for each published row that the table has with a number."""
    place = next(place for place, metric in block.metrics()[table.dataset] if metric == table.metric)
    printed = {line.row: cell for line in block.rows.values() if line.row and (cell := line.cells[place])}
    baseline = _trials(table, block.baseline)
    for name, line in block.rows.items():
        cell = line.cells[place]
        measured = _measured(results, table, line.row)
        if not cell or not measured:
            continue
        both = None if measured.error is None or cell.error is None else math.hypot(measured.error, cell.error)
        gain = None if line.row == block.baseline else _gain(_trials(table, line.row), baseline)
        ours = printed.get(block.baseline)
        published_gain = cell.mean - ours.mean if ours and line.row != block.baseline else None
        difference = Estimate(measured.mean - cell.mean, both, measured.n)
        yield Line(line.row, name, measured, cell, difference, gain, published_gain, line.note)


def _measured(results: Results, table: Table, row: str) -> Estimate | None:
    """Return a row's mean over the table's domains with its error over trials; None without a complete number."""
    if row not in table.rows:
        return None
    cells = [cell for cell in table.rows[row][:-1] if not cell.domain]
    return over_domains(table.dataset, cells, results.ddof).estimate


def _trials(table: Table, row: str) -> dict[int, float]:
    """Return trial -> mean over domains in percent, for trials that have a number on each."""
    cells = [cell for cell in table.rows.get(row, ())[:-1] if not cell.domain]
    found = {}
    for trial in dict.fromkeys(trial for cell in cells for trial in cell.trials):
        picks = [cell.trials[trial].pick for cell in cells if trial in cell.trials]
        scores = [pick.score for pick in picks if pick]
        if len(scores) == len(cells):
            found[trial] = 100 * sum(scores) / len(scores)
    return found


def _gain(own: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """Return the mean gain over the baseline with its error over trials; trials share splits, so they pair."""
    gains = [value - baseline[trial] for trial, value in own.items() if trial in baseline]
    n = len(gains)
    if not n or n < len(baseline):
        return None
    mean = sum(gains) / n
    error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / (n - 1) / n) if n > 1 else None
    return Estimate(mean, error, n)


def _section(block: Block, table: Table, lines: Sequence[Line]) -> Section:
    """Arrange lines as a section, with the notes that explain the published numbers."""
    rows = [
        (
            line.row,
            str(line.measured),
            str(Estimate(line.published.mean, line.published.error, 0)),
            _signed(line.difference),
            _signed(line.gain) if line.gain else "",
            f"{line.published_gain:+.1f}" if line.published_gain is not None else "",
        )
        for line in lines
    ]
    search = [f"{n} {what}" for n, what in ((block.draws, "draws"), (block.trials, "trials")) if n]
    below = [
        f"published: {block.name} | source: {block.source} ({block.reading}) | network: {block.network} | "
        f"selector: {block.selector}" + (f" | {', '.join(search)}" if search else ""),
        f"its {block.baseline}: {f'that of {block.family}' if block.family else 'of this source alone'}; "
        "compare gains, not numbers, with methods of other sources",
    ]
    if any(line.difference.error is None for line in lines):
        below.append("a difference without an error: one of the two numbers has none")
    below += [f"{line.row}, printed as {line.name}: {line.note}" for line in lines if line.note]
    below += [block.note] if block.note else []
    title = f"Published beside measured: {table.dataset}, model selection method: {table.selector.label}, {block.name}"
    content = {
        "dataset": table.dataset,
        "selector": table.selector.name,
        "block": replace(block, rows={}),
        "lines": [line._asdict() for line in lines],
    }
    header = ("Algorithm", "measured", "published", "difference", f"gain over {block.baseline}", "published gain")
    return Section(title, (header, *rows), tuple(below), content)


def _signed(number: Estimate) -> str:
    """Format a difference with its sign: `-0.6 +/- 0.5`."""
    return f"{number.mean:+.1f}" if number.error is None else f"{number.mean:+.1f} +/- {number.error:.1f}"
