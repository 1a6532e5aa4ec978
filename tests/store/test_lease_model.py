"""What the model of the lease allows, and that each of its rules is needed.

docs/reliability.md names the numbers of states: a change of the model changes them there, too.
"""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from tests.store.lease_model import Model, Rules, search
from tests.support.places import ROOT

RUN, REMOVER = False, True
TWO_MACHINES = (("A", RUN), ("B", RUN))
REMOVAL = (("A", RUN), ("B", REMOVER))

KNOWN = {
    "creates_exclusively": "a process writes after another one has claimed the run",
    "claims_after_the_judged": "a process writes after another one has claimed the run",
    "keeps_leases": "a process executes a run that is done",
    "checks_done_again": "a process executes a run that is done",
    "confirms": "a process writes after another one has claimed the run",
    "minds_its_silence": "a process writes after another one has claimed the run",
    "looks_twice": "a process writes after another one has claimed the run",
    "looks_a_beat_apart": "a process writes after another one has claimed the run",
    "confirms_removals": "a process writes after another one has claimed the run",
    "writes_in_time": "a process writes after another one has claimed the run",
}


@pytest.mark.parametrize("processes", [TWO_MACHINES, REMOVAL, (("A", RUN), ("A", RUN)), (("A", RUN), ("A", REMOVER))])
def test_two_processes_do_no_harm(processes: tuple[tuple[str, bool], ...]) -> None:
    found = search(Model(processes))
    assert (found.harm, found.way) == ("", [])
    assert found.states > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "states"),
    [
        ((("A", RUN), ("B", RUN), ("C", RUN)), 45_381),
        ((("A", RUN), ("A", RUN), ("B", RUN)), 103_706),
        ((("A", RUN), ("B", RUN), ("C", REMOVER)), 129_688),
    ],
)
def test_three_processes_do_no_harm(processes: tuple[tuple[str, bool], ...], states: int) -> None:
    found = search(Model(processes))
    assert (found.harm, found.way) == ("", [])
    assert found.states == states
    assert f"{states:,} states" in re.sub(r"\s+", " ", (ROOT / "docs" / "reliability.md").read_text())


@pytest.mark.parametrize("rule", [field.name for field in fields(Rules)])
def test_without_a_rule_harm_is_done(rule: str) -> None:
    found = search(Model(REMOVAL if rule == "confirms_removals" else TWO_MACHINES, Rules(**{rule: False})))
    assert found.harm == KNOWN[rule]
    assert found.way
