"""Grids of hyperparameters: a row for each point."""

from __future__ import annotations

import math
import re
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgbench.api.options import read_options
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import parse_row
from dgbench.core.errors import UserError
from dgbench.core.run import Run
from dgbench.launchers.values import asked_of
from dgbench.plan.grid import MOST_POINTS, flatten, read_grid, with_points
from dgbench.plan.naming import find_run
from dgbench.plan.options import LAUNCH
from dgbench.plan.planfile import read_plan
from dgbench.plan.sweep_file import merge_flags_over_file, read_sweep_file
from tests.support.in_process import sweep_of

CATALOGUE = Catalogue()
AXES = st.lists(st.floats(0.001, 10).map(lambda x: float(f"{x:.3g}")), min_size=1, max_size=4, unique=True)


def rows(*algorithms: str, **grid: Any) -> list[str]:
    return list(with_points({"algorithms": algorithms, "grid": grid}, CATALOGUE)["algorithms"])


def test_each_row_has_a_point_for_each_value_that_its_entries_take() -> None:
    grid = {"rho": [0.01, 1], "SWAD": {"n_tolerance": [2, 4]}, "ASAM.lr": [0.1]}
    assert rows("ERM", "SAM", "ASAM", "SAM+SWAD", "SWAD", "CORAL+SAM", **grid) == [
        "ERM",
        *("SAM:rho=0.01", "SAM:rho=1"),
        *("ASAM:lr=0.1,rho=0.01", "ASAM:lr=0.1,rho=1"),
        *("SAM:rho=0.01+SWAD:n_tolerance=2", "SAM:rho=0.01+SWAD:n_tolerance=4"),
        *("SAM:rho=1+SWAD:n_tolerance=2", "SAM:rho=1+SWAD:n_tolerance=4"),
        *("SWAD:n_tolerance=2", "SWAD:n_tolerance=4"),
        *("CORAL+SAM:rho=0.01", "CORAL+SAM:rho=1"),
    ]
    assert rows("SWAD", "DiWA", "SAM:rho=.5", lr=["0.1"]) == [
        "ERM:lr=0.1+SWAD",
        "ERM:lr=0.1+DiWA",
        "SAM:lr=0.1,rho=0.5",
    ]


@given(AXES, AXES, AXES)
def test_axes_multiply_whatever_their_values(rho: list[float], lr: list[float], decay: list[float]) -> None:
    words = [f"{name}={','.join(map(str, axis))}" for name, axis in (("rho", rho), ("lr", lr), ("weight_decay", decay))]
    assert read_grid(words) == flatten({"rho": rho, "lr": lr, "weight_decay": decay})
    found = with_points({"algorithms": ["ERM", "SAM"], "grid": read_grid(words)}, CATALOGUE)["algorithms"]
    of_sam = [name for name in found if name.startswith("SAM")]
    assert len(set(found)) == len(found) == math.prod(map(len, (rho, lr, decay))) + len(lr) * len(decay)
    assert len(of_sam) == len(found) - len(lr) * len(decay)


@settings(max_examples=200)
@given(st.lists(st.text(alphabet="ab=,.:+ 1", max_size=8), max_size=3))
def test_words_are_read_or_refused(words: list[str]) -> None:
    valid = all(re.fullmatch(r"[^=]+=[^,]+(,[^,]+)*", word) for word in words)
    names = [word.partition("=")[0] for word in words]
    with nullcontext() if valid and len(set(names)) == len(names) else pytest.raises(UserError, match="--grid"):
        assert [f"{name}={','.join(values)}" for name, values in read_grid(words).items()] == words


