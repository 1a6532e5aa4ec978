"""One run in one process: how it ends, and what it leaves when it doesn't end well."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import platform
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch

from dgbench.catalogue.catalogue import Catalogue, shared_catalogue
from dgbench.core.errors import UserError
from dgbench.core.machine import describe_processor, pick_device
from dgbench.core.protocol import View
from dgbench.core.run import BEST, Run
from dgbench.core.site import Site
from dgbench.data.views import ViewData
from dgbench.execute import evaluate
from dgbench.execute.context import open_context
from dgbench.execute.job import commit, preload, run_job, versions
from dgbench.execute.models import find_model
from dgbench.execute.training import CHECKPOINT, Training
from dgbench.launchers.base import Slot
from dgbench.launchers.reconcile import Sweep
from dgbench.networks import inherited, network
from dgbench.report.reader import read_results
from dgbench.report.select import TrainingDomain
from dgbench.report.signature import signature
from dgbench.report.tables import build
from dgbench.store.lease import STOPPED, TAKEN, Lease
from dgbench.store.run_folder import RunFolder
from dgbench.store.state import State
from tests.support.in_process import execute, execute_all, records_of, sweep_of
from tests.support.layouts import truncate, write_folders
from tests.support.places import SHOWN

ROWS = ("ERM+SWAD", "ERM+T3A")


def one(root: Path, *rows: str, **asked: Any) -> tuple[Sweep, Run, RunFolder]:
    """A sweep, its first run, and the folder of that."""
    sweep = sweep_of(root, *(rows or ("ERM",)), **asked)
    run = sweep.plan.runs[0]
    return sweep, run, sweep.store.folder(run.id)


def records(sweep: Sweep) -> dict[str, bytes]:
    return {run.id: (sweep.store.folder(run.id).path / "records.jsonl").read_bytes() for run in sweep.plan.runs}


# -- how it ends --------------------------------------------------------------------------------------------------


def test_a_run_that_ends_well_says_what_it_was_made_with(tmp_path: Path) -> None:
    sweep, run, folder = one(tmp_path)
    assert execute(sweep, run) == 0
    assert folder.state(0) is State.DONE
    summary = folder.summary()
    assert summary is not None
    assert summary["records"] == len(records_of(folder)) == 5
    assert summary["fingerprint"] == sweep.plan.datasets["RotatedDigits"].fingerprint
    assert summary["versions"] == versions()
    assert summary["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert summary["commit"] == commit()
    assert summary["machine"] == describe_processor()
    assert b"machine" not in (folder.path / "records.jsonl").read_bytes()
    assert not (folder.path / CHECKPOINT).exists()
    (times,) = [json.loads(line) for line in (folder.path / "times.jsonl").read_text().splitlines()]
    assert times["threads"] == 1
    assert times["device"] == "cpu"
    assert times["processor"] == describe_processor()
    assert 0 < times["seconds"] < 600


def test_a_run_that_is_done_or_that_somebody_has_is_left_alone(tmp_path: Path) -> None:
    sweep, run, folder = one(tmp_path)
    folder.create(run)
    lease = folder.claim()
    assert lease is not None
    assert execute(sweep, run) == TAKEN
    assert not (folder.path / "records.jsonl").exists()
    lease.release()
    assert execute(sweep, run) == 0
    before = sorted(os.listdir(folder.path))
    assert execute(sweep, run) == TAKEN
    assert sorted(os.listdir(folder.path)) == before


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = execute_all(sweep_of(tmp_path / "whole", "ERM"))
    sweep, run, folder = one(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(Lease, "stop_requested", property(lambda self: self._steps[0] == 9))
        assert execute(sweep, run) == STOPPED
    assert (folder.state(0), folder.failures()) == (State.WAITING, [])
    assert torch.load(folder.path / CHECKPOINT, weights_only=True)["progress"]["step"] == 9
    assert execute(sweep, run) == 0
    assert records(sweep) == records(whole)


def test_sigterm_within_an_evaluation_is_heard_before_its_next_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = (sweep_of(tmp_path / name, "ERM", "ERM+EMA", "DiWARestricted", "T3A", n_hparams=2) for name in "wc")
    execute_all(whole)
    inputs = ViewData.inputs
    read = 0

    def slow(self: ViewData, view: View, positions: Any) -> torch.Tensor:
        nonlocal read
        read += 1
        if read == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        assert read <= 4, "the evaluation goes on"
        return inputs(self, view, positions)

    for run in cut.plan.runs:
        folder = cut.store.folder(run.id)
        with monkeypatch.context() as patch:
            read = 0
            patch.setattr(ViewData, "inputs", slow)
            assert execute(cut, run) == STOPPED, run.name
        assert (folder.state(0), folder.failures()) == (State.WAITING, [])
        assert (folder.path / CHECKPOINT).exists() is (run.kind == "train")
        assert execute(cut, run) == 0
    assert {run.kind for run in cut.plan.runs} == {"train", "merge", "adapt"}
    assert records(cut) == records(whole)


def test_a_run_that_was_taken_over_writes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, run, folder = one(tmp_path)
    step = Training._step

    def taken_over(self: Training, number: int, minibatch: Any) -> None:
        if number == 8:
            (folder.path / "lease-0002").touch()
        step(self, number, minibatch)

    monkeypatch.setattr(Training, "_step", taken_over)
    assert execute(sweep, run) == TAKEN
    assert folder.failures() == []
    assert [record["step"] for record in records_of(folder)] == [0, 6]


def test_a_method_that_ends_the_process_is_a_failure_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, run, folder = one(tmp_path)
    monkeypatch.setattr(Training, "_step", lambda self, number, minibatch: sys.exit(0))
    assert execute(sweep, run) == 1
    (failure,) = folder.failures()
    assert failure["error"] == "SystemExit: 0"
    assert "sys.exit(0)" in failure["traceback"]


def test_a_failure_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, run, folder = one(tmp_path)
    step = Training._step

    def broken(self: Training, number: int, minibatch: Any) -> None:
        if number == 8:
            raise ZeroDivisionError("of all things")
        step(self, number, minibatch)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", broken)
        assert execute(sweep, run) == 1
        assert execute(sweep, run) == 1
    first, second = folder.failures()
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert first["error"] == "ZeroDivisionError: of all things"
    assert first["exit"] == 1
    assert first["log"] == str(folder.log_path)
    assert first["traceback"].startswith("Traceback (most recent call last):")
    assert "in broken" in first["traceback"]
    assert folder.state(retries=1) is State.FAILED
    assert folder.clear_failures() == 2
    assert execute(sweep, run) == 0
    assert records(sweep) == records(execute_all(sweep_of(tmp_path / "whole", "ERM")))


def test_a_run_that_diverges_finishes_with_records_that_can_be_read(tmp_path: Path) -> None:
    rows = ("ERM+SWAD", "ERM+SMA", "SAM", "Fish", "VREx", "HGP", "ERM+DiWARestricted", "ERM+T3A")
    hparams = {"lr": 1e30, "SMA": {"start": 4}, "SWAD": {"n_converge": 1}}
    sweep = execute_all(sweep_of(tmp_path, *rows, n_hparams=2, hparams=hparams, setting={"steps": 8}))
    for run in sweep.plan.runs:
        folder = sweep.store.folder(run.id)
        finished = folder.finished()
        assert finished is not None
        _, found, torn = finished
        assert torn == 0
        assert b"NaN" not in (folder.path / "records.jsonl").read_bytes()
        for record in found:
            assert all(0 <= view["accuracy"] <= 1 for view in record["views"].values())
        last = [record for record in found if record["step"] == 7]
        assert last, run.name
        if run.kind == "train":
            assert any(view["loss"] is None or view["loss"] > 1e6 for view in last[0]["views"].values()), run.name
    results = read_results(sweep.root)
    assert signature(results, TrainingDomain(), ["RotatedDigits"])["diverged"].startswith("2 of 2 runs (")
    (table, _) = build(results, [TrainingDomain()]).tables
    assert str(table.rows["SAM"][0]).endswith("!")
    assert any(note.startswith("! ") for note in table.notes)
    fine = read_results(execute_all(sweep_of(tmp_path / "fine", "ERM", setting={"steps": 8})).root)
    assert "diverged" not in signature(fine, TrainingDomain(), ["RotatedDigits"])


def test_a_metric_that_is_no_number_is_the_worst_there_is_and_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = evaluate.score
    worst: float | None = None

    def diverged(batches: Any, data: ViewData, view: View) -> Any:
        found, predicted = made(batches, data, view)
        return (found if worst is None else {**found, "accuracy": worst}), predicted

    monkeypatch.setattr(evaluate, "score", diverged)
    sweep = sweep_of(tmp_path, "ERM", "ERM+IIDMax", "DiWARestricted", "WiSEFT", "T3A", n_hparams=2)
    for run in sweep.plan.runs:
        worst = None if run.hparams_seed == 0 and run.kind == "train" else math.nan
        assert execute(sweep, run) == 0, sweep.store.folder(run.id).failures()
    (first, second) = (run for run in sweep.plan.runs if run.kind == "train")
    last = records_of(sweep.store.folder(second.id))[-1]
    assert {view["accuracy"] for view in last["views"].values()} == {None}
    assert find_model(sweep.store.folder(second.id).path, "model", BEST).step == 0, "the first of what is all alike"
    results = read_results(sweep.root)
    outcome = TrainingDomain().choose(results, "ERM", "RotatedDigits", 0, 0)
    assert outcome.pick is not None
    assert (outcome.pick.run, outcome.complete, outcome.gaps) == (first.id, 2, ())
    assert "1 of 2 runs (ERM, ERM+IIDMax)" in signature(results, TrainingDomain(), ["RotatedDigits"])["diverged"]
    (table, _) = build(results, [TrainingDomain()]).tables
    assert [str(table.rows[row][0]) for row in ("DiWARestricted", "WiSEFT", "T3A")] == ["diverged"] * 3
    assert "diverged" not in str(table.rows["ERM"][0])
    assert "!" not in str(table.rows["ERM"][0]), "the run that was chosen had not diverged"


def test_an_unknown_run_is_no_crash_of_others(tmp_path: Path) -> None:
    sweep, run, folder = one(tmp_path)
    folder.create(run)
    text = (folder.path / "run.json").read_text()
    (folder.path / "run.json").write_text(text.replace('"format": 1', '"format": 9'))
    assert execute(sweep, run) == 1
    (failure,) = folder.failures()
    assert failure["error"] == f"CorruptFile: {folder.path}/run.json is damaged: run format 9, this version reads 1"


# -- a disk that fills --------------------------------------------------------------------------------------------


class Disk:
    """Counts what is written for good, and can be full at one of these moments."""

    def __init__(self) -> None:
        self.count = 0
        self.full_at = 0
        self.sync = os.fsync

    def __call__(self, file: Any) -> None:
        self.count += 1
        if self.count == self.full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.sync(file)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    found = Disk()
    monkeypatch.setattr(os, "fsync", found)
    yield found
    monkeypatch.undo()


def assert_nothing_torn(folder: RunFolder) -> None:
    assert not [path for path in folder.path.rglob("*") if path.suffix == ".tmp"]
    for line in (folder.path / "records.jsonl").read_bytes().splitlines(keepends=True):
        assert line.endswith(b"\n")
        orjson.loads(line)


def test_a_disk_that_is_full_at_any_moment_fails_the_run_and_tears_nothing(tmp_path: Path, disk: Disk) -> None:
    sweep = sweep_of(tmp_path / "whole", *ROWS, setting={"steps": 9, "checkpoint_freq": 4})
    run = sweep.plan.runs[0]
    sweep.store.folder(run.id).create(run)
    disk.count = 0
    assert execute(sweep, run) == 0
    moments = disk.count
    assert moments >= 3 * 3 + 1, "records, checkpoint and a model at each evaluation, and `done`"
    for moment in range(1, moments + 1):
        other = sweep_of(tmp_path / str(moment), *ROWS, setting={"steps": 9, "checkpoint_freq": 4})
        folder = other.store.folder(run.id)
        folder.create(run)
        disk.count, disk.full_at = 0, moment
        assert execute(other, run) == 1, moment
        (failure,) = folder.failures()
        assert "No space left on device" in failure["error"]
        if (folder.path / "records.jsonl").exists():
            assert_nothing_torn(folder)
        disk.full_at = 0
        assert folder.clear_failures() == 1
        assert execute(other, run) == 0
        path = Path("runs", run.id, "records.jsonl")
        assert (other.root / path).read_bytes() == (sweep.root / path).read_bytes(), moment


# -- bad images ---------------------------------------------------------------------------------------------------


def images(root: Path, **site: Any) -> tuple[Sweep, Run, RunFolder]:
    return one(
        root,
        "ERM",
        site=Site(device="cpu", **site),
        datasets=[f"folder:{root.parent / 'toy'}"],
        test_envs=["c"],
        hparams={"batch_size": 4},
        setting={"image_size": 16, "steps": 12, "checkpoint_freq": 5},
    )


def test_a_truncated_image_fails_the_run_by_name_unless_it_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    toy = write_folders(tmp_path / "toy", {"a": 12, "b": 12, "c": 12}, ["x", "y"])
    bad = toy / "a" / "x" / "0004.jpg"
    truncate(bad)
    sweep, run, folder = images(tmp_path / "strict")
    assert execute(sweep, run) == 1
    (failure,) = folder.failures()
    assert failure["error"].startswith(f"UserError: image {bad} can't be decoded (")
    assert "--skip_bad_images" in failure["error"]
    assert "--skip_bad_images" in caplog.text
    assert "Traceback" not in caplog.text
    assert folder.state(retries=9) is State.FAILED, "trying again does not mend it"
    sweep, run, folder = images(tmp_path / "lenient", skip_bad_images=True)
    assert execute(sweep, run) == 0
    summary = folder.summary()
    assert summary is not None
    assert summary["fingerprint"] == sweep.plan.datasets["folder:toy"].fingerprint
    assert sweep.plan.datasets["folder:toy"].counts == (11, 12, 12)


# -- before and around --------------------------------------------------------------------------------------------


def test_what_is_preloaded_is_read_before_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, run, folder = one(tmp_path, *ROWS)
    shared_catalogue.cache_clear()  # as in a new process
    imported = []
    monkeypatch.setattr("dgbench.execute.job.import_libraries", lambda *a, **how: imported.append((*a, how)))
    preload(sweep._preloaded())
    assert imported == [("SmallCNN", {"low_rank": False})]
    monkeypatch.setattr("numpy.loadtxt", None)
    monkeypatch.setattr("dgbench.datasets._digits.DigitDataset.examples", None)
    monkeypatch.setattr("dgbench.datasets._digits.DigitDataset._pool", None)
    monkeypatch.setattr(Catalogue, "_find", None)
    folder.create(run)
    assert run_job(sweep.job(run, Slot(index=0, gpu=None, threads=1))) == 0


@pytest.mark.parametrize("freeze", ["featurizer", "none"])
def test_featurizers_that_stay_as_they_are_are_made_before_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, freeze: str
) -> None:
    """For each start that several runs share; a process that is forked takes it, and its records are the same."""
    frozen = {"n_hparams": 2, "setting": {"freeze": freeze}}
    sweep, run, folder = one(tmp_path / "alone", **frozen)
    execute(sweep, run)
    expected = records_of(folder)
    sweep, run, folder = one(tmp_path / "forked", **frozen)
    preload(sweep._preloaded())
    made = freeze == "featurizer"
    assert len(inherited._kept) == made
    with monkeypatch.context() as patch:
        if made:
            patch.setattr(network, "make_featurizer", None)
        execute(sweep, run)
    assert inherited._kept == {}
    assert records_of(folder) == expected


def test_devices_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert pick_device("auto").type == expected
        assert pick_device("cpu").type == "cpu"


def test_a_gpu_that_is_not_there_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    sweep = sweep_of(tmp_path, "ERM")
    sweep = dataclasses.replace(sweep, site=dataclasses.replace(sweep.site, device="cuda"))
    with pytest.raises(UserError, match="--device cuda: this machine shows no GPU"):
        sweep.slots(jobs=1, jobs_per_gpu=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: torch finds no GPU"):
        open_context(sweep.plan.runs[0], sweep.store, sweep.site, sweep.catalogue)


def test_a_run_says_which_file_its_method_is_from_and_a_launch_that_it_was_changed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text((SHOWN / "smooth.py").read_text())
    site = Site(device="cpu", include=(str(mine),))
    sweep = execute_all(sweep_of(tmp_path / "sweep", "ERM", "Smooth", site=site))
    erm, smooth = (sweep.store.folder(run.id).summary() for run in sweep.plan.runs)
    assert erm is not None
    assert erm["sources"] == {}
    said = f"mine.py {hashlib.sha256(mine.read_bytes()).hexdigest()[:12]}"
    assert smooth is not None
    assert smooth["sources"] == {"Smooth": said}
    results = read_results(sweep.root)
    assert results.origin.sources == {"Smooth": {said: 1}}
    assert signature(results, TrainingDomain(), ["RotatedDigits"])["methods from"] == f"Smooth: {said}"
    assert not any(remark.startswith("WARNING") for remark in sweep.remarks())
    mine.write_text(mine.read_text() + "\n# changed\n")
    (remark,) = (remark for remark in sweep.remarks() if remark.startswith("WARNING"))
    assert remark == "WARNING: Smooth is not what 1 finished runs were made by. They stay: use another folder for it"


def test_the_log_of_each_attempt_begins_with_its_number_and_machine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    sweep, run, folder = one(tmp_path, setting={"steps": 1})
    lease = folder.create(run) or folder.claim()
    assert lease
    lease.release()
    assert execute(sweep, run) == 0
    first, second, *_ = [record.getMessage() for record in caplog.records if record.name == "dgbench.execute.job"]
    assert first == f"attempt 2 on {platform.node()} slurm:7"
    assert second == f"{run.id} on cpu: {run.name}"
