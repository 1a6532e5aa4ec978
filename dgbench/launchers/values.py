"""Read the values of options: of flags, or of keyword arguments of Python, each under its option's name.

An option that was not given is None or absent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgbench.core.errors import Problems, UserError
from dgbench.core.paths import check_folder, check_path
from dgbench.core.site import Site
from dgbench.core.wording import shorten
from dgbench.launchers.launcher import Launcher, choose_launcher
from dgbench.networks.weights import hash_weights_file
from dgbench.plan.changes import read_changes, refuse_conflicts
from dgbench.plan.grid import read_grid
from dgbench.plan.options import OPTIONS

Values = Mapping[str, Any]
"""Option -> its value."""


def _given(values: Values, part: str) -> dict[str, Any]:
    """Collect the given values of the options of a part; raises `UserError` with all that are out of range."""
    problems, found = Problems(), dict[str, Any]()
    for name, option in OPTIONS.items():
        value = values.get(name)
        if option.part == part and value is not None:
            if wrong := option.problem(value):
                problems.add(wrong)
            found[name] = value
    problems.raise_if_any()
    return found


def asked_of(values: Values) -> dict[str, Any]:
    """Collect the given values that ask for runs, under the keys of a sweep file.

    Args:
        values: Options, and of the tables of a sweep file `setting` and `space`, which have no flags. `hparams` is a
            mapping, or JSON as flags have it.

    Raises:
        UserError: Values are out of range or malformed, or contradict each other.
    """
    flags = {
        name: " ".join(value) if isinstance(value, list) else value for name, value in _given(values, "setting").items()
    }
    asked, setting = _given(values, "asked"), {**(values.get("setting") or {}), **flags}
    if values.get("backbone_weights"):
        setting["weights"] = hash_weights_file(Path(values["backbone_weights"]))
    if setting:
        asked["setting"] = setting
    if values.get("space"):
        asked["space"] = dict(values["space"])
    if isinstance(asked.get("hparams"), str):
        asked["hparams"] = _read_json(asked["hparams"])
    return asked | _changes(values, setting, asked.get("hparams", {}))


def _read_json(text: str) -> dict[str, Any]:
    """Read the JSON object of `--hparams`; raise UserError if it is none."""
    try:
        found = json.loads(text)
    except ValueError as error:  # malformed, or a number of more digits than Python reads
        raise UserError(f"--hparams is not JSON: {error}") from None
    except RecursionError:
        raise UserError("--hparams is not JSON: it is nested too deeply") from None
    if not isinstance(found, dict):
        raise UserError(f'--hparams is a JSON object like {{"lr": 0.001}}, not {shorten(text, 100)}')
    return found


def _changes(values: Values, setting: Mapping[str, Any], hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the options that sweep files can't give; raise UserError where they contradict others."""
    found = _given(values, "flags")
    if "set" in found:
        found["set"] = read_changes(found["set"])
    if "grid" in found:
        found["grid"] = read_grid(found["grid"])
        for name in (name for name in found["grid"] if name in found.get("set", {}) or name in hparams):
            raise UserError(
                f"{name} is given by --grid, and by {'--set' if name in found.get('set', {}) else '--hparams'}"
            )
    refuse_conflicts(found.get("set", {}), setting, hparams)
    return found


def places_of(values: Values) -> dict[str, Any]:
    """Collect the fields of a `Site` that are given, paths made absolute; raises `UserError` for a wrong value."""
    given = {name: value for name, value in _given(values, "site").items() if value != ""}
    problems = Problems()
    for name in (name for name in given if OPTIONS[name].type is Path):
        with problems.collecting():
            (check_folder if name == "cache_dir" else check_path)(Path(given[name]), f"--{name}")
    problems.raise_if_any()
    for name, value in given.items():
        if OPTIONS[name].type is Path:
            given[name] = os.path.abspath(value)
        elif OPTIONS[name].type is list:
            given[name] = tuple(map(os.path.abspath, value))
    return given


def site_of(values: Values) -> Site:
    """Build the site of a launch from its options; raises `UserError` for a wrong value."""
    return Site(**places_of(values))


def run_of(values: Values) -> dict[str, Any]:
    """Collect the options that define the run of `train`; raise `UserError` for numbers that are out of range."""
    return {"threads": None, **_given(values, "run")}


def leaving_of(values: Values) -> dict[str, Any]:
    """Collect the options that say when a worker leaves; raises `UserError` for values that are out of range."""
    return {"stop_after": None, "once": False, **_given(values, "worker")}


def launcher_of(values: Values, table: Mapping[str, Any]) -> Launcher:
    """Make the launcher that options and the table `[launcher]` of a sweep file ask for.

    Raises:
        UserError: Launcher, options or values are invalid, or it can't follow `--detach`; all problems are listed.
    """
    problems, flags = Problems(), dict[str, Any]()
    with problems.collecting():
        flags = _given(values, "launch")
    launcher = None
    with problems.collecting():
        launcher = choose_launcher(values.get("launcher") or (), table, flags)
    if launcher and values.get("detach") and not launcher.detaches:
        problems.add(f"--detach: runs of the launcher {launcher.name} end with its command; leave the flag out")
    problems.raise_if_any()
    assert launcher
    return launcher


def jobs_of(values: Values) -> dict[str, Any]:
    """Collect the options that say how a sweep is executed; raises `UserError` for values that are out of range."""
    return {"jobs": None, "ttl": None, **_given(values, "launch")}
