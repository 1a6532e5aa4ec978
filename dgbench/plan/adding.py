"""Declare a launch that adds to a sweep: what it leaves open is taken from the sweep.

The setting and the overrides are one for the whole sweep, so each value that the launch doesn't give is the sweep's. A
value that it does give stays, for `Declaration.extended_with` to refuse where it differs. For the rest:

- A launch that names both algorithms and data sets is a request by itself, with the usual defaults for seeds, trials
  and folds. The same words therefore ask for the same runs, whatever was added to the folder since.
- A launch that leaves out either asks again for each search of the sweep, with what it does give in place of theirs.
  Rows with an analysis are asked for where the rows are that they measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import Row
from dgbench.core.protocol import AllDomains, Explicit, FixedSplit, LeaveOneDomainOut, SingleSource
from dgbench.plan.asking import declare
from dgbench.plan.declaration import Declaration
from dgbench.plan.grid import with_points
from dgbench.plan.request import Request
from dgbench.plan.sweep_file import PROTOCOL_KEYS

_GIVE = {
    "rows": ("algorithms",),
    "datasets": ("datasets",),
    "protocol": ("quick", "test_envs", "validation", *PROTOCOL_KEYS),
    "hparams_seeds": ("quick", "n_hparams", "n_hparams_from"),
    "trials": ("quick", "n_trials", "n_trials_from"),
    "members": ("members",),
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
    asked = with_points(asked, catalogue)
    given = [name for name, keys in _GIVE.items() if any(asked.get(key) is not None for key in keys)]
    repeats = not {"rows", "datasets"} <= set(given)
    preset = before.setting.preset
    completed = {"search": before.search, "preset": preset, **asked}
    if repeats:
        completed = {**_request(asked, before.searches, paths), **completed}
    # Under another preset, a contradiction that is told later, the sweep's values say nothing.
    declaration, found = declare(completed, catalogue, before.layer if completed["preset"] == preset else None)
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
        if "rows" in given:
            own = [_rows_like(old, request.rows, before.searches, catalogue) for old in before.searches]
            requests = [replace(new, rows=rows) for new, rows in zip(requests, own, strict=True) if rows]
    return replace(declaration, requests=tuple(dict.fromkeys(requests))), found


def _rows_like(old: Request, rows: Sequence[Row], searches: Sequence[Request], catalogue: Catalogue) -> tuple[Row, ...]:
    """Return the rows of a launch that get the draws and trials of one of the sweep's requests.

    An analysis measures the models that its row has: those of the requests with that row. With another request's draws
    it would train more of them. Rows that are compared with each other get those of the requests that have all of them,
    or, where none has, of the one with the fewest draws. Other rows get those of every request.
    """
    measured = {request: {row.measured for row in request.rows} for request in searches}

    def holders(row: Row) -> Iterable[Request]:
        if catalogue.get("analysis", row.analysis).card.takes == "rows":
            compared = {other.measured for other in rows if other.analysis == row.analysis}
            fewest = min(searches, key=lambda request: len(request.hparams_seeds) * len(request.trials))
            return [request for request, has in measured.items() if compared <= has] or [fewest]
        return [request for request, has in measured.items() if row.measured in has] or searches

    return tuple(row for row in rows if not row.analysis or old in holders(row))


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
