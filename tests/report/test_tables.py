"""What stands in the cells of complete and incomplete sweeps, and what is said below them."""

from __future__ import annotations

import dataclasses
import math
from itertools import product

import numpy as np
import pytest

from dgbench.core.protocol import Explicit, LeaveOneDomainOut, Protocol, SingleSource
from dgbench.report.render import FORMATS
from dgbench.report.results import Candidate, Gap, Results, Series
from dgbench.report.selectors import SELECTORS, default_selectors
from dgbench.report.tables import Report, Table, build, shortfall

FOLDS = tuple(LeaveOneDomainOut(pairs=False).folds(("a", "b")))
TRAINING = [SELECTORS["training-domain"]]


def scored(position: int, score: float, value: float = 0.5) -> Series:
    """A run of one step that is reported with `score`."""
    fold = FOLDS[position]
    table = np.array([[score if view in fold.test else value for view in fold.evaluated]])
    return Series(f"{position}/{score}/{value}", (0,), fold.evaluated, table)


def gap(position: int, seed: int = 0, trial: int = 0, state: str = "missing", method: str = "ERM") -> Gap:
    return Gap(f"id{position}{seed}{trial}", method, "D", FOLDS[position].held_out, seed, trial, state)


def sweep(**rows: dict[tuple[int, int], dict[int, Candidate]]) -> Results:
    candidates = {(row, dataset): spots for row, spots in rows.items() for dataset in ("D",)}
    return Results("leave-one-domain-out", "p", 0, tuple(rows), {"D": (0, 1)}, FOLDS, candidates, records=4)


WHOLE: dict[tuple[int, int], dict[int, Candidate]] = {
    (0, 0): {0: scored(0, 0.5)},
    (0, 1): {0: scored(0, 0.7)},
    (1, 0): {0: scored(1, 0.2)},
    (1, 1): {0: scored(1, 0.8)},
}


def cells(table: Table, row: str) -> list[str]:
    return [str(cell) for cell in table.rows[row]]


def only(report: Report) -> tuple[Table, Table]:
    table, averages = report.tables
    return table, averages


def test_complete_tables() -> None:
    table, averages = only(build(sweep(ERM=WHOLE), TRAINING))
    assert table.title == "Dataset: D, model selection method: training-domain validation set"
    assert table.columns == ("a", "b", "Avg")
    assert cells(table, "ERM") == ["60.0 +/- 7.1", "50.0 +/- 21.2", "55.0"]
    assert averages.title == "Averages, model selection method: training-domain validation set"
    assert averages.columns == ("D", "Avg")
    assert cells(averages, "ERM") == ["55.0 +/- 14.1", "55.0"]
    assert table.notes == averages.notes == ()


def test_the_error_is_that_of_the_setting() -> None:
    table, _ = only(build(dataclasses.replace(sweep(ERM=WHOLE), ddof=1), TRAINING))
    assert cells(table, "ERM")[0] == "60.0 +/- 10.0"
    assert "ddof 1" in table.signature["+/-"]


def test_one_trial_has_no_error_and_says_nothing_of_it() -> None:
    table, averages = only(build(sweep(ERM={spot: c for spot, c in WHOLE.items() if spot[1] == 0}), TRAINING))
    assert cells(table, "ERM") == ["50.0", "20.0", "35.0"]
    assert cells(averages, "ERM") == ["35.0", "35.0"]
    assert "+/-" not in table.signature


def test_an_incomplete_cell_is_no_number_and_names_its_runs() -> None:
    rows = {**WHOLE, (1, 1): {0: gap(1, trial=1), 1: gap(1, 1, 1)}, (1, 0): {0: scored(1, 0.2), 1: gap(1, 1, 0)}}
    table, averages = only(build(sweep(ERM=rows), TRAINING))
    assert cells(table, "ERM") == ["60.0 +/- 7.1", "3 runs missing", "3 runs missing"]
    assert cells(averages, "ERM") == ["3 runs missing", "3 runs missing"]
    assert table.notes == ("ERM lacks ERM [b], trial 0 hparams 1; trial 1 hparams 0-1: missing",)


