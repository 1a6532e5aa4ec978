"""Selection under the microscope: against brute force over subsets, and against the records themselves."""

from __future__ import annotations

import runpy
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbench.report.reader import read_results
from dgbench.report.results import Results, Series
from dgbench.report.scrutiny import candidates, correlation, draws, losses, model_scores, search_curve
from dgbench.report.selectors import SELECTORS
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
SET = "ColoredMNIST"
TRAINING, ORACLE = SELECTORS["training-domain"], SELECTORS["oracle"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root: Path = tmp_path_factory.mktemp("own")
    OWN["make"](root, hparams=4)
    return read_results(root)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=7))
def test_the_curve_is_the_mean_over_all_subsets(found: list[tuple[int, int]]) -> None:
    values, scores = [value / 4 for value, _ in found], [score / 9 for _, score in found]
    curve = search_curve(values, scores)
    for k in range(1, len(found) + 1):
        chosen = [scores[max(some, key=lambda i: (values[i], i))] for some in combinations(range(len(found)), k)]
        assert curve.mean[k - 1] == pytest.approx(np.mean(chosen))
        assert curve.std[k - 1] == pytest.approx(np.std(chosen), abs=1e-7)


def test_the_curve_of_a_sweep_ends_at_its_pick(results: Results) -> None:
    for selector in (TRAINING, ORACLE, SELECTORS["leave-one-domain-out"]):
        for position in results.reported(SET):
            for trial in (0, 1):
                rated = draws(results, selector, "ERM", SET, position, trial)
                curve = search_curve([pick.value for pick in rated], [pick.score for pick in rated])
                pick = selector.choose(results, "ERM", SET, position, trial).pick
                assert len(rated) == 4
                assert pick
                assert curve.mean[-1] == pytest.approx(pick.score)
                assert curve.std[-1] == 0
                assert curve.mean[0] == pytest.approx(np.mean([pick.score for pick in rated]))


def test_losses_are_against_the_oracle_and_the_best_there_was(results: Results) -> None:
    found = list(losses(results, TRAINING, SET))
    assert len(found) == 3 * 3 * 2
    for loss in found:
        assert loss.best >= max(loss.score, loss.oracle)
        spot = results.at(loss.row, SET, (loss.fold, loss.trial)).values()
        every = [
            value
            for series in spot
            if isinstance(series, Series)
            for value in series.mean(results.folds[loss.fold].test)
        ]
        assert loss.best == max(every)
    assert all(loss.score == loss.oracle for loss in losses(results, ORACLE, SET))
    assert list(losses(results, SELECTORS["validation-domain"], SET)) == []


def test_correlations() -> None:
    x = [0.1, 0.2, 0.3, 0.4]
    assert correlation(x, [0.2, 0.4, 0.6, 0.8]).pearson == pytest.approx(1)
    found = correlation(x, [0.1, 0.11, 0.12, 0.9])
    assert found.spearman == pytest.approx(1)
    assert found.pearson == pytest.approx(np.corrcoef(x, [0.1, 0.11, 0.12, 0.9])[0, 1])
    assert correlation([*x, np.nan], [0.2, 0.4, 0.6, 0.8, 0.1]).models == 4
    assert correlation(x[:2], x[:2]).refused == "2 models"
    assert correlation([1, 1, 1], x[:3]).refused == "all of one accuracy"


def test_all_models_of_a_row_are_correlated(results: Results) -> None:
    position = results.reported(SET)[0]
    validation, test = model_scores(results, "ERM", SET, position)
    assert len(validation) == len(test) == 2 * 4 * 3
    series = results.at("ERM", SET, (position, 0))[0]
    assert isinstance(series, Series)
    assert test[:3].tolist() == series.mean(results.folds[position].test).tolist()
    assert correlation(validation, test).models == 24


def test_what_a_row_is_chosen_from(results: Results) -> None:
    position = results.reported(SET)[0]
    found = {row: candidates(results, TRAINING, row, SET, position, 0) for row in results.rows}
    assert found == {"ERM": 4 * 3, "ERM+SWAD": 4, "ERM+DiWA": 1}
    assert candidates(results, ORACLE, "ERM", SET, position, 0) == 4
    assert candidates(results, SELECTORS["leave-one-domain-out"], "ERM", SET, position, 0) == 12
