"""Which runs of a plan compete, and sweeps in which none can."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import parse_rows
from dgbench.core.errors import UserError
from dgbench.core.halving import HALVING, RANDOM, outlooks
from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.core.setting import setting
from dgbench.core.site import Site
from dgbench.launchers.prepare import prepare, reopen
from dgbench.plan.cost import cost_of
from dgbench.plan.declaration import read_declaration
from dgbench.plan.plan import Plan
from dgbench.plan.planner import Drawn, plan
from dgbench.plan.repeating import Choice, repeating
from dgbench.plan.request import Repeat, Request
from tests.conftest import MakeFacts
from tests.plan.conftest import Refused
from tests.support.in_process import sweep_of

QUICK = {"n_hparams": 4, "setting": {"steps": 31, "checkpoint_freq": 5}}


def planned(
    catalogue: Catalogue, make_facts: MakeFacts, *rows: str, halving: bool = True, hparams: int = 4, trials: int = 2
) -> Plan:
    requests = [
        Request(parse_rows(rows, catalogue), ("Toy",), LeaveOneDomainOut(), tuple(range(hparams)), tuple(range(trials)))
    ]
    facts = {"Toy": make_facts(3, steps=31, checkpoint_freq=5)}
    return plan(requests, facts, dict.fromkeys(facts, setting()), catalogue, halving=halving)


def test_the_draws_of_a_fold_and_trial_compete_and_rows_share_their_brackets(
    catalogue: Catalogue, make_facts: MakeFacts
) -> None:
    rows = ("ERM", "ERM+SWAD", "ERM+WiSEFT+T3A", "SAM")
    searched = planned(catalogue, make_facts, *rows)
    by_id = {run.id: run for run in searched.runs}
    # Two methods x three folds and three pairs x two trials.
    assert len(searched.brackets) == 2 * 6 * 2
    for bracket in searched.brackets:
        own = [by_id[id] for id in bracket.runs]
        assert [run.hparams_seed for run in own] == [0, 1, 2, 3]
        assert len({(run.method.name, run.fold, run.trial) for run in own}) == 1
        assert (bracket.rungs, bracket.steps) == ((5, 10), 31)
        readers = [by_id[id] for ids in bracket.readers.values() for id in ids]
        assert len(readers) == (8 if own[0].method.name == "ERM" else 0)
        assert all(by_id[run.inputs[0].run] in (*own, *readers) for run in readers)
    assert [run.id for run in searched.runs] == [
        run.id for run in planned(catalogue, make_facts, *rows, halving=False).runs
    ], "runs are the same in every search"


def test_costs_are_those_of_what_the_search_trains(catalogue: Catalogue, make_facts: MakeFacts) -> None:
    rows = ("ERM", "ERM+T3A")
    searched, whole = (planned(catalogue, make_facts, *rows, halving=halving) for halving in (True, False))
    # 4 runs to step 5, 2 to step 10, 1 to step 30.
    assert cost_of(searched, catalogue).steps == pytest.approx(12 * (4 * 6 + 2 * 5 + 20))
    assert cost_of(whole, catalogue).steps == 12 * 4 * 31
    found = {id: outlook.goal for bracket in searched.brackets for id, outlook in outlooks(bracket, {}).items()}
    assert {found[run.id] for run in searched.runs if run.kind == "adapt"} == {0.25}


def test_rows_that_need_all_draws_are_refused_together(refused: Refused) -> None:
    words = ("--search", "halving", "--algorithms", "ERM", "ERM+DiWA", "SAM+GreedySoup+T3A", "KD")
    assert refused(*words) == [
        "ERM+DiWA merges the runs of all draws, most of which --search halving ends early: leave it out",
        "SAM+GreedySoup+T3A merges the runs of all draws, most of which --search halving ends early: leave it out",
        "KD learns from the runs of all draws, most of which --search halving ends early: leave it out",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--search", "asha"], "two machines would print two tables; --search halving has the same rungs"),
        (["--search", "halvin"], "did you mean 'halving'?"),
        (["--search", "halving", "--quick"], "--search halving compares draws of hyperparameters, and there is 1"),
        (["--search", "halving", "--checkpoint_freq", "5000"], "on RotatedDigits there is none: give a lower"),
    ],
)
def test_searches_that_can_not_be_are_refused(refused: Refused, words: list[str], told: str) -> None:
    (line,) = refused(*words)
    assert told in line


def test_the_search_is_kept_by_launches_that_do_not_name_it(tmp_path: Path, catalogue: Catalogue) -> None:
    sweep_of(tmp_path, "ERM", search="halving", **QUICK)
    declared, _ = read_declaration(tmp_path, catalogue)
    assert declared.search == HALVING
    assert len(reopen(tmp_path).plan.brackets) == 1
    site = Site(device="cpu")
    more = prepare(tmp_path, {"algorithms": ["SAM"]}, site, catalogue)
    assert (more.declaration.search, len(more.plan.brackets)) == (HALVING, 2)
    assert prepare(tmp_path, {"n_trials": 2}, site, catalogue).plan.brackets[0].rungs == (5, 10)
    with pytest.raises(UserError, match="holds a search by halving with 4 draws, not 5"):
        prepare(tmp_path, {"n_hparams": 5}, site, catalogue)
    whole = prepare(tmp_path, {"n_hparams": 5, "search": "random"}, site, catalogue)
    assert (whole.declaration.search, whole.plan.brackets) == (RANDOM, ())
    whole.write()
    assert not (tmp_path / "search.json").exists()
    with pytest.raises(UserError, match="trains every draw to its end: for --search halving use another folder"):
        prepare(tmp_path, {"search": "halving"}, site, catalogue)


def test_repeats_of_a_choice_do_not_compete(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "ERM", search="halving", **QUICK)
    fold = sweep.plan.runs[0].fold
    declared = repeating(sweep.declaration, [Choice("ERM", "RotatedDigits", fold, Drawn(2, 0))], "training-domain", 3)
    again = reopen(tmp_path, change=lambda declaration: declared)
    assert len(again.plan.runs) == len(sweep.plan.runs) + 3
    assert again.plan.brackets == sweep.plan.brackets
    # A draw of the search that a repeat trains too goes to its end.
    (search,) = declared.searches
    same = replace(search, hparams_seeds=(2,), repeats=Repeat("training-domain", 0))
    whole = reopen(tmp_path, change=lambda declaration: replace(declared, requests=(search, same)))
    assert whole.plan.brackets[0].whole == (sweep.plan.brackets[0].runs[2],)
