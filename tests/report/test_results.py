"""A sweep folder as selection sees it: what counts, what doesn't and why."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgbench.core.errors import UserError
from dgbench.core.protocol import LeaveOneDomainOut, SingleSource, View
from dgbench.plan.planfile import FORMAT
from dgbench.report.reader import read_results
from dgbench.report.results import Candidate, Gap, Results, Series
from dgbench.report.selectors import SELECTORS
from dgbench.report.tables import build
from dgbench.store.run_folder import RunFolder
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
DOMAINS = ("+90%", "+80%", "-90%")
FIRST = {"kind": "train", "hparams_seed": 0, "trial": 0, "held_out": ("+90%",)}


def first(results: Results, row: str = "ERM") -> Candidate:
    return results.at(row, "ColoredMNIST", (0, 0))[0]


def test_series_hold_what_the_records_say(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path)
    results = read_results(tmp_path)
    folder = OWN["folder"](tmp_path, table, **FIRST)
    _, records, torn = folder.finished()
    assert torn == 0
    one, swad = first(results), first(results, "ERM+SWAD")
    assert isinstance(one, Series)
    assert isinstance(swad, Series)
    assert one.steps == (0, 5, 9)
    assert swad.steps == (9,)
    assert one.views == results.folds[0].evaluated
    for series, mine in ((one, records[:3]), (swad, records[3:])):
        expected = [[record["views"][str(view)]["accuracy"] for view in series.views] for record in mine]
        assert series.values.tolist() == expected


def test_facts_of_the_sweep(tmp_path: Path) -> None:
    OWN["make"](tmp_path, preset="dgbench")
    results = read_results(tmp_path)
    assert results.rows == ("ERM", "ERM+SWAD", "ERM+DiWA")
    assert (results.protocol, results.preset, results.ddof) == ("leave-one-domain-out", "dgbench", 1)
    assert results.members == {"ERM+DiWA": "2"}
    assert results.pooled == {"ERM+DiWA"}
    assert results.records == 6 * 2 * (2 * 4 + 1)
    assert dict(results.origin.fingerprints["ColoredMNIST"]) == {"f00d": 36}
    assert dict(results.origin.versions) == {"dgbench 0.1.0, torch 2.9": 36}
    assert dict(results.origin.commits) == {"abc1234": 36}
    assert results.notes == ()


def test_processors_that_differ_are_told(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path, hparams=1, trials=1, protocol=LeaveOneDomainOut(pairs=False))
    (before, _) = build(read_results(tmp_path), [SELECTORS["oracle"]]).tables
    assert "on" not in before.signature, "runs of earlier versions don't say"
    for run, machine in zip(table.runs, ("AMD EPYC (AVX2)", "Intel Xeon (AVX512), NVIDIA H200"), strict=False):
        RunFolder(tmp_path, run.id).finish({**OWN["SUMMARY"], "machine": machine})
    results = read_results(tmp_path)
    assert dict(results.origin.machines) == {"AMD EPYC (AVX2)": 1, "Intel Xeon (AVX512), NVIDIA H200": 1}
    (after, _) = build(results, [SELECTORS["oracle"]]).tables
    assert after.signature["on"] == "AMD EPYC (AVX2)|Intel Xeon (AVX512), NVIDIA H200"
    assert after.rows == before.rows


def test_single_folds_are_reported_and_pairs_found(tmp_path: Path) -> None:
    OWN["make"](tmp_path, trials=1)
    results = read_results(tmp_path)
    reported = results.reported("ColoredMNIST")
    assert [results.folds[p].held_out for p in reported] == [(d,) for d in DOMAINS]
    pairs = results.pairs("ColoredMNIST", reported[1])
    assert [(view, results.folds[p].held_out) for view, p in pairs] == [
        (View("+90%", "in"), ("+90%", "+80%")),
        (View("-90%", "in"), ("+80%", "-90%")),
    ]


def test_every_fold_of_other_protocols_is_reported(tmp_path: Path) -> None:
    OWN["make"](tmp_path, trials=1, protocol=SingleSource())
    results = read_results(tmp_path)
    reported = results.reported("ColoredMNIST")
    assert [results.folds[p].training_domains for p in reported] == [(d,) for d in DOMAINS]
    assert results.pairs("ColoredMNIST", reported[0]) == ()


def test_a_run_without_done_never_counts(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path, protocol=LeaveOneDomainOut(pairs=False))
    folder = OWN["folder"](tmp_path, table, **FIRST)
    (folder.path / "done").unlink()
    results = read_results(tmp_path)
    for row in ("ERM", "ERM+SWAD"):
        assert first(results, row) == Gap(folder.id, "ERM", "ColoredMNIST", ("+90%",), 0, 0, "waiting")
    assert results.records == 3 * 2 * (2 * 4 + 1) - 4
    assert isinstance(first(results, "ERM+DiWA"), Series)


def test_states_of_what_is_not_there(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path, protocol=LeaveOneDomainOut(pairs=False))
    missing = OWN["folder"](tmp_path, table, **FIRST)
    (missing.path / "done").unlink()
    (missing.path / "run.json").unlink()
    failed = OWN["folder"](tmp_path, table, **{**FIRST, "hparams_seed": 1})
    (failed.path / "done").unlink()
    failed.fail({"exit": 1, "error": "out of\nmemory", "log": "log.txt"}, 1)
    running = OWN["folder"](tmp_path, table, **{**FIRST, "trial": 1})
    (running.path / "done").unlink()
    lease = running.claim()
    assert lease is not None
    try:
        at = read_results(tmp_path).at
        gaps = [at("ERM", "ColoredMNIST", (0, trial))[seed] for trial, seed in ((0, 0), (0, 1), (1, 0))]
    finally:
        lease.release()
    assert [(gap.state, gap.why) for gap in gaps if isinstance(gap, Gap)] == [
        ("missing", ""),
        ("failed", "out of memory"),
        ("running", ""),
    ]


def test_torn_and_garbage_lines_are_cut_off_and_told(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path)
    before = first(read_results(tmp_path))
    folder = OWN["folder"](tmp_path, table, **FIRST)
    with (folder.path / "records.jsonl").open("a") as file:
        file.write('garbage\n{"step": 9, "predic')
    results = read_results(tmp_path)
    after = first(results)
    assert isinstance(before, Series)
    assert isinstance(after, Series)
    assert np.array_equal(before.values, after.values)
    assert results.notes == (f"{folder.path / 'records.jsonl'}: 2 torn lines, cut off",)


@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_records_that_are_not_those_that_were_finished_with_do_not_count(tmp_path: Path, how: str) -> None:
    table = OWN["make"](tmp_path)
    file = OWN["folder"](tmp_path, table, **FIRST).path / "records.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    if how == "cut":
        file.write_text("".join(lines[:2]))
    elif how == "changed":
        file.write_text("".join(lines).replace('"accuracy":0.', '"accuracy":0.9', 1))
    else:
        file.unlink()
    gap = first(read_results(tmp_path))
    assert isinstance(gap, Gap)
    assert (gap.state, gap.why) == ("damaged", "records.jsonl doesn't hold the 4 records that the run finished with")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda record: record["views"].pop("+80%/out"), "+80%/out"),
        (lambda record: record["views"]["+80%/out"].update(accuracy="high"), "could not convert"),
        (lambda record: record.update(step=5), "don't increase"),
        (
            lambda record: record.update(predictor="else") if record["predictor"] == "model" else None,
            "without a record",
        ),
    ],
)
def test_finished_runs_whose_records_make_no_series_are_damaged(tmp_path: Path, change: Any, why: str) -> None:
    table = OWN["make"](tmp_path)
    folder = OWN["folder"](tmp_path, table, **FIRST)
    _, records, _ = folder.finished()
    for record in records:
        change(record)
    (folder.path / "records.jsonl").unlink()
    folder.append_records(records)
    folder.finish(OWN["SUMMARY"])
    gap = first(read_results(tmp_path))
    assert isinstance(gap, Gap)
    assert gap.state == "damaged"
    assert why in gap.why


def test_an_unreadable_done_is_damage(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path)
    (OWN["folder"](tmp_path, table, **FIRST).path / "done").write_text("{")
    gap = first(read_results(tmp_path))
    assert isinstance(gap, Gap)
    assert gap.state == "damaged"


def test_a_plan_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    OWN["make"](tmp_path, hparams=1, trials=1)
    for content in ("{", json.dumps({"format": FORMAT})):
        (tmp_path / "plan.json").write_text(content)
        with pytest.raises(UserError, match=r"plan\.json is damaged: .*: `dgbench sweep retry` writes it anew"):
            read_results(tmp_path)