def test_partial_numbers_are_marked_and_say_what_they_stand_on() -> None:
    rows = {**WHOLE, (1, 0): {0: scored(1, 0.2), 1: gap(1, 1, 0)}, (1, 1): {0: gap(1, 0, 1)}}
    table, averages = only(build(sweep(ERM=rows), TRAINING, partial=True))
    assert cells(table, "ERM") == ["60.0 +/- 7.1", "20.0*", "40.0*"]
    assert "ERM b*: 1 of 3 hyperparameter draws, 1 of 2 trials, 2 runs missing" in table.notes
    assert any(note.startswith("* ") for note in table.notes)
    assert cells(averages, "ERM") == ["35.0*", "35.0*"], "trial 1 has no score on b, so it doesn't count"
    assert any(note.startswith("* ") for note in averages.notes)


def test_the_note_of_a_partial_cell_counts_draws_and_trials() -> None:
    rows: dict[tuple[int, int], dict[int, Candidate]] = {
        **{(0, trial): {0: scored(0, 0.5), 1: scored(0, 0.5)} for trial in range(3)},
        (1, 0): {0: scored(1, 0.2), 1: scored(1, 0.2, value=0.4)},
        (1, 1): {0: scored(1, 0.4), 1: gap(1, 1, 1), 2: gap(1, 2, 1, "failed")},
        (1, 2): {0: gap(1, 0, 2)},
    }
    table, _ = only(build(sweep(ERM=rows), TRAINING, partial=True))
    assert cells(table, "ERM") == ["50.0 +/- 0.0", "30.0 +/- 7.1*", "40.0*"]
    told = [note for note in table.notes if note.startswith("ERM b*")]
    assert told == ["ERM b*: 3 of 6 hyperparameter draws, 2 of 3 trials, 2 missing, 1 failed"]
    assert table.signature["trials"] == "2 complete of 3 (0-2)"
    assert table.signature["hparams"] == "none complete of 0-2"


def test_partial_changes_nothing_in_a_complete_sweep() -> None:
    assert build(sweep(ERM=WHOLE), TRAINING, partial=True) == build(sweep(ERM=WHOLE), TRAINING)


def test_a_cell_with_nothing_at_all_is_no_number_even_if_partial() -> None:
    rows = {**WHOLE, (1, 0): {0: gap(1)}, (1, 1): {0: gap(1, trial=1, state="failed")}}
    table, averages = only(build(sweep(ERM=rows), TRAINING, partial=True))
    assert cells(table, "ERM") == ["60.0 +/- 7.1", "1 missing, 1 failed", "1 missing, 1 failed"]
    assert cells(averages, "ERM") == ["1 missing, 1 failed"] * 2


def test_a_row_that_was_never_asked_for_on_a_data_set() -> None:
    table, averages = only(build(sweep(ERM=WHOLE, Fish={}), TRAINING))
    assert cells(table, "Fish") == ["no runs"] * 3
    assert cells(averages, "Fish") == ["no runs"] * 2
    assert cells(table, "ERM")[0] == "60.0 +/- 7.1"


def test_rows_that_lack_the_same_runs_share_a_note() -> None:
    rows = {**WHOLE, (0, 0): {0: gap(0)}}
    table, _ = only(build(sweep(ERM=rows, SWAD=rows), TRAINING))
    assert table.notes == ("ERM, SWAD lack ERM [a], trial 0 hparams 0: missing",)


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (["missing"], "1 run missing"),
        (["running"] * 3, "3 runs running"),
        (["missing", "failed", "missing"], "2 missing, 1 failed"),
        ([], "no runs"),
    ],
)
def test_shortfalls(states: list[str], said: str) -> None:
    assert shortfall([gap(0, seed, state=state) for seed, state in enumerate(states)]) == said


def test_the_signature_counts_each_run_once() -> None:
    rows = {**WHOLE, (0, 0): {0: gap(0), 1: gap(0, 1, state="failed")}}
    table, averages = only(build(sweep(ERM=rows, SWAD=rows), TRAINING))
    assert table.signature["runs"] == averages.signature["runs"] == "3 counted, 1 missing, 1 failed"
    assert table.signature["trials"] == "1 complete of 2 (0-1)"
    assert table.signature["hparams"] == "none complete of 0-1"
    assert (table.signature["protocol"], table.signature["selector"]) == ("leave-one-domain-out", "training-domain")


