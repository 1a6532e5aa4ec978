"""Read sweep files, and merge the values of flags over theirs: both are one mapping by the keys of `KEYS`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgbench.core.errors import Problems, UserError
from dgbench.core.wording import format_value, unknown_name, with_article
from dgbench.plan.options import OPTIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = {option.name: option.type for option in OPTIONS.values() if option.part == "asked"} | {
    "setting": dict,
    "space": dict,
    "launcher": dict,
}
"""Key that a sweep file may hold -> its type. A flag of the same name wins over it."""
FOLD = ("train_domains", "val_domains", "test_domains")
"""Keys that list the domains of one explicit fold."""
PROTOCOL_KEYS = ("single_test_envs", "single_source", "all_domains", *FOLD)
"""Keys that choose a protocol."""
NOT_QUICK = ("n_hparams_from", "n_hparams", "n_trials_from", "n_trials")
"""Keys that `quick` gives values to."""
_TABLES = ("setting", "hparams")
"""Keys whose values are merged name by name."""
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
                if not isinstance(item, str) and not (key in ("test_envs", *FOLD) and type(item) is int):
                    problems.add(f"{path}: {key} is a list of names, {format_value(item)} is none")
    problems.raise_if_any()
    return content


def merge_flags_over_file(asked: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the values of flags over those of a sweep file; `setting` and `hparams` are merged name by name.

    Args:
        asked: Values of the sweep file, by `KEYS`.
        flags: Values of the flags that were given.
    """
    # A field of the setting may be given in `setting`, in `hparams` or by `--set`. A flag that names it must win over
    # the file in whichever table the file has it, so the name is removed from both.
    said = {**flags.get("hparams", {}), **flags.get("setting", {}), **flags.get("set", {})}
    if flags.get("quick"):
        asked = {key: value for key, value in asked.items() if key not in NOT_QUICK}
    below = {key: {name: value for name, value in asked.get(key, {}).items() if name not in said} for key in _TABLES}
    return {**asked, **flags, **{key: {**below[key], **flags.get(key, {})} for key in _TABLES}}
