"""Turn `--grid rho=.01,.05` into rows: one for each point of the grid, `SAM:rho=0.01` and `SAM:rho=0.05`.

A row of its own for each point keeps tables honest, since no selector ever chooses among points. All that works for
rows works for them: averages, mergers and adapters, analyses, comparisons and exports.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, TypeAlias

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import Row, parse_row
from dgbench.core.errors import Problems, UserError
from dgbench.core.row_names import split_name
from dgbench.core.setting import FIELD_NAMES
from dgbench.core.wording import format_value, shorten, unknown_name

Grid: TypeAlias = Mapping[str, Sequence[str]]
"""Hyperparameter, `rho` or `SAM.rho` -> the texts of its values."""
MOST_POINTS = 1000
"""Most points of one row."""


def read_grid(words: Iterable[str]) -> dict[str, list[str]]:
    """Split words of the form `NAME=VALUE,VALUE`, of which each adds an axis to the grid.

    Raises:
        UserError: Words have another form, or two give values to one name.
    """
    problems, found = Problems(), dict[str, list[str]]()
    for word in words:
        name, _, text = word.partition("=")
        values = text.split(",")
        if not (name and all(values)):
            problems.add(f"--grid {shorten(word, 100)}: write NAME=VALUE,VALUE,...")
        elif name in found:
            problems.add(f"--grid gives values to {name} twice")
        found[name] = values
    problems.raise_if_any()
    return found


def flatten(table: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the grid of a table of a sweep file: `rho = [.1, .2]`, or `SAM.rho = [.1, .2]` for one entry.

    Raises:
        UserError: A value is no list of numbers, texts, true and false.
    """
    problems, found = Problems(), dict[str, list[str]]()
    for name, value in table.items():
        axes = {f"{name}.{own}": each for own, each in value.items()} if isinstance(value, Mapping) else {name: value}
        for axis, values in axes.items():
            if (
                isinstance(values, list)
                and values
                and all(isinstance(each, bool | int | float | str) for each in values)
            ):
                found[axis] = [str(each).lower() if isinstance(each, bool) else str(each) for each in values]
            else:
                problems.add(f"grid: {axis} is a list of values, such as [0.01, 0.1], not {format_value(values)}")
    problems.raise_if_any()
    return found


def with_points(asked: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Return the values of a launch with a row for each point of its grid, if it has one.

    Other hyperparameters than those of the grid keep their defaults, unless the launch asks for draws. A row whose
    entries have none of the grid's names stays as it is.

    Args:
        asked: Values by `sweep_file.KEYS`.
        catalogue: Holds the entries of the rows.

    Raises:
        UserError: No row has a name of the grid, a row has one already, or there are too many points.
    """
    found = {name: value for name, value in asked.items() if name != "grid"}
    if "grid" not in asked:
        return found
    grid = flatten(asked["grid"])
    if not asked.get("algorithms"):
        raise UserError("--grid needs --algorithms: name the rows that are trained with these values")
    problems, rows = Problems(), dict[str, None]()
    parsed: list[Row] = []
    for name in asked["algorithms"]:
        try:
            parsed.append(parse_row(name, catalogue))
        except UserError:  # refused later, where all rows are parsed
            rows[name] = None
            continue
        with problems.collecting():
            rows |= dict.fromkeys(_written(point, catalogue) for point in _points(parsed[-1], grid, catalogue))
    for problem in _unused(grid, parsed, catalogue) if parsed else ():
        problems.add(problem)
    # Invalid values are refused where all rows are parsed, which is not reached with other problems.
    for name in rows if problems.found else ():
        with problems.collecting():
            parse_row(name, catalogue)
    problems.raise_if_any()
    if not {"quick", "n_hparams", "n_hparams_from"} & asked.keys():
        found |= {"n_hparams_from": 0, "n_hparams": 1}
    return {**found, "algorithms": list(rows)}


def _points(row: Row, grid: Grid, catalogue: Catalogue) -> Iterator[str]:
    """Yield the name of a row with the values of each point of the grid, or its own name if it takes none of them."""
    steps = _trained(split_name(row.name), catalogue)
    own = [axis for axis in grid if _is_of_algorithm(row, axis, catalogue)]
    # The name `SWAD` alone has no word for the baseline's values.
    words = split_name(row.name if steps or not own else f"{row.algorithm}+{row.name}")
    places = {word: place for place, (word, _) in enumerate(words)}
    of_steps = _trained(words, catalogue)
    axes: list[tuple[int, str, Sequence[str]]] = []
    for axis, values in grid.items():
        owner, _, name = axis.rpartition(".")
        if axis in own:
            axes.append((of_steps[-1], name, values))
        elif owner in places and places[owner] not in of_steps:
            axes.append((places[owner], name, values))
    if (points := math.prod(len(values) for *_, values in axes)) > MOST_POINTS:
        raise UserError(f"--grid has {points:,} points for {row.name}, more than {MOST_POINTS:,}")
    for point in product(*(values for *_, values in axes)):
        given = [[] if text is None else [text] for _, text in words]
        for (place, name, _), value in zip(axes, point, strict=True):
            given[place].append(f"{name}={value}")
        named = zip(words, given, strict=True)
        yield "+".join(f"{word}:{','.join(values)}" if values else word for (word, _), values in named)


def _written(row: str, catalogue: Catalogue) -> str:
    """Return a row's name as tables have it, or as it is if its values are invalid, which is refused later."""
    try:
        return parse_row(row, catalogue).name
    except UserError:
        return row


def _trained(words: Sequence[tuple[str, str | None]], catalogue: Catalogue) -> list[int]:
    """Return the places of the words that name the algorithm and its step rule; none stands for the baseline."""
    return [place for place, (word, _) in enumerate(words) if catalogue.entries[word].kind in ("algorithm", "rule")]


def _is_of_algorithm(row: Row, axis: str, catalogue: Catalogue) -> bool:
    """Return whether a name of the grid is a hyperparameter of a row's algorithm, of one that it names if it does."""
    owner, _, name = axis.rpartition(".")
    entry = catalogue.get("algorithm", row.algorithm)
    return entry.takes(name) and (not owner or owner in entry.words)


def _unused(grid: Grid, rows: Sequence[Row], catalogue: Catalogue) -> Iterator[str]:
    """Yield a problem for each name of the grid that no row has."""
    algorithms = {name: None for row in rows for name in catalogue.get("algorithm", row.algorithm).words}
    others = dict.fromkeys(
        word
        for row in rows
        for word, _ in split_name(row.name)
        if catalogue.entries[word].kind not in ("algorithm", "rule")
    )
    spaces = {word: [spec.name for spec in catalogue.method(word).space] for word in others}
    names = {spec.name for row in rows for spec in catalogue.get("algorithm", row.algorithm).space}
    for axis in grid:
        owner, _, name = axis.rpartition(".")
        if any(_is_of_algorithm(row, axis, catalogue) for row in rows) or owner in others:
            continue
        if owner and owner not in algorithms:
            yield unknown_name("entry in --grid", owner, [*algorithms, *others])
        elif takers := [word for word, space in spaces.items() if name in space and not owner]:
            yield f"{name} is a hyperparameter of {takers[0]}: --grid {takers[0]}.{name}={','.join(grid[axis])}"
        elif name in FIELD_NAMES:
            yield f"--grid gives values to hyperparameters, and {name} is a setting, of which a sweep has one value"
        else:
            yield unknown_name("hyperparameter in --grid", name, names)