def test_hyperparameter_seeds_that_differ_are_told_by_row() -> None:
    more = {spot: {**seeds, 1: seeds[0]} for spot, seeds in WHOLE.items()}
    table, _ = only(build(sweep(ERM=more, DiWA=WHOLE), TRAINING))
    assert table.signature["hparams"] == "0-1 (ERM); 0 (DiWA)"


def test_selectors_that_cannot_answer_are_told_and_print_no_table() -> None:
    results = sweep(ERM=WHOLE)
    report = build(results, default_selectors(results))
    assert [table.selector.name for table in report.tables] == ["training-domain"] * 2 + ["oracle"] * 2
    assert report.absent == ("leave-one-domain-out on D: not available, the sweep has no folds with two test domains",)


def several(protocol: Protocol, *, lost: int | None = None) -> Results:
    """Two trials of a protocol whose folds test several domains, a, b and c; the second is better by 0.2."""
    folds = tuple(protocol.folds(("a", "b", "c")))
    places = {"a": 0.1, "b": 0.2, "c": 0.6}
    candidates: dict[tuple[int, int], dict[int, Candidate]] = {}
    for (i, fold), trial in product(enumerate(folds), (0, 1)):
        values = np.array(
            [[places[view.domain] + 0.2 * trial if view in fold.test else 0.5 for view in fold.evaluated]]
        )
        candidates[i, trial] = {0: Series("r", (0,), fold.evaluated, values)}
        if (i, trial) == (lost, 1):
            candidates[i, trial][1] = Gap("g", "ERM", "D", fold.held_out, 1, 1, "missing")
    return Results(protocol.name, "p", 0, ("ERM",), {"D": tuple(range(len(folds)))}, folds, {("ERM", "D"): candidates})


def test_each_of_several_test_domains_has_a_column_before_their_mean() -> None:
    table, averages = only(build(several(SingleSource()), TRAINING))
    assert table.columns == (
        *("from a: b", "from a: c", "from a", "from b: a", "from b: c", "from b", "from c: a", "from c: b", "from c"),
        "Avg",
    )
    assert cells(table, "ERM") == [
        *("30.0 +/- 7.1", "70.0 +/- 7.1", "50.0 +/- 7.1"),
        *("20.0 +/- 7.1", "70.0 +/- 7.1", "45.0 +/- 7.1"),
        *("20.0 +/- 7.1", "30.0 +/- 7.1", "25.0 +/- 7.1"),
        "40.0",
    ]
    assert cells(averages, "ERM") == ["40.0 +/- 7.1", "40.0"]


def test_the_columns_of_test_domains_can_be_left_out() -> None:
    whole, averages = only(build(several(SingleSource()), TRAINING))
    table, same = only(build(several(SingleSource()), TRAINING, columns="fold"))
    assert table.columns == ("from a", "from b", "from c", "Avg")
    assert cells(table, "ERM") == [cells(whole, "ERM")[place] for place in (2, 5, 8, 9)]
    assert same.rows == averages.rows


def test_one_fold_of_several_test_domains_names_them_alone() -> None:
    table, _ = only(build(several(Explicit(train=(), test=("b", "c"))), TRAINING))
    assert table.columns == ("b", "c", "from a", "Avg")
    assert cells(table, "ERM") == ["30.0 +/- 7.1", "70.0 +/- 7.1", "50.0 +/- 7.1", "50.0"]


