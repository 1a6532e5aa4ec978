"""Tidy tables: a row a trial, with types, whatever is missing or diverged."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dgbench.core.errors import UserError
from dgbench.core.protocol import LeaveOneDomainOut, SingleSource
from dgbench.report import tidy
from dgbench.report.choice import restrict
from dgbench.report.results import Candidate, Gap, Results, Series
from dgbench.report.selectors import SELECTORS
from dgbench.report.tables import Report, build


def report(protocol: LeaveOneDomainOut | SingleSource | None = None) -> Report:
    """Rows ERM and SAM in two trials of two domains; ERM diverged in the second, SAM lacks its runs of domain b."""
    folds = tuple((protocol or LeaveOneDomainOut(pairs=False)).folds(("a", "b", "c")))[:2]
    candidates: dict[tuple[str, str], dict[tuple[int, int], dict[int, Candidate]]] = {}
    for row in ("ERM", "SAM"):
        spots = candidates.setdefault((row, "D"), {})
        for position, fold in enumerate(folds):
            for trial in (0, 1):
                values = np.arange(len(fold.evaluated))[None] / 100 + trial / 10
                series = Series(
                    f"{row}{position}{trial}", (7,), fold.evaluated, values, diverged=row == "ERM" and trial == 1
                )
                gap = Gap("g", row, "D", fold.held_out, 0, trial, "failed")
                spots[position, trial] = {0: gap if row == "SAM" and position == 1 else series}
    results = Results("p", "p", 1, ("ERM", "SAM"), {"D": (0, 1)}, folds, candidates)
    return build(results, [SELECTORS["oracle"]])


def test_each_trial_of_each_cell_has_a_row() -> None:
    found = list(tidy.rows(report()))
    assert all(list(row) and set(row) == set(tidy.FIELDS) for row in found)
    assert [(row["row"], row["domain"], row["trial"]) for row in found] == [
        (row, domain, trial) for row in ("ERM", "SAM") for domain in ("a", "b") for trial in (0, 1)
    ]
    first, second = found[:2]
    assert (first["state"], first["step"], first["hparams_seed"], first["run"]) == ("complete", 7, 0, "ERM00")
    assert second["state"] == "diverged"
    assert second["score"] == pytest.approx(first["score"] + 10)  # type: ignore[operator]
    lost = found[-1]
    assert (lost["state"], lost["score"], lost["run"], lost["candidates"], lost["lacking"]) == (
        "missing",
        None,
        None,
        0,
        1,
    )


def test_the_mean_over_trials_is_the_cell() -> None:
    whole = report()
    frame = pd.DataFrame(tidy.rows(whole)).dropna(subset="score")
    means = frame.groupby(["row", "domain"])["score"].mean()
    for row, cells in whole.tables[0].rows.items():
        for cell in cells[:-1]:
            if cell.estimate:
                assert math.isclose(means[row, cell.column], cell.estimate.mean)


def test_single_test_domains_of_a_fold_have_their_own_scores() -> None:
    whole = report(SingleSource())
    frame = pd.DataFrame(tidy.rows(whole)).dropna(subset="score")
    means = frame.groupby(["row", "domain"])["score"].mean()
    columns = [cell.column for cell in whole.tables[0].rows["ERM"][:-1]]
    assert "from a: b" in columns
    for cell in whole.tables[0].rows["ERM"][:-1]:
        assert cell.estimate
        assert math.isclose(means["ERM", cell.column], cell.estimate.mean)


def test_columns_are_chosen_and_rows_sorted() -> None:
    lines = list(csv.DictReader(io.StringIO(tidy.as_csv(report(), ["score", "row"], "score"))))
    assert list(lines[0]) == ["score", "row"]
    scores = [float(line["score"]) for line in lines if line["score"]]
    assert scores == sorted(scores, reverse=True)
    assert [line["score"] for line in lines[-2:]] == ["", ""], "rows without a number come last"
    by_text = [line["run"] for line in csv.DictReader(io.StringIO(tidy.as_csv(report(), ["run"], "run")))]
    assert by_text[:2] == ["ERM00", "ERM01"]


def test_a_file_beside_says_how_the_numbers_were_made() -> None:
    content = json.loads(tidy.signature(report()))
    assert content["signature"]["protocol"] == "p"
    assert list(content["fields"]) == list(tidy.FIELDS)
    assert any("lacks" in note for note in content["notes"])
    assert content["reads"]["oracle"].startswith("labelled data")


def test_parquet_has_types_and_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    tidy.write_parquet(report(), tmp_path / "t.parquet", ["row", "trial", "score", "state"], "score")
    frame = pd.read_parquet(tmp_path / "t.parquet", dtype_backend="numpy_nullable")
    assert frame.dtypes.astype(str).to_dict() == {
        "row": "string",
        "trial": "Int64",
        "score": "Float64",
        "state": "string",
    }
    expected = [row["score"] for row in tidy.select(list(tidy.rows(report())), (), "score")]
    assert [None if pd.isna(value) else value for value in frame["score"]] == expected


def test_without_pyarrow_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidy, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'dgbench\[parquet\]'"):
        tidy.write_parquet(report(), tmp_path / "t.parquet")


def test_sorting_puts_rows_without_a_number_last_and_keeps_tables_without_the_column() -> None:
    whole = report()
    assert list(restrict(whole, sort="b").tables[0].rows) == ["ERM", "SAM"]
    better = replace(whole, tables=tuple(replace(t, rows=dict(reversed(t.rows.items()))) for t in whole.tables))
    assert list(restrict(better, sort="b").tables[0].rows) == ["ERM", "SAM"]
    assert list(restrict(better, sort="D").tables[0].rows) == ["SAM", "ERM"], "a column of the averages alone"
