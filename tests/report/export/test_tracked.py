"""What tracking tools are given of a sweep, before any of them is imported."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import pytest

from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.export import main
from dgbench.report.export.tracked import SafeNames, TrackedRun, tracked_runs
from dgbench.store.run_folder import RunFolder
from tests.support.in_process import execute_all, records_of, sweep_of
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))


def read(source: Path) -> dict[tuple[str, ...], TrackedRun]:
    number, runs = tracked_runs(source)
    found = {run.path: run for run in runs}
    assert len(found) == number
    return found


def test_each_predictor_of_each_row_is_a_run_named_by_its_cell(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path, protocol=LeaveOneDomainOut(pairs=False))
    found = read(tmp_path)
    assert len(found) == 3 * 2 * (2 + 2 + 1), "domains, trials, and of DiWA no draws"
    run = found["ERM+SWAD", "ColoredMNIST", "+90%", "trial 1", "hparams 1"]
    assert run.name == "ERM+SWAD ColoredMNIST [+90%] hparams 1 trial 1"
    trained = OWN["folder"](tmp_path, table, kind="train", held_out=("+90%",), trial=1, hparams_seed=1)
    assert run.run == trained.path.name
    assert run.hparams == {"lr": 1e-3}
    assert (run.setting["steps"], run.setting["preset"]) == (10, "domainbed-2020")
    assert run.labels["held_out"] == "+90%"
    assert [*run.scalars] == [9]
    OWN["folder"](tmp_path, table, kind="merge", held_out=("+90%",), trial=1).path.joinpath("done").unlink()
    assert ("ERM+DiWA", "ColoredMNIST", "+90%", "trial 1", "hparams 0") not in read(tmp_path)


def test_scalars_are_every_metric_of_every_step_by_role_and_view(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path, protocol=LeaveOneDomainOut(pairs=False), trials=1, hparams=1)
    run = read(tmp_path)["ERM", "ColoredMNIST", "+90%", "trial 0", "hparams 0"]
    records = records_of(OWN["folder"](tmp_path, table, kind="train", held_out=("+90%",)), "model")
    assert [*run.scalars] == [record["step"] for record in records]
    roles = {"+80%/out": "in-domain", "-90%/out": "in-domain", "+90%/in": "out-of-domain", "+90%/out": "oracle"}
    for record, scalars in zip(records, run.scalars.values(), strict=True):
        views = record["views"]
        expected = {
            f"{metric}/{role}/{view}": views[view][metric]
            for view, role in roles.items()
            for metric in ("accuracy", "loss")
        }
        inside = [views[view]["accuracy"] for view in ("+80%/out", "-90%/out")]
        assert expected.items() <= scalars.items()
        assert scalars["accuracy/mean/in-domain"] == pytest.approx(sum(inside) / 2)
        assert scalars["accuracy/mean/out-of-domain"] == views["+90%/in"]["accuracy"]
        assert len(scalars) == 2 * (4 + 3)


def test_logged_scalars_hyperparameters_and_times_of_a_sweep_are_there(tmp_path: Path) -> None:
    sweep = execute_all(sweep_of(tmp_path, "ERM+SMA", "ERM", "ERM+T3A", setting={"evaluate": "all"}))
    found = read(tmp_path)
    spot = ("RotatedDigits", "75", "trial 0", "hparams 0")
    erm, sma, t3a = (found[(row, *spot)] for row in ("ERM", "ERM+SMA", "ERM+T3A"))
    records = records_of(RunFolder(tmp_path, sweep.plan.runs[0].id), "model")
    assert {step: scalars["train/loss"] for step, scalars in erm.scalars.items()} == {
        record["step"]: record["train"]["loss"] for record in records
    }
    assert not any(name.startswith("train/") for scalars in sma.scalars.values() for name in scalars)
    assert "accuracy/training/15/in" in erm.scalars[19]
    assert (erm.hparams["batch_size"], erm.hparams["SMA.start"], t3a.hparams["filter_K"]) == (16, 100, 100)
    assert erm.started > 1e9
    assert 0 < erm.seconds < 600
    assert t3a.labels["method"] == "T3A"


def test_domainbeds_folders_are_tracked_too(tmp_path: Path) -> None:
    source, theirs = tmp_path / "own", tmp_path / "theirs"
    source.mkdir()
    OWN["make"](source, trials=1, hparams=1, protocol=LeaveOneDomainOut(pairs=False))
    assert main([str(source), "--format", "domainbed", "-o", str(theirs)]) == 0
    run = read(theirs)["ERM", "ColoredMNIST", "+90%", "trial 0", "hparams 0"]
    ours = read(source)["ERM", "ColoredMNIST", "+90%", "trial 0", "hparams 0"]
    assert run.hparams == {"lr": 1e-3}
    same = {step: scalars["accuracy/mean/in-domain"] for step, scalars in ours.scalars.items()}
    assert {step: scalars["accuracy/mean/in-domain"] for step, scalars in run.scalars.items()} == same


def test_names_are_made_safe_and_stay_different() -> None:
    names = SafeNames(r"[^\w\-. /:]")
    assert [names[name] for name in ("+90%/in", "-90%/in", "*90%/in", "+90%/in", "_90_/in")] == [
        "_90_/in",
        "-90_/in",
        "_90_/in_2",
        "_90_/in",
        "_90_/in_3",
    ]


def test_values_that_are_no_numbers_stay(tmp_path: Path) -> None:
    table = OWN["make"](tmp_path, trials=1, hparams=1, protocol=LeaveOneDomainOut(pairs=False))
    folder = OWN["folder"](tmp_path, table, kind="train", held_out=("+90%",))
    records = records_of(folder)
    for record in records:
        record["views"]["+90%/in"]["loss"] = None
    (folder.path / "records.jsonl").unlink()
    folder.append_records(records)
    folder.finish(OWN["SUMMARY"])
    run = read(tmp_path)["ERM", "ColoredMNIST", "+90%", "trial 0", "hparams 0"]
    assert math.isnan(run.scalars[9]["loss/mean/out-of-domain"])
    assert run.scalars[9]["loss/mean/in-domain"] == 1.0