def test_a_fold_that_is_incomplete_is_so_in_each_of_its_test_domains() -> None:
    lost = several(SingleSource(), lost=1)
    table, _ = only(build(lost, TRAINING))
    assert cells(table, "ERM")[2:7] == ["50.0 +/- 7.1", *["1 run missing"] * 3, "20.0 +/- 7.1"]
    partial, _ = only(build(lost, TRAINING, partial=True))
    assert cells(partial, "ERM")[3:6] == ["20.0 +/- 7.1*", "70.0 +/- 7.1*", "45.0 +/- 7.1*"]
    told = [note for note in partial.notes if note.startswith("ERM")]
    assert told == [
        "ERM from b*: 2 of 3 hyperparameter draws, 2 of 2 trials, 1 run missing",
        "ERM lacks ERM [a+c], trial 1 hparams 1: missing",
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_has_the_columns_of_test_domains(form: str) -> None:
    shown = FORMATS[form](build(several(SingleSource()), TRAINING))
    less = FORMATS[form](build(several(SingleSource()), TRAINING, columns="fold"))
    assert "from b: c" in shown
    assert "from b: c" not in less
    assert "from b" in less


def test_what_stands_on_a_chosen_run_that_diverged_is_marked() -> None:
    lost = dataclasses.replace(scored(0, 0.7, value=0.9), diverged=True)
    fine = dataclasses.replace(scored(1, 0.1, value=0.1), diverged=True)
    rows = {**WHOLE, (0, 1): {0: scored(0, 0.2), 1: lost}, (1, 0): {0: scored(1, 0.2), 1: fine}}
    table, averages = only(build(sweep(ERM=rows, SAM=WHOLE), TRAINING))
    assert cells(table, "ERM") == ["60.0 +/- 7.1!", "50.0 +/- 21.2", "55.0!"]
    assert cells(averages, "ERM") == ["55.0 +/- 14.1!", "55.0!"]
    assert "!" not in "".join([*cells(table, "SAM"), *cells(averages, "SAM")])
    assert table.signature["diverged"] == "2 of 6 runs (ERM)"
    for notes in (table.notes, averages.notes):
        assert [note for note in notes if note.startswith("! ")] == [
            "! stands on a chosen run that diverged: it ended with a loss or metric that is no number"
        ]


def test_a_mean_that_is_no_number_needs_no_mark() -> None:
    rows = {**WHOLE, (0, 1): {0: dataclasses.replace(scored(0, math.nan), diverged=True)}}
    table, _ = only(build(sweep(ERM=rows), TRAINING))
    assert cells(table, "ERM") == ["diverged", "50.0 +/- 21.2", "diverged"]


def test_trials_that_differ_are_told_by_row() -> None:
    one = {spot: seeds for spot, seeds in WHOLE.items() if spot[1] == 0}
    table, averages = only(build(sweep(ERM=WHOLE, SAM=one), TRAINING))
    assert table.signature["trials"] == averages.signature["trials"] == "2 (0-1) (ERM); 1 (0) (SAM)"
    assert "ddof 0" in table.signature["+/-"]


def test_only_complete_hyperparameter_seeds_and_trials_are_told_as_chosen_among() -> None:
    rows = {spot: {**seeds, **{n: gap(spot[0], n, spot[1]) for n in (1, 2, 3)}} for spot, seeds in WHOLE.items()}
    rows[1, 1] = {0: gap(1, 0, 1), **{n: gap(1, n, 1) for n in (1, 2, 3)}}
    table, _ = only(build(sweep(ERM=rows, SAM=WHOLE), TRAINING, partial=True))
    assert table.signature["hparams"] == "none complete of 0-3 (ERM); 0 (SAM)"
    assert table.signature["trials"] == "1 complete of 2 (0-1) (ERM); 2 (0-1) (SAM)"
    rows[1, 1] = {**WHOLE[1, 1], 3: scored(1, 0.3)}
    table, _ = only(build(sweep(ERM=rows), TRAINING, partial=True))
    assert table.signature["hparams"] == "0 complete of 0-3"
    assert table.signature["trials"] == "2 (0-1)"


def test_domains_that_train_and_are_never_tested_are_told() -> None:
    (fold,) = LeaveOneDomainOut(pairs=False, only=("b",)).folds(("a", "b", "c"))
    series = Series("r", (0,), fold.evaluated, np.full((1, len(fold.evaluated)), 0.5))
    results = Results("p", "p", 0, ("ERM",), {"D": (0,)}, (fold,), {("ERM", "D"): {(0, 0): {0: series}}})
    table, averages = only(build(results, TRAINING))
    assert table.columns == ("b", "Avg")
    assert table.signature["not tested"] == averages.signature["not tested"]
    assert table.signature["not tested"] == "D a, c (averages are over the other domains)"
    assert "not tested" not in only(build(sweep(ERM=WHOLE), TRAINING))[0].signature


def test_runs_on_different_data_are_warned_of() -> None:
    results = sweep(ERM=WHOLE)
    results.origin.fingerprints.update(D={"x": 3, "y": 1})  # type: ignore[attr-defined]
    table, averages = only(build(results, TRAINING))
    assert any("different data of D" in note for note in table.notes)
    assert any("different data of D" in note for note in averages.notes)
    assert table.signature["data"] == "D x|y"
