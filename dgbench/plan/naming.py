"""Find runs of a plan by the words that people have for them: an id, the beginning of one, or a name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from dgbench.core.errors import UserError
from dgbench.core.wording import printable, shorten
from dgbench.plan.planfile import PlannedRun, PlanTable

_SHOWN = 5
"""Most runs that the message on an ambiguous text lists."""


def find_run(table: PlanTable, text: str) -> PlannedRun:
    """Return the run that a text stands for.

    Args:
        table: The plan.
        text: The run's id, a beginning of its id that no other run's has, or its name as commands print it.

    Raises:
        UserError: It stands for no run, or for several, as runs that read others may have one name.
    """
    wanted = " ".join(text.split())
    by_name = [run for run in table.runs if wanted in (table.name(run), printable(table.name(run)))]
    found = by_name or [run for run in table.runs if wanted and run.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(_unknown(table, shorten(wanted, 100)))
    listed = [f"{run.id} ({run.kind}, {table.name(run)})" for run in found[:_SHOWN]]
    more = [f"{len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    raise UserError(f"{shorten(wanted, 100)!r} stands for several runs: {', '.join([*listed, *more])}")


def _unknown(table: PlanTable, text: str) -> str:
    """Return the message for a text that stands for no run, with the nearest name if there is one."""
    names: Sequence[str] = [table.name(run) for run in table.runs]
    near = get_close_matches(text, names, n=1, cutoff=0.8)
    advice = f"did you mean {near[0]!r}?" if near else "`dgbench status DIR --json` lists ids and names"
    return f"no run of the sweep is {text!r}: {advice}"
