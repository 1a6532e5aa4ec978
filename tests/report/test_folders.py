"""Folders opened together: what becomes one table, what is refused, and with which words."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dgbench.core.errors import UserError
from dgbench.core.protocol import LeaveOneDomainOut, SingleSource
from dgbench.report.domainbed.folder import RunArgs, write_run
from dgbench.report.folders import combine, open_each, open_results
from dgbench.report.render import text
from dgbench.report.results import Gap, Results
from dgbench.report.selectors import SELECTORS, default_selectors
from dgbench.report.tables import build
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
SET = "ColoredMNIST"


def made(root: Path, **how: Any) -> None:
    root.mkdir()
    OWN["make"](root, **how)


def tables(results: Results, partial: bool = False) -> list[dict[str, list[str]]]:
    report = build(results, default_selectors(results), partial)
    return [{row: [str(cell) for cell in cells] for row, cells in table.rows.items()} for table in report.tables]


def together(*roots: Path) -> Results:
    return combine(open_each(roots))


def without_rows(root: Path, *rows: str) -> None:
    """Leave rows out of a sweep's plan, as if it had not been asked for them."""
    plan = json.loads((root / "plan.json").read_text())
    plan["rows"] = [row for row in plan["rows"] if row not in rows]
    plan["cells"] = [cell for cell in plan["cells"] if cell[0] not in rows]
    (root / "plan.json").write_text(json.dumps(plan))


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A sweep, and folders with its row ERM and its other rows."""
    whole, one, two = tmp_path / "whole", tmp_path / "one", tmp_path / "two"
    made(whole)
    for root, rows in ((one, ("ERM+SWAD", "ERM+DiWA")), (two, ("ERM",))):
        shutil.copytree(whole, root)
        without_rows(root, *rows)
    return whole, one, two


def test_one_folder_is_as_it_is(halves: tuple[Path, Path, Path]) -> None:
    parts = open_each([halves[0]])
    assert combine(parts) is parts[str(halves[0])]


def test_two_halves_make_the_whole_tables(halves: tuple[Path, Path, Path]) -> None:
    whole, one, two = halves
    found = together(one, two)
    assert tables(found) == tables(open_results(whole))
    assert found.rows == ("ERM", "ERM+SWAD", "ERM+DiWA")
    assert (found.members, found.pooled) == ({"ERM+DiWA": "2"}, {"ERM+DiWA"})
    said = text(build(found, [SELECTORS["oracle"]]))
    assert f"# folders: {one}: ERM; {two}: ERM+SWAD, ERM+DiWA" in said
    assert "WARNING" not in said


def test_a_run_in_two_folders_counts_once_and_finished(halves: tuple[Path, Path, Path]) -> None:
    whole, _, _ = halves
    again = whole.parent / "again"
    shutil.copytree(whole, again)
    expected = tables(open_results(whole))
    some = sorted((whole / "runs").iterdir())
    for folder in some[::3]:
        (folder / "done").unlink()
    for folder in some[1::3]:
        shutil.rmtree(again / "runs" / folder.name)
    found = together(whole, again)
    assert tables(found) == expected
    assert len(tables(open_results(whole), partial=True)) == len(expected)
    assert [note for note in found.notes if "WARNING" in note] == []


def test_other_trials_draws_and_data_sets_are_joined(tmp_path: Path) -> None:
    made(tmp_path / "all", hparams=3, trials=3)
    made(tmp_path / "few", hparams=2, trials=2)
    made(tmp_path / "other", dataset="PACS", domains=("a", "b", "c"), seed=1)
    without_rows(tmp_path / "all", "ERM+DiWA")
    without_rows(tmp_path / "few", "ERM+DiWA")
    found = together(tmp_path / "few", tmp_path / "other", tmp_path / "all")
    assert tuple(found.datasets) == (SET, "PACS")
    assert len({position for positions in found.datasets.values() for position in positions}) == len(found.folds) == 12
    spots = found.candidates["ERM", SET]
    assert {trial for _, trial in spots} == {0, 1, 2}
    assert all(set(seeds) == {0, 1, 2} for seeds in spots.values())
    alone = open_results(tmp_path / "other")
    (theirs, _) = build(alone, [SELECTORS["leave-one-domain-out"]]).tables
    joined = {table.dataset: table for table in build(found, [SELECTORS["leave-one-domain-out"]]).tables}
    assert {row: tuple(map(str, cells)) for row, cells in joined["PACS"].rows.items()} == {
        row: tuple(map(str, cells)) for row, cells in theirs.rows.items()
    }


def test_each_difference_is_named(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    made(a, preset="domainbed-2020")
    made(b, preset="domainbed-2024", protocol=SingleSource())
    with pytest.raises(UserError) as error:
        together(a, b)
    problems = error.value.problems
    assert f"the folders differ in protocol: leave-one-domain-out in {a}, single-source in {b}" in problems
    assert f"the folders differ in preset: domainbed-2020 in {a}, domainbed-2024 in {b}" in problems
    assert f"the folders differ in batch_norm of {SET}: frozen in {a}, live in {b}" in problems
    assert problems[-1] == "folders that differ make no common table: collect them one by one"


def test_settings_must_agree_on_the_data_sets_that_folders_share(tmp_path: Path) -> None:
    a, b, c, d = (tmp_path / name for name in "abcd")
    made(a)
    made(b, dataset="PACS", domains=("a", "b", "c"), steps=15, holdout_fraction=0.3)
    found = together(a, b)
    assert tuple(found.datasets) == (SET, "PACS")
    assert {name: setting.steps for name, setting in found.settings.items()} == {SET: 10, "PACS": 15}
    (beside,) = re.findall("beside the preset: (.*)", text(build(found, [SELECTORS["oracle"]])))
    assert beside.split(", ") == [
        f"steps 10 (in {a})",
        "checkpoint_freq 5",
        f"steps 15 (in {b})",
        f"holdout_fraction 0.3 (in {b})",
    ]
    made(c, dataset="PACS", domains=("a", "b", "c"))
    with pytest.raises(UserError) as error:
        together(a, b, c)
    problems = [problem for problem in error.value.problems if problem.startswith("the folders differ in")]
    assert problems == [
        f"the folders differ in steps of PACS: 15 in {b}, 10 in {c}",
        f"the folders differ in holdout_fraction of PACS: 0.3 in {b}, 0.2 in {c}",
    ]
    made(d, dataset="VLCS", domains=("a", "b", "c"), ddof=1)
    with pytest.raises(UserError, match=f"the folders differ in ddof: 0 in {a}, 1 in {d}"):
        together(a, d)


def test_mergers_of_other_numbers_are_refused(tmp_path: Path) -> None:
    for name, hparams in (("a", 2), ("b", 3)):
        made(tmp_path / name, hparams=hparams)
    with pytest.raises(UserError, match=r"the number of runs that ERM\+DiWA merges: 2 in .*, 3 in ") as error:
        together(tmp_path / "a", tmp_path / "b")
    assert "ERM+DiWA on ColoredMNIST is in" in str(error.value)


def test_equal_runs_with_other_records_are_told(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        made(tmp_path / name, seed=seed)
    found = together(tmp_path / "a", tmp_path / "b")
    assert tables(found) == tables(open_results(tmp_path / "a"))
    (warning,) = build(found, [SELECTORS["oracle"]]).warnings
    assert "are in" in warning
    assert "with other values; the former count" in warning


def sweep_of_domainbed(root: Path, algorithm: str, steps: int = 1, **more: Mapping[str, Any]) -> Path:
    root.mkdir()
    for env in range(4):
        record = {f"env{i}_{part}_acc": (1 + i + env) / 10 for i in range(4) for part in ("in", "out")}
        args = {**RunArgs("VLCS", algorithm, (env,), 0, 0).to_json(steps, 0.2), **more}
        write_run(root, args, {"lr": 0.1}, [{"step": 0, **record}])
    return root


def test_folders_of_domainbed(tmp_path: Path) -> None:
    a, b = sweep_of_domainbed(tmp_path / "a", "ERM"), sweep_of_domainbed(tmp_path / "b", "IRM")
    (table, _) = tables(combine({name: open_results(name) for name in map(str, (a, b))}))[:2]
    assert table["ERM"] == table["IRM"] != ["no runs"] * 5
    c = sweep_of_domainbed(tmp_path / "c", "SD", steps=2)
    with pytest.raises(UserError, match=f"the folders differ in steps of VLCS: 1 in {a}, 2 in {c}"):
        together(a, c)


def test_ours_and_theirs_are_not_mixed(tmp_path: Path) -> None:
    made(tmp_path / "ours", protocol=LeaveOneDomainOut(pairs=False))
    theirs = sweep_of_domainbed(tmp_path / "theirs", "ERM")
    with pytest.raises(UserError, match=r"the folders differ in preset: domainbed-2020 in .*, DomainBed's own in "):
        together(tmp_path / "ours", theirs)


def test_what_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        open_each([tmp_path / "gone", tmp_path / "empty"])
    assert error.value.problems == (
        f"{tmp_path / 'gone'}: there is no such folder",
        f"{tmp_path / 'empty'} holds no sweep: neither a plan.json nor folders with results.jsonl in them",
    )


def test_a_missing_run_of_another_id_is_a_conflict(tmp_path: Path) -> None:
    made(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    plan = json.loads((tmp_path / "b" / "plan.json").read_text())
    plan["runs"][0][0] = "0" * 20
    (tmp_path / "b" / "plan.json").write_text(json.dumps(plan))
    (gap,) = {c for c in _all(open_results(tmp_path / "b")) if isinstance(c, Gap)}
    assert gap.run == "0" * 20
    with pytest.raises(UserError, match="and 1 of its runs differ"):
        together(tmp_path / "a", tmp_path / "b")


def _all(results: Results) -> list[Any]:
    return [c for spots in results.candidates.values() for seeds in spots.values() for c in seeds.values()]


def test_the_folder_that_was_meant_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine" / "a").mkdir(parents=True)
    table = OWN["make"](tmp_path / "mine" / "a")
    run = tmp_path / "mine" / "a" / "runs" / table.runs[0].id
    for folder, hint in (
        (run, f"it lies in the folder of a sweep, name that, {tmp_path / 'mine' / 'a'}"),
        (run.parent, f"it lies in the folder of a sweep, name that, {tmp_path / 'mine' / 'a'}"),
        (tmp_path / "mine", f"it is above folders of sweeps, name one or several of them: {tmp_path / 'mine' / 'a'}"),
        (tmp_path, f"it is above folders of sweeps, name one or several of them: {tmp_path / 'mine' / 'a'}"),
    ):
        with pytest.raises(UserError, match=re.escape(hint)):
            open_results(folder)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "results.jsonl").write_text("{}")
    with pytest.raises(UserError, match="the output of one run of DomainBed, name the folder above"):
        open_results(tmp_path / "one")
