"""What stands below a table."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from dgbench import collect
from dgbench.core.protocol import FixedSplit, LeaveOneDomainOut
from dgbench.core.run import ALL_TRIALS, evaluated_views
from dgbench.core.wording import format_ranges
from dgbench.plan.provenance import Provenance
from dgbench.report.origin import Origin
from dgbench.report.reader import read_results
from dgbench.report.results import Candidate, Gap, Results, Series
from dgbench.report.select import TrainingDomain
from dgbench.report.selectors import SELECTORS
from dgbench.report.signature import describe_gaps, disagreements, signature
from dgbench.report.tables import build
from dgbench.store.run_folder import RunFolder
from tests.support import own_sweep


def gap(held_out: str, seed: int, trial: int, state: str = "missing", why: str = "") -> Gap:
    return Gap("", "ERM", "D", tuple(held_out), seed, trial, state, why)


def test_numbers_in_short() -> None:
    assert format_ranges([3, 1, 2, 7, 9, 10, 7]) == "1-3, 7, 9-10"
    assert format_ranges([]) == ""


def test_the_exact_runs_that_are_lacking() -> None:
    gaps = [gap(fold, seed, trial) for fold in "ab" for trial in (0, 2) for seed in (0, 1, 5)]
    gaps += [gap("ab", 4, 1), gap("b", 3, 0, "failed", "out of memory")]
    assert list(describe_gaps(gaps)) == [
        "ERM [a] [b], trials 0, 2 hparams 0-1, 5: missing",
        "ERM [a+b], trial 1 hparams 4: missing",
        "ERM [b], trial 0 hparams 3: failed (out of memory)",
    ]


def test_trials_that_lack_different_seeds_stand_apart() -> None:
    assert list(describe_gaps([gap("a", 0, 0), gap("a", 1, 1)])) == [
        "ERM [a], trial 0 hparams 0; trial 1 hparams 1: missing"
    ]


def test_runs_that_disagree_are_warned_of() -> None:
    sources = {"Mine": Counter({"mine.py 1": 2, "mine.py 2": 4}), "Ours": Counter({"ours.py 1": 6})}
    origin = Origin(
        {"D": Counter(x=3, y=1), "E": Counter(x=2)}, Counter({"torch 2": 6}), Counter(abc=5, dirty=1), sources
    )
    results = Results("p", "s", 0, (), {}, (), {}, origin=origin)
    assert disagreements(results, ["D", "E"]) == (
        "WARNING: its runs were made on different data of D: x (3 runs), y (1 runs)",
        "WARNING: its runs were made at different commits: abc (5 runs), dirty (1 runs)",
        "WARNING: its runs were made by different versions of Mine: mine.py 1 (2 runs), mine.py 2 (4 runs)",
    )
    assert len(disagreements(results, ["E"])) == 2


def test_what_is_not_the_presets_is_told() -> None:
    asked = signature(
        Results("p", "s", 0, (), {}, (), {}, provenance=Provenance(asked=("steps 7", "lr 0.1"))), TrainingDomain(), []
    )
    assert asked["beside the preset"] == "steps 7, lr 0.1"
    assert "beside the preset" not in signature(Results("p", "s", 0, (), {}, (), {}), TrainingDomain(), [])


def test_who_saw_more_of_the_test_domain_is_told() -> None:
    shown = {"ARM": "its batch", "T3A": "the stream", "ARM+SWAD": "its batch"}
    results = Results("p", "s", 0, ("ARM", "T3A", "ARM+SWAD", "ERM"), {}, (), {}, provenance=Provenance(shown=shown))
    found = signature(results, TrainingDomain(), [])
    assert found["shown of the test domain"] == "ARM, ARM+SWAD: its batch; T3A: the stream"
    bare = signature(Results("p", "s", 0, ("ERM",), {}, (), {}), TrainingDomain(), [])
    assert "shown of the test domain" not in bare
    assert not any(key.startswith("taught") for key in bare)


def test_who_taught_is_told() -> None:
    taught = {"KD": "ERM+SWAD", "KD+WAKD": "ERM+SWAD"}
    results = Results("p", "s", 0, ("ERM", "KD", "KD+WAKD"), {}, (), {}, provenance=Provenance(taught=taught))
    assert signature(results, TrainingDomain(), [])["taught by"] == "KD, KD+WAKD: ERM+SWAD"


@pytest.mark.parametrize(
    ("selector", "evaluated", "reads"),
    [
        (
            "training-domain",
            "3 (ERM, GreedySoup); 1 (SWAD, DiWA); 2: best model and last (T3A)",
            "mean accuracy on the training domains' validation parts, at every evaluated step (ERM, SWAD); of each "
            "merged model whose members are their runs' best in validation (DiWA, GreedySoup); of the best model in "
            "validation and the last (T3A)",
        ),
        (
            "oracle",
            "last of 3 (ERM, GreedySoup); 1 (SWAD, DiWA); last of 2: best model and last (T3A)",
            "labelled data of the test domain that is not reported, at the last step only (ERM, SWAD); of the last "
            "merged model whose members are their runs' best in validation (DiWA, GreedySoup); of the last model alone "
            "(T3A)",
        ),
        (
            "leave-one-domain-out",
            "2 (ERM, GreedySoup); 1 (SWAD, DiWA); 2: best model and last (T3A)",
            "for each training domain the accuracy on it of the run that held it out together with the test domain, "
            "mean over training domains, at every step that all these runs evaluated (ERM, SWAD); of each merged model "
            "whose members are their runs' best in validation (DiWA, GreedySoup); of each run's best model in "
            "validation together, and of each run's last (T3A)",
        ),
    ],
)
def test_what_is_read_of_rows_that_are_made_of_other_runs_is_told_by_row(
    selector: str, evaluated: str, reads: str
) -> None:
    folds = tuple(LeaveOneDomainOut(only=("a",)).folds(("a", "b", "c")))

    def spots(
        single: tuple[int, ...], pair: tuple[int, ...], adapted: bool = False
    ) -> dict[tuple[int, int], dict[int, Candidate]]:
        steps = (single, *[pair] * (len(folds) - 1))
        made = [np.ones((len(steps[i]), len(fold.evaluated))) for i, fold in enumerate(folds)]
        return {
            (i, 0): {0: Series(f"{i}", steps[i], fold.evaluated, made[i], adapted=adapted)}
            for i, fold in enumerate(folds)
        }

    rows = {
        "ERM": spots((0, 5, 9), (0, 9)),
        "SWAD": spots((9,), (9,)),
        "DiWA": spots((9,), (9,)),
        "GreedySoup": spots((7, 8, 9), (8, 9)),
        "T3A": spots((5, 9), (0, 7), adapted=True),
    }
    results = Results(
        *("p", "s", 0, tuple(rows), {"D": tuple(range(len(folds)))}, folds),
        {(row, "D"): found for row, found in rows.items()},
        members={"DiWA": "2", "GreedySoup": "2"},
        pooled=frozenset({"DiWA", "GreedySoup"}),
        adapted=frozenset({"T3A"}),
    )
    for table in build(results, [SELECTORS[selector]]).tables:
        assert table.signature["evaluated steps"] == evaluated
        assert table.reads == reads
        assert table.signature["hparams"] == "0 (ERM, SWAD, T3A); all of them merged (DiWA, GreedySoup)"


def test_of_one_model_of_all_trials_nothing_is_read_to_choose_it() -> None:
    (fold,) = LeaveOneDomainOut(pairs=False, only=("a",)).folds(("a", "b"))
    views = evaluated_views(fold, ALL_TRIALS)
    series = Series("r", (9,), views, np.ones((1, len(views))))
    results = Results(
        *("p", "s", 0, ("DiWADagger",), {"D": (0,)}, (fold,), {("DiWADagger", "D"): {(0, ALL_TRIALS): {0: series}}}),
        members={"DiWADagger": "6"},
        pooled=frozenset({"DiWADagger"}),
    )
    (table, _) = build(results, [SELECTORS["oracle"]]).tables
    assert table.reads == (
        "labelled data of the test domain that is not reported, but for the one model of all trials whose members are "
        "their runs' best in validation, which nothing was read to choose"
    )
    assert table.signature["one model of all trials"] == "DiWADagger: nothing was selected"
    assert "trials" not in table.signature
    assert "+/-" not in table.signature


AMD, INTEL = "AMD EPYC (AVX2)", "Intel Xeon (AVX512), NVIDIA H200"


@pytest.mark.parametrize(
    ("trained", "merged", "told"),
    [
        ((AMD, "2.9"), (AMD, "2.9"), ""),
        (("", "2.9"), ("", "2.9"), ""),
        ((AMD, "2.9"), (INTEL, "2.9"), f"{AMD} (ERM, ERM+SWAD); {INTEL} (ERM+DiWA)"),
        (("", "2.9"), (INTEL, "2.9"), f"not recorded (ERM, ERM+SWAD); {INTEL} (ERM+DiWA)"),
        ((AMD, "2.9"), (AMD, "2.10"), f"{AMD}, torch 2.9 (ERM, ERM+SWAD); {AMD}, torch 2.10 (ERM+DiWA)"),
    ],
)
def test_rows_from_different_kinds_of_machines_are_told_apart(
    tmp_path: Path, trained: tuple[str, str], merged: tuple[str, str], told: str
) -> None:
    write_kinds(tmp_path, trained, merged)
    (table, *_) = build(read_results(tmp_path), [TrainingDomain()]).tables
    assert table.signature.get("kinds of machines", "") == told


def write_kinds(root: Path, trained: tuple[str, str], merged: tuple[str, str]) -> None:
    """A finished sweep whose trained and merged runs are of two kinds: hardware, and version of torch."""
    table = own_sweep.make(root, hparams=1, trials=1)
    for run in table.runs:
        hardware, torch = merged if run.kind == "merge" else trained
        versions = {**own_sweep.SUMMARY["versions"], "torch": torch}  # type: ignore[dict-item]
        RunFolder(root, run.id).finish({**own_sweep.SUMMARY, "machine": hardware, "versions": versions})


def test_rows_of_several_kinds_are_told_of_together(tmp_path: Path) -> None:
    table = own_sweep.make(tmp_path, hparams=1, trials=1)
    for run in table.runs:
        machine = AMD if table.folds[run.fold].held_out == ("+90%",) else INTEL
        RunFolder(tmp_path, run.id).finish({**own_sweep.SUMMARY, "machine": machine})
    (found, *_) = build(read_results(tmp_path), [TrainingDomain()]).tables
    assert found.signature["kinds of machines"] == f"{AMD}|{INTEL}"


@pytest.mark.parametrize("words", [["--format", "text"], ["--format", "markdown"], ["--format", "latex"]])
def test_kinds_of_machines_stand_below_the_table_in_each_format(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_kinds(tmp_path, (AMD, "2.9"), (INTEL, "2.9"))
    notes = ["--notes", "full"] if "latex" in words else []
    assert collect.main(["--input_dir", str(tmp_path), *words, *notes]) == 0
    assert f"kinds of machines: {AMD} (ERM, ERM+SWAD); {INTEL} (ERM+DiWA)" in capsys.readouterr().out


def test_what_only_some_sweeps_have_is_told_of_those_alone() -> None:
    bare = Results("leave-one-domain-out", "s", 0, (), {}, (), {})
    for name in ("one model of all trials", "validation", "no example of", "on", "diverged", "hparams", "trials"):
        assert name not in signature(bare, TrainingDomain(), [])
    folds = tuple(LeaveOneDomainOut(pairs=False).folds(("a", "b")))
    lacking_some = dataclasses.replace(
        bare, datasets={"D": (0, 1)}, folds=folds, missing_classes={"D": {"a": ("x", "y")}}
    )
    told = signature(lacking_some, TrainingDomain(), ["D"])["no example of"]
    assert told == "x, y in D a (trained and scored on what there is)"
    (fold,) = FixedSplit().folds(("all",), parts=("train", "val", "test"))
    split = Results("fixed-split", "s", 0, (), {"D": (0,)}, (fold,), {})
    assert signature(split, TrainingDomain(), ["D"])["validation"].endswith("(val) for all that is chosen")


def test_among_how_many_steps_each_row_is_chosen_is_told() -> None:
    def spots(*counts: int) -> dict[tuple[int, int], dict[int, Candidate]]:
        series: Iterable[Candidate] = (Series("r", tuple(range(n)), (), np.zeros((n, 0))) for n in counts)
        return {(0, 0): {**dict(enumerate(series)), 9: gap("a", 9, 0)}}

    folds = tuple(LeaveOneDomainOut(only=("a",)).folds(("a", "b")))

    def told(**rows: tuple[int, ...]) -> str | None:
        candidates = {(row, "D"): spots(*counts) for row, counts in rows.items()}
        results = Results("p", "s", 0, tuple(rows), {"D": (0,)}, folds, candidates, adapted=frozenset({"T3A", "TENT"}))
        return signature(results, TrainingDomain(), ["D"]).get("evaluated steps")

    found = told(ERM=(7, 7), SMA=(5, 7), SAM=(7,), T3A=(1, 2), TENT=(1,))
    assert found == (
        "7 (ERM, SAM); 5, 7 (SMA); 1-2: best model and last (T3A); 1: best model, which is the last (TENT)"
    )
    assert told(ERM=(7,), SAM=(7,)) == "7"
    assert told(T3A=(2,)) == "2: best model and last"
    assert told(ERM=()) is None, "nothing is finished"
