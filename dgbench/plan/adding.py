"""Declare a launch that adds to a sweep: what it leaves open is taken from the sweep.

The setting and the overrides are one for the whole sweep, so each value that the launch doesn't give is the sweep's. A
value that it does give stays, for `Declaration.extended_with` to refuse where it differs. For the rest:

- A launch that names both algorithms and data sets is a request by itself, with the usual defaults for seeds, trials
  and folds. The same words therefore ask for the same runs, whatever was added to the folder since.
- A launch that leaves out either asks again for each search of the sweep, with what it does give in place of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.protocol import AllDomains, Explicit, FixedSplit, LeaveOneDomainOut, SingleSource
from dgbench.core.setting import FIELD_NAMES, PRESETS
from dgbench.plan.asking import declare
from dgbench.plan.declaration import Declaration
from dgbench.plan.request import Overrides, Request
from dgbench.plan.sweep_file import PROTOCOL_KEYS

_GIVE = {
    "rows": ("algorithms",),
    "datasets": ("datasets",),
    "protocol": ("quick", "test_envs", "validation", *PROTOCOL_KEYS),
    "hparams_seeds": ("quick", "n_hparams", "n_hparams_from"),
    "trials": ("quick", "n_trials", "n_trials_from"),
}
"""Field of a request -> the keys that give its value."""


def declare_more(
    asked: Mapping[str, Any], before: Declaration, paths: Mapping[str, str], catalogue: Catalogue
) -> tuple[Declaration, dict[str, str]]:
    """Make the declaration of a launch that adds to a sweep.

    Args:
        asked: Values by `sweep_file.KEYS`.
        before: The sweep's declaration so far.
        paths: Data set -> path, of the sweep's data sets that have one.
        catalogue: Holds the entries of the sweep and of the launch.

    Returns:
        What `asking.declare` returns. The declaration has one request, or one for each request of the sweep.

    Raises:
        UserError: The values are wrong, as far as that can be seen without the data; all problems are listed.
    """
    given = [name for name, keys in _GIVE.items() if any(asked.get(key) is not None for key in keys)]
    repeats = not {"rows", "datasets"} <= set(given)
    completed = {"search": before.search, **asked, **_setting(asked, before)}
    if repeats:
        completed = {**_request(asked, before.searches, paths), **completed}
    declaration, found = declare(completed, catalogue)
    (request,) = declaration.requests
    last = before.searches[-1].protocol
    if "protocol" not in given and isinstance(request.protocol, LeaveOneDomainOut):
        if isinstance(last, (SingleSource, AllDomains, Explicit)):
            request = replace(request, protocol=last)
    elif isinstance(request.protocol, FixedSplit) and isinstance(last, FixedSplit) and "validation" not in asked:
        request = replace(request, protocol=replace(request.protocol, validation=last.validation))
    requests = [request]
    if repeats:
        changed: dict[str, Any] = {name: getattr(request, name) for name in given}
        requests = [replace(old, **changed) for old in before.searches]
    overrides = _overrides(before.overrides, declaration.overrides)
    return replace(declaration, overrides=overrides, requests=tuple(dict.fromkeys(requests))), found


def _setting(asked: Mapping[str, Any], before: Declaration) -> dict[str, Any]:
    """Return the keys of the setting, completed; an empty mapping if the launch has another preset, a contradiction."""
    own = before.setting
    if asked.get("preset", own.preset) != own.preset:
        return {}
    # A field may be given in any of the three.
    said = {**asked.get("hparams", {}), **asked.get("set", {}), **asked.get("setting", {})}
    kept = {name: getattr(own, name) for name in FIELD_NAMES if name not in said}
    changes = {name: value for name, value in kept.items() if value != getattr(PRESETS[own.preset], name)}
    return {"preset": own.preset, "setting": {**changes, **asked.get("setting", {})}}


def _request(asked: Mapping[str, Any], before: tuple[Request, ...], paths: Mapping[str, str]) -> dict[str, Any]:
    """Return values for the keys that a launch may leave out, from the requests so far."""
    names = dict.fromkeys(name for request in before for name in request.datasets)
    found: dict[str, Any] = {
        "algorithms": list(dict.fromkeys(row.name for request in before for row in request.rows)),
        "datasets": [f"{name.partition(':')[0]}:{paths[name]}" if name in paths else name for name in names],
    }
    if not asked.get("quick"):  # which gives all of these, and the absence of pairs
        seeds, trials = before[-1].hparams_seeds, before[-1].trials
        found |= {"n_hparams_from": seeds[0], "n_hparams": seeds[-1] + 1}
        found |= {"n_trials_from": trials[0], "n_trials": trials[-1] + 1}
        alone = all(isinstance(old.protocol, LeaveOneDomainOut) and not old.protocol.pairs for old in before)
        if alone and asked.get("test_envs") and not any(asked.get(key) for key in PROTOCOL_KEYS):
            found["single_test_envs"] = True
    return found


def _overrides(before: Overrides, asked: Overrides) -> Overrides:
    """Return the overrides of a launch with those of the sweep that it doesn't name."""
    parts = {
        name: {**before.parts.get(name, {}), **asked.parts.get(name, {})} for name in (*before.parts, *asked.parts)
    }
    return Overrides({**before.fixed, **asked.fixed}, parts, {**before.draws, **asked.draws})
