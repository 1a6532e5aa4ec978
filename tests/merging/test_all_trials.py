"""A model of all trials: merged from every run of a fold, measured on nothing that any of them trained on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dgbench import cli, collect
from dgbench.core.errors import UserError
from dgbench.core.protocol import AllDomains, View
from dgbench.core.run import ALL_TRIALS, BEST, MODEL
from dgbench.core.setting import setting
from dgbench.execute.context import open_context
from dgbench.execute.models import find_model
from dgbench.launchers.reconcile import Sweep
from dgbench.report.reader import read_results
from dgbench.report.selectors import SELECTORS
from dgbench.report.tables import build
from tests.conftest import MakePlan
from tests.support.in_process import execute_all, records_of, runs_of, sweep_of

ALIKE = {"init": "sweep", "generated_data": "sweep"}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two trials of two runs, executed."""
    root = tmp_path_factory.mktemp("dagger")
    rows = ("ERM", "DiWA", "DiWADagger", "DiWADagger+T3A")
    return execute_all(sweep_of(root, *rows, n_hparams=2, n_trials=2, setting=ALIKE))


def test_is_the_mean_of_the_runs_of_all_trials(sweep: Sweep) -> None:
    (run,) = runs_of(sweep, "DiWADagger")
    assert run.trial == ALL_TRIALS
    trained = runs_of(sweep, "ERM")
    assert len(trained) == 4
    assert {source.run for source in run.inputs} == {member.id for member in trained}
    models = [
        find_model(sweep.store.folder(member.id).path, MODEL, BEST).load(torch.device("cpu")) for member in trained
    ]
    merged = find_model(sweep.store.folder(run.id).path, MODEL, BEST).load(torch.device("cpu"))
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, torch.stack([model[name] for model in models]).mean(dim=0))


def test_its_members_began_alike(sweep: Sweep) -> None:
    assert len({run.init_seed for run in runs_of(sweep, "ERM")}) == 1
    assert len({run.data_seed for run in runs_of(sweep, "ERM")}) == 1
    assert len({run.seed for run in runs_of(sweep, "ERM")}) == 4


@pytest.mark.parametrize("method", ["DiWADagger", "T3A"])
def test_nothing_that_a_member_trained_on_is_measured(sweep: Sweep, method: str) -> None:
    (run,) = runs_of(sweep, method)
    (record,) = records_of(sweep.store.folder(run.id), MODEL)
    assert set(record["views"]) == {"75/in", "75/out"}


@pytest.mark.parametrize("selector", ["training-domain", "oracle"])
def test_it_stands_in_every_table_without_a_choice_or_an_error(sweep: Sweep, selector: str) -> None:
    results = read_results(sweep.root)
    (table, _) = build(results, [SELECTORS[selector]]).tables
    (run,) = runs_of(sweep, "DiWADagger")
    (record,) = records_of(sweep.store.folder(run.id), MODEL)
    cell = table.rows["DiWADagger"][0]
    assert cell.estimate is not None
    assert cell.estimate.mean == pytest.approx(100 * record["views"]["75/in"]["accuracy"])
    assert cell.estimate.error is None
    (outcome,) = cell.trials.values()
    assert outcome.pick is not None
    assert math.isnan(outcome.pick.value)
    assert outcome.pick.in_domain is None
    assert table.signature["trials"] == "2 (0-1)"
    assert table.signature["one model of all trials"] == "DiWADagger, DiWADagger+T3A: nothing was selected"
    assert "DiWADagger from 4" in table.signature["merged"]
    assert not {"DiWADagger", "DiWADagger+T3A"} & set(table.in_domain)


@pytest.mark.parametrize("layout", ["text", "markdown", "latex", "csv", "json"])
def test_every_format_prints_it(sweep: Sweep, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(collect.main, ["--input_dir", str(sweep.root), "--format", layout]) == 0
    printed = capsys.readouterr().out
    assert "DiWADagger" in printed
    assert "nan" not in printed.lower().replace("domain", "")


def test_a_run_that_is_missing_is_named(tmp_path: Path) -> None:
    swept = sweep_of(tmp_path, "DiWADagger", n_hparams=2, n_trials=2, setting=ALIKE)
    (table, _) = build(read_results(swept.root), [SELECTORS["training-domain"]]).tables
    assert any("DiWADagger [75], all trials hparams 0: missing" in note for note in table.notes)


def test_what_selects_across_domains_reads_its_own_folds(make_plan: MakePlan) -> None:
    found = make_plan("DiWADagger", trials=3, how=setting(init="sweep"))
    merged = [run for run in found.runs if run.kind == "merge"]
    assert len(merged) == len({run.fold for run in found.runs})
    assert {len(run.inputs) for run in merged} == {6}
    assert {View("b", "out")} & {view for run in merged for view in run.validation} == set()


def test_all_trials_must_begin_alike(make_plan: MakePlan) -> None:
    with pytest.raises(UserError) as caught:
        make_plan("DiWADagger", how=setting())
    (problem,) = caught.value.problems
    assert problem.endswith('each trial has initial weights of its own. Add --hparams \'{"init": "sweep"}\'')


def test_all_trials_share_the_probe_of_a_fold(tmp_path: Path) -> None:
    """One for all runs whose weights are averaged, another in another fold."""
    how = {**ALIKE, "classifier_init": "linear_probe", "steps": 2, "checkpoint_freq": 1}
    swept = sweep_of(tmp_path, "DiWADagger", n_hparams=2, n_trials=2, setting=how, test_envs=["75", "0"])
    starts: dict[tuple[str, ...], list[Tensor]] = {}
    for run in runs_of(swept, "ERM"):
        swept.store.folder(run.id).create(run)
        begun = open_context(run, swept.store, swept.site, swept.catalogue).algorithm(begin=True)
        starts.setdefault(run.fold.held_out, []).append(begun.network.classifier.weight.detach())  # type: ignore[arg-type, operator]
    assert {held_out: len(found) for held_out, found in starts.items()} == {("0",): 4, ("75",): 4}
    for first, *others in starts.values():
        assert all(torch.equal(first, other) for other in others)
    assert not torch.equal(starts["0",][0], starts["75",][0])
    execute_all(swept)
    (merged, _) = runs_of(swept, "DiWADagger")
    (record,) = records_of(swept.store.folder(merged.id), MODEL)
    assert len(record["members"]) == 4


def test_the_probe_that_all_trials_share_has_not_seen_what_is_tested(make_plan: MakePlan) -> None:
    how = setting(init="sweep", classifier_init="linear_probe")
    assert make_plan("ERM", "DiWADagger", trials=2, how=how).runs
    refused: list[tuple[dict[str, Any], str]] = [
        ({"traits": ("generated",)}, '{"generated_data": "sweep"}'),
        ({"protocol": AllDomains()}, '{"init": "trial"}'),
        ({"shared_identities": True}, '{"init": "trial"}'),
    ]
    for asked, way_out in refused:
        with pytest.raises(UserError, match="the linear probe that all trials share has trained on") as caught:
            make_plan("ERM", trials=2, how=how, **asked)
        assert way_out in str(caught.value)
        assert make_plan("ERM", trials=1, how=how, **asked).runs, "trial 0 has the probe to itself"
