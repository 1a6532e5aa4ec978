"""Correlations of measures with accuracy."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dgbench.core.cards import SeriesCard
from dgbench.core.errors import UserError
from dgbench.report import analyses
from dgbench.report.analyses import agreement, agreement_of_accuracy


def frame_of(values: dict[str, list[float]], outcomes: list[float]) -> pd.DataFrame:
    lines = [
        ("ERM", "A", "D", place, f"{place}{i}", "m", 0, 0, 1, "held out", "v", "x", value, 0.9, outcome)
        for place, found in values.items()
        for i, (value, outcome) in enumerate(zip(found, outcomes, strict=True))
    ]
    return pd.DataFrame(lines, columns=list(analyses.COLUMNS))


def test_agreement_is_kendalls_tau_within_each_held_out_domain() -> None:
    # Within each domain the order is the same as that of the outcomes; across domains the values don't compare.
    (line,) = agreement(frame_of({"a": [1, 2, 3, 4], "b": [101, 102, 103, 104]}, [0.1, 0.2, 0.3, 0.4])).itertuples()
    assert (line.tau, line.tau_gap, line.runs) == (1, -1, 8)
    (line,) = agreement(frame_of({"a": [1, 2, 3, 4], "b": [4, 3, 2, 1]}, [0.1, 0.2, 0.3, 0.4])).itertuples()
    assert line.tau == pytest.approx(0)
    (line,) = agreement(frame_of({"a": [1, 3, 2, 4]}, [0.1, 0.2, 0.3, 0.4])).itertuples()
    assert line.tau == pytest.approx(4 / 6)
    assert -1 <= line.low < line.tau < line.high == 1
    (line,) = agreement(frame_of({"a": [1, 1, 1, 1]}, [0.1, 0.2, 0.3, 0.4])).itertuples()
    assert math.isnan(line.tau)


def test_accuracy_itself_is_a_measure_to_beat() -> None:
    frame = frame_of({"a": [4, 1, 2, 3]}, [0.1, 0.2, 0.3, 0.4]).assign(in_domain=[0.1, 0.2, 0.4, 0.3])
    both = pd.concat([frame, frame.assign(measure="y", value=-1.0)])
    (line,) = agreement_of_accuracy(both).itertuples()
    assert (line.measure, line.role, line.runs) == ("in-domain accuracy", "validation", 4)
    assert line.tau == pytest.approx(4 / 6)


def test_errors_of_estimates_are_not_correlated() -> None:
    frame = frame_of({"a": [1, 2, 3, 4]}, [0.1, 0.2, 0.3, 0.4])
    both = pd.concat([frame, frame.assign(measure="x_error")])
    assert list(agreement(both)["measure"]) == ["x"]


def test_tau_of_resamples_is_scipys() -> None:
    rng = np.random.default_rng(3)
    ones, others = rng.integers(0, 5, 12).astype(float), rng.normal(size=12)
    chosen = rng.integers(12, size=(6, 12))
    expected = [stats.kendalltau(ones[i], others[i]).statistic for i in chosen]
    assert analyses.tau_b(analyses.signs(ones), analyses.signs(others), chosen) == pytest.approx(expected)


def test_the_card_of_a_series_is_complete() -> None:
    right = {"title": "T", "drawing": "map", "labels": {"x": "x", "y": "y", "v": "v"}, "x": "x"}
    SeriesCard(**right, y="y", values=("v",))
    for wrong, why in (
        ({"drawing": "line", "values": ("v",)}, "did you mean 'lines'"),
        ({"values": ("v",)}, "lacks y"),
        ({"y": "y"}, "lacks values"),
        ({"y": "y", "values": ("w",)}, "unknown column"),
    ):
        with pytest.raises(UserError, match=why):
            SeriesCard(**right | wrong)
