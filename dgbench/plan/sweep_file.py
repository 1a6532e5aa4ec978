"""Read sweep files, and merge the values of flags over theirs: both are one mapping by the keys of `KEYS`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dgbench.core.errors import Problems, UserError
from dgbench.core.presets import TABLES
from dgbench.core.wording import format_value, unknown_name, with_article
from dgbench.plan.options import OPTIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = {option.name: option.type for option in OPTIONS.values() if option.part == "asked"} | {
    "setting": dict,
    "space": dict,
    "grid": dict,
    "launcher": dict,
}
"""Key that a sweep file may hold -> its type. A flag of the same name wins over it."""
FOLD = ("train_domains", "val_domains", "test_domains")
"""Keys that list the domains of one explicit fold."""
PROTOCOL_KEYS = ("single_test_envs", "single_source", "all_domains", *FOLD)
"""Keys that choose a protocol."""
NOT_QUICK = ("n_hparams_from", "n_hparams", "n_trials_from", "n_trials")
"""Keys that `quick` gives values to."""
_DEPTH = 3
"""Most tables that lead to a value: `hparams.PACS.SWAD` has a data set's value of an entry."""
_SWEEPS = Path(__file__).parents[1] / "sweeps"
"""Folder of the sweep files that the package ships."""


def shipped_sweeps() -> dict[str, Path]:
    """Return name -> file of the sweeps that the package ships, sorted by name."""
    return {file.stem: file for file in sorted(_SWEEPS.glob("*.toml"), key=lambda file: file.stem)}


def find_sweep(word: str | Path) -> Path:
    """Return the file that `--sweep` means: a path, or the name of a sweep that the package ships.

    Raises:
        UserError: There is neither; the message has the nearest name.
    """
    path, shipped = Path(word), shipped_sweeps()
    if path.exists():
        return path
    if str(word) in shipped:
        return shipped[str(word)]
    if path.suffix or path.parent != Path():  # a path; a checkout has the shipped sweeps in a folder of that name
        hint = f": the sweep that is shipped is called by its name, --sweep {path.stem}" if path.stem in shipped else ""
        raise UserError(f"--sweep {word}: there is no such file{hint}")
    raise UserError(f"--sweep: {unknown_name('sweep', str(word), shipped)}")


def read_sweep_file(word: str | Path) -> dict[str, Any]:
    """Read a sweep declared in TOML.

    Args:
        word: Its path, or the name of a sweep that the package ships.

    Returns:
        Key -> value, by the keys of `KEYS`.

    Raises:
        UserError: There is no such file, it can't be read, or keys are unknown or of the wrong type; all are listed.
    """
    path = find_sweep(word)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--sweep {path} can't be read: {error}") from None
    except RecursionError:
        raise UserError(f"--sweep {path} can't be read: it is nested too deeply") from None
    problems = Problems()
    for key, value in content.items():
        if key not in KEYS:
            problems.add(f"{path}: {unknown_name('key', key, KEYS)}")
        elif type(value) is not KEYS[key]:
            problems.add(f"{path}: {key} is {with_article(KEYS[key].__name__)}, not {format_value(value)}")
        elif isinstance(value, list):
            for item in value:
                if not isinstance(item, str) and not (key in ("test_envs", "members", *FOLD) and type(item) is int):
                    problems.add(f"{path}: {key} is a list of names, {format_value(item)} is none")
    problems.raise_if_any()
    return content


def merge_flags_over_file(asked: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the values of flags over those of a sweep file; tables are merged name by name.

    Args:
        asked: Values of the sweep file, by `KEYS`.
        flags: Values of the flags that were given.
    """
    # A field of the setting may be given in `setting`, in `hparams` or by `--set`. A flag that names it must win over
    # the file wherever the file has it, also for one data set, so the name is removed from all tables.
    said = frozenset(name for key in ("hparams", "setting", "set") for name in _places(flags.get(key, {})))
    if flags.get("quick"):
        asked = {key: value for key, value in asked.items() if key not in NOT_QUICK}
    if flags.get("grid"):  # takes the place of the file's draws
        asked = {key: value for key, value in asked.items() if key not in ("n_hparams", "n_hparams_from")}
    tables = {key: _without(asked[key], said) for key in TABLES if key in asked}
    merged = {key: _joined(tables.get(key, {}), flags.get(key, {})) for key in ("setting", "hparams")}
    return {**asked, **tables, **flags, **merged}


def _places(table: Mapping[str, Any], before: str = "", depth: int = _DEPTH) -> Iterator[str]:
    """Yield the place of each value of a table: `lr`, `SAM.rho`."""
    for name, value in table.items():
        deeper = depth > 1 and isinstance(value, Mapping)
        yield from _places(value, f"{before}{name}.", depth - 1) if deeper else (f"{before}{name}",)


def _without(table: Mapping[str, Any], said: frozenset[str], before: str = "", depth: int = _DEPTH) -> dict[str, Any]:
    """Remove values from a table by name or place.

    Args:
        table: The table, which stays as it is.
        said: Names (`lr`) and places (`SAM.rho`) of the values to remove.
        before: Place of the table itself, with a dot at its end; empty for the outermost.
        depth: Levels of tables to look into.

    Returns:
        A copy without these values.
    """
    return {
        name: _without(value, said, f"{before}{name}.", depth - 1)
        if depth > 1 and isinstance(value, Mapping)
        else value
        for name, value in table.items()
        if name not in said and f"{before}{name}" not in said
    }


def _joined(below: Mapping[str, Any], above: Mapping[str, Any], depth: int = _DEPTH) -> dict[str, Any]:
    """Return the values of two tables; those of `above` win, and tables that both have are joined."""
    found = {**below, **above}
    for name in (*below,) if depth > 1 else ():
        low, high = below[name], found[name]
        if isinstance(low, Mapping) and isinstance(high, Mapping):
            found[name] = _joined(low, high, depth - 1)
    return found
