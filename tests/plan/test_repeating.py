"""Trials that repeat a choice: the runs they come to, beside those of the search, and what sweep.json keeps of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.protocol import AllDomains, Explicit, LeaveOneDomainOut, Protocol, SingleSource
from dgbench.core.run import Run
from dgbench.core.site import Site
from dgbench.plan.adding import declare_more
from dgbench.plan.asking import declare
from dgbench.plan.declaration import Declaration, read_declaration, write_declaration
from dgbench.plan.plan import Plan
from dgbench.plan.planfile import read_plan, tabulate, write_plan
from dgbench.plan.planner import Drawn
from dgbench.plan.repeating import Choice, repeating
from tests.conftest import MakeFacts

ASKED = {
    "algorithms": ["ERM", "ERM+EMA", "SAM", "ERM+T3A"],
    "datasets": ["RotatedDigits"],
    "test_envs": ["a", "b"],
    "n_hparams": 3,
    "n_trials": 2,
}
DOMAINS = ("a", "b", "c")
A, B = LeaveOneDomainOut(pairs=False, only=("a", "b")).folds(DOMAINS)
CHOICES = [
    Choice("ERM", "RotatedDigits", A, Drawn(2, 1)),
    Choice("ERM", "RotatedDigits", B, Drawn(0, 0)),
    Choice("ERM+EMA", "RotatedDigits", A, Drawn(1, 0)),
    Choice("SAM", "RotatedDigits", A, Drawn(2, 1)),
    Choice("ERM+T3A", "RotatedDigits", A, Drawn(1, 1)),
]


@pytest.fixture
def search(catalogue: Catalogue) -> Declaration:
    return declare(ASKED, catalogue)[0]


def planned(declaration: Declaration, catalogue: Catalogue, make_facts: MakeFacts) -> Plan:
    facts = make_facts(DOMAINS, "RotatedDigits")
    return declaration.plan({"RotatedDigits": facts}, catalogue)


def drawn(plan: Plan, row: str, fold: tuple[str, ...], trial: int, seed: int) -> Run:
    (run,) = (
        found.run
        for found in plan.candidates[row, "RotatedDigits"]
        if (found.run.fold.held_out, found.run.trial, found.run.hparams_seed) == (fold, trial, seed)
    )
    return run


def test_repeats_train_the_chosen_draw_in_new_trials(
    search: Declaration, catalogue: Catalogue, make_facts: MakeFacts
) -> None:
    before = planned(search, catalogue, make_facts)
    plan = planned(repeating(search, CHOICES, "oracle", 3), catalogue, make_facts)
    assert plan.candidates == before.candidates, "the search stays as it is"
    found = [made.run for made in plan.repeats["ERM", "RotatedDigits", "oracle"]]
    assert [(run.fold.held_out, run.trial) for run in found] == [(("a",), t) for t in (2, 3, 4)] + [
        (("b",), t) for t in (2, 3, 4)
    ]
    chosen = drawn(before, "ERM", ("a",), 1, 2)
    assert all(run.method.hparams == chosen.method.hparams and run.hparams_seed == 2 for run in found[:3])
    assert len({run.id for run in found}) == 6
    assert chosen.method.hparams != drawn(before, "ERM", ("a",), 0, 2).method.hparams, "each trial draws afresh"
    assert all(run.averages == chosen.averages for run in found), "all averages of the sweep watch"
    averaged = plan.repeats["ERM+EMA", "RotatedDigits", "oracle"]
    assert {made.predictor for made in averaged} == {"EMA"}
    adapted = plan.repeats["ERM+T3A", "RotatedDigits", "oracle"]
    assert adapted[0].run.method == drawn(before, "ERM+T3A", ("a",), 1, 1).method
    assert len({run.id for run in plan.runs}) == len(plan.runs)


def test_a_repeated_default_is_the_run_that_a_longer_search_has(
    catalogue: Catalogue, make_facts: MakeFacts, search: Declaration
) -> None:
    again = repeating(search, CHOICES[1:2], "oracle", 1)
    longer, _ = declare({**ASKED, "n_trials": 3}, catalogue)
    plan = planned(
        Declaration(again.setting, again.overrides, (*again.requests, *longer.requests)), catalogue, make_facts
    )
    (made,) = plan.repeats["ERM", "RotatedDigits", "oracle"]
    assert made.run == drawn(plan, "ERM", ("b",), 2, 0)
    assert len({run.id for run in plan.runs}) == len(plan.runs)


def test_asked_twice_they_are_the_same(search: Declaration) -> None:
    once = repeating(search, CHOICES, "oracle", 3)
    assert repeating(once, CHOICES, "oracle", 3) == once
    more = repeating(once, CHOICES, "oracle", 5)
    assert len(more.requests) == len(once.requests), "more trials take the place of fewer"
    assert more.searches == search.requests
    both = repeating(once, CHOICES[:1], "training-domain", 3)
    assert len(both.requests) == len(once.requests) + 1, "each selector has its own"


def test_they_are_kept_in_the_folder(
    search: Declaration, catalogue: Catalogue, make_facts: MakeFacts, tmp_path: Path
) -> None:
    again = repeating(search, CHOICES, "oracle", 3)
    write_declaration(tmp_path, again, Site())
    assert read_declaration(tmp_path, catalogue)[0] == again
    plan = planned(again, catalogue, make_facts)
    table = tabulate(plan, again.setting, again.protocol)
    write_plan(tmp_path, table)
    assert read_plan(tmp_path) == table
    assert table.repeats.keys() == plan.repeats.keys()


def test_a_launch_that_adds_a_row_asks_again_for_searches_alone(search: Declaration, catalogue: Catalogue) -> None:
    again = repeating(search, CHOICES, "oracle", 3)
    more, _ = declare_more({"algorithms": ["CORAL"]}, again, {}, catalogue)
    assert [(request.rows[0].name, request.repeats) for request in more.requests] == [("CORAL", None)]
    assert len(again.extended_with(more, Path("sweep")).requests) == len(again.requests) + 1


@pytest.mark.parametrize(
    "protocol",
    [LeaveOneDomainOut(), LeaveOneDomainOut(only=("a",)), SingleSource(), AllDomains(), Explicit((), ("a", "b"))],
)
def test_the_protocol_of_a_fold_yields_it_alone(protocol: Protocol) -> None:
    for fold in protocol.folds(DOMAINS):
        if not (isinstance(protocol, LeaveOneDomainOut) and len(fold.held_out) > 1):
            assert list(protocol.of_fold(fold).folds(DOMAINS)) == [fold]