def test_all_that_is_wrong_is_said_at_once() -> None:
    grid = {"rho": [-1], "steps": [3], "n_tolerance": [2], "SMA.x": [1], "lrr": [2]}
    with pytest.raises(UserError) as raised:
        rows("ERM", "SAM+SWAD", **grid)
    assert list(raised.value.problems) == [
        "--grid gives values to hyperparameters, and steps is a setting, of which a sweep has one value",
        "n_tolerance is a hyperparameter of SWAD: --grid SWAD.n_tolerance=2",
        "unknown entry in --grid 'SMA': did you mean 'SAM'?",
        "unknown hyperparameter in --grid 'lrr': did you mean 'lr'?",
        "SAM: rho must be at least 0, not -1.0",
    ]
    with pytest.raises(UserError, match="--grid needs --algorithms"):
        rows(rho=[1])
    with pytest.raises(UserError, match="2,000 points for SAM, more than 1,000"):
        rows("SAM", rho=list(range(MOST_POINTS * 2)))
    with pytest.raises(UserError) as raised:
        rows("SAM", rho=[], lr="0.1", SAM={"weight_decay": {}})
    assert [problem.partition(" is a list")[0] for problem in raised.value.problems] == [
        "grid: rho",
        "grid: lr",
        "grid: SAM.weight_decay",
    ]


def test_rows_that_are_no_names_are_left_to_be_refused() -> None:
    assert rows("SAMM", "SAM", rho=[1]) == ["SAMM", "SAM:rho=1"]


def test_a_grid_takes_the_place_of_draws_unless_they_are_asked_for() -> None:
    asked = {"algorithms": ["SAM"], "grid": {"rho": [1]}}
    assert with_points(asked, CATALOGUE)["n_hparams"] == 1
    assert with_points({**asked, "n_hparams": 5}, CATALOGUE)["n_hparams"] == 5
    assert "n_hparams" not in with_points({**asked, "quick": True}, CATALOGUE)
    file = {"algorithms": ["SAM"], "n_hparams": 20, "n_trials": 3}
    merged = merge_flags_over_file(file, {"grid": {"rho": ["1"]}})
    assert merged == {"algorithms": ["SAM"], "n_trials": 3, "grid": {"rho": ["1"]}, "setting": {}, "hparams": {}}


