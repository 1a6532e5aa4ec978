"""Make the flags of a launch from its options, and read their values in the form that each reader takes."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgbench.cli import Parser
from dgbench.core.errors import Problems, UserError
from dgbench.core.paths import check_folder, check_path
from dgbench.core.site import Site
from dgbench.core.wording import shorten
from dgbench.launchers.launcher import Launcher, choose_launcher
from dgbench.networks.weights import hash_weights_file
from dgbench.plan.changes import read_changes, refuse_conflicts
from dgbench.plan.options import OPTIONS, Groups


def add_options(parser: Parser, groups: Groups) -> None:
    """Add the flags of options to a parser, each group below its heading."""
    for title, options in groups.items():
        for option in options:
            parser.group(title).add_argument(f"--{option.name}", **option.argument)


def _given(args: Namespace, part: str) -> dict[str, Any]:
    """Collect the given values of the options of a part; raises `UserError` with all that are out of range."""
    problems, found = Problems(), dict[str, Any]()
    for name, option in OPTIONS.items():
        value = getattr(args, name, None)
        if option.part == part and value is not None:
            if wrong := option.problem(value):
                problems.add(wrong)
            found[name] = value
    problems.raise_if_any()
    return found


def asked_of(args: Namespace) -> dict[str, Any]:
    """Collect the given flags that ask for runs, under the keys of a sweep file."""
    asked, setting = _given(args, "asked"), _given(args, "setting")
    if args.backbone_weights:
        setting["weights"] = hash_weights_file(Path(args.backbone_weights))
    if setting:
        asked["setting"] = setting
    if "hparams" in asked:
        try:
            asked["hparams"] = json.loads(args.hparams)
        except ValueError as error:  # malformed, or a number of more digits than Python reads
            raise UserError(f"--hparams is not JSON: {error}") from None
        except RecursionError:
            raise UserError("--hparams is not JSON: it is nested too deeply") from None
        if not isinstance(asked["hparams"], dict):
            raise UserError(f'--hparams is a JSON object like {{"lr": 0.001}}, not {shorten(args.hparams, 100)}')
    return asked | _changes(args, setting, asked.get("hparams", {}))


def _changes(args: Namespace, setting: Mapping[str, Any], hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the options that sweep files can't give; raise UserError where they contradict other flags."""
    found = _given(args, "flags")
    if "set" in found:
        found["set"] = read_changes(found["set"])
    refuse_conflicts(found.get("set", {}), setting, hparams)
    return found


def places_of(args: Namespace) -> dict[str, Any]:
    """Collect the fields of a `Site` that flags give, paths made absolute; raises `UserError` for a wrong value."""
    given = {name: value for name, value in _given(args, "site").items() if value != ""}
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


def site_of(args: Namespace) -> Site:
    """Build the site of a launch from its flags; raises `UserError` for a wrong value."""
    return Site(**places_of(args))


def run_of(args: Namespace) -> dict[str, Any]:
    """Collect the options that define the run of `train`; raise `UserError` for numbers that are out of range."""
    return {"threads": None, **_given(args, "run")}


def leaving_of(args: Namespace) -> dict[str, Any]:
    """Collect the options that say when a worker leaves; raises `UserError` for values that are out of range."""
    return {"stop_after": None, "once": False, **_given(args, "worker")}


def launcher_of(args: Namespace, table: Mapping[str, Any]) -> Launcher:
    """Make the launcher that flags and the table `[launcher]` of a sweep file ask for.

    Raises:
        UserError: Launcher, options or values are invalid, or it can't follow `--detach`; all problems are listed.
    """
    problems, flags = Problems(), dict[str, Any]()
    with problems.collecting():
        flags = _given(args, "launch")
    launcher = None
    with problems.collecting():
        launcher = choose_launcher(args.launcher or (), table, flags)
    if launcher and args.detach and not launcher.detaches:
        problems.add(f"--detach: runs of the launcher {launcher.name} end with its command; leave the flag out")
    problems.raise_if_any()
    assert launcher
    return launcher


def jobs_of(args: Namespace) -> dict[str, Any]:
    """Collect the options that say how a sweep is executed; raises `UserError` for values that are out of range."""
    return {"jobs": None, **_given(args, "launch")}