def test_a_sweep_file_holds_a_grid(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text('algorithms = ["SAM"]\ngrid = {rho = [0.1, 1], SAM.lr = [0.01]}\n')
    found = with_points(read_sweep_file(file), CATALOGUE)["algorithms"]
    assert found == ["SAM:lr=0.01,rho=0.1", "SAM:lr=0.01,rho=1"]


def test_python_takes_a_grid_as_a_dict_of_lists() -> None:
    found = read_options({"grid": {"rho": [0.1, 1], "SAM": {"lr": [1e-3]}}}, LAUNCH)
    assert found["grid"] == ["rho=0.1,1", "SAM.lr=0.001"]
    assert asked_of(found)["grid"] == {"rho": ["0.1", "1"], "SAM.lr": ["0.001"]}
    with pytest.raises(UserError, match="rho is given by --grid, and by --set"):
        asked_of({**found, "set": ["rho=2"]})


def test_a_class_written_for_domainbed_has_values_of_any_name(tmp_path: Path) -> None:
    file = tmp_path / "theirs.py"
    file.write_text(
        "import torch\nclass Theirs(torch.nn.Module):\n"
        "    def __init__(self, input_shape, num_classes, num_domains, hparams):\n        super().__init__()\n"
        "    def update(self, minibatches, unlabeled=None):\n        return {}\n"
        "    def predict(self, x):\n        return x\n"
    )
    catalogue = Catalogue([f"{file}:Theirs"])
    asked = {"algorithms": ["Theirs"], "grid": {"gamma": ["1.0", "x"], "batch_size": ["8"]}}
    names = list(with_points(asked, catalogue)["algorithms"])
    assert names == ["Theirs:gamma=1.0,batch_size=8", "Theirs:gamma=x,batch_size=8"]
    values = [catalogue.get("algorithm", parse_row(name, catalogue).algorithm).values for name in names]
    assert values == [{"gamma": 1.0, "batch_size": 8}, {"gamma": "x", "batch_size": 8}]


def test_points_share_the_runs_of_other_rows_that_are_equal(tmp_path: Path) -> None:
    search = sweep_of(tmp_path / "runs", "SAM", "SAM+SWAD", "ERM", n_hparams=3)
    before = {run.id for run in search.plan.runs}
    both = sweep_of(tmp_path / "runs", "ERM", "SAM", grid={"rho": [0.05, 0.2]})
    (new,) = (run for run in both.plan.runs if run.id not in before)
    assert (new.method.name, new.method.hparams["rho"], new.hparams_seed) == ("SAM", 0.2, 0)
    assert [average.name for average in new.averages] == ["SWAD"]
    assert both.plan.rows == ("SAM", "SAM+SWAD", "ERM", "SAM:rho=0.05", "SAM:rho=0.2")
    for row in ("SAM", "SAM+SWAD", "ERM"):
        assert [c.run.id for c in both.plan.candidates[row, "RotatedDigits"]] == [
            c.run.id for c in search.plan.candidates[row, "RotatedDigits"]
        ]
    (point,) = both.plan.candidates["SAM:rho=0.05", "RotatedDigits"]
    assert point.run == search.plan.candidates["SAM", "RotatedDigits"][0].run


def test_runs_of_points_are_told_apart_by_name(tmp_path: Path) -> None:
    grid = {"rho": [0.05, 0.2, 0.3]}
    sweep_of(tmp_path / "runs", "SAM")
    sweep_of(tmp_path / "runs", "SAM", "SAM+T3A", grid=grid)
    table = read_plan(tmp_path / "runs")
    rest = " RotatedDigits [75] hparams 0 trial 0"
    names = {table.name(run).removesuffix(rest) for run in table.runs}
    assert names == {
        *("SAM", "SAM:rho=0.2", "SAM:rho=0.3"),
        *("SAM:rho=0.05+T3A", "SAM:rho=0.2+T3A", "SAM:rho=0.3+T3A"),
    }
    assert all(find_run(table, f"{name}{rest}") for name in names)


def test_values_go_where_their_word_stands(tmp_path: Path) -> None:
    grid = {"lr": [0.01], "T3A": {"filter_K": [20]}, "SWAD": {"n_tolerance": [2, 4]}}
    sweep = sweep_of(
        tmp_path / "runs", "ERM+SWAD", "ERM", "ERM+DiWA", "ERM+T3A", "KD:teacher=ERM", grid=grid, n_hparams=2
    )
    kinds = Counter(run.method.name for run in sweep.plan.runs)
    # ERM by itself, and for each of the two SWADs; KD's teachers have their own values, which are ERM's defaults.
    assert kinds == {"ERM": 2 * 3 + 2, "KD": 2, "DiWA": 1, "T3A": 2}
    assert {run.method.hparams["lr"] for run in _of(sweep.plan.runs, "KD")} == {0.01}
    assert {run.method.hparams["filter_K"] for run in _of(sweep.plan.runs, "T3A")} == {20}
    averages = [average.hparams["n_tolerance"] for run in sweep.plan.runs for average in run.averages]
    assert sorted(averages) == [2, 2, 4, 4]
    predictors = sweep.plan.candidates["ERM:lr=0.01+SWAD:n_tolerance=4", "RotatedDigits"]
    assert [candidate.predictor for candidate in predictors] == ["SWAD", "SWAD"]


def test_values_of_a_row_win_over_those_of_the_sweep(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "runs", "SAM", "SAM:rho=0.3", hparams={"rho": 0.2, "SAM": {"lr": 0.5}})
    of_row = {row: c[0].run.method.hparams for (row, _), c in sweep.plan.candidates.items()}
    assert [of_row[row]["rho"] for row in ("SAM", "SAM:rho=0.3")] == [0.2, 0.3]
    assert [of_row[row]["lr"] for row in ("SAM", "SAM:rho=0.3")] == [0.5, 0.5]


def test_what_no_point_can_follow_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        sweep_of(tmp_path / "runs", "ERM+DiWA", grid={"lr": [0.1]})
    assert "ERM:lr=0.1+DiWA merges the runs of one trial, at least 2" in str(raised.value)
    with pytest.raises(UserError, match="--search halving compares draws of hyperparameters, and there is 1"):
        sweep_of(tmp_path / "runs", "SAM", grid={"rho": [0.1]}, search="halving")
    with pytest.raises(UserError) as raised:
        sweep_of(tmp_path / "runs", "ERM", "SAM", grid={"rho": ["x", -1]})
    assert len(raised.value.problems) == 2


def _of(runs: tuple[Run, ...], method: str) -> list[Run]:
    return [run for run in runs if run.method.name == method]
