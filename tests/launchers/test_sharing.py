"""How many runs share a GPU: the arithmetic, with numbers; and the flag, on a machine without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dgbench.core.errors import UserError
from dgbench.core.site import Site
from dgbench.launchers import reconcile
from dgbench.launchers import sharing as module
from dgbench.launchers.machine import Local
from dgbench.launchers.pace import Rehearsal
from dgbench.launchers.ray import Ray
from dgbench.launchers.sharing import FRAGMENTS, Gpu, Sized, choose, choose_slots, fitting, largest, peaks
from dgbench.launchers.slurm import Slurm
from dgbench.launchers.values import launcher_of
from dgbench.plan.work import Workload
from tests.support.in_process import execute, runs_of, sweep_of

GB = 1e9
H100 = Gpu(free=79 * GB, total=80 * GB, context=0.5 * GB)


def test_as_many_fit_as_memory_cores_and_runs_allow() -> None:
    assert fitting(H100, 9.9 * GB, cores=16, runs=100) == 6, "71 GB, a tenth left free, over 10.4 GB each"
    assert fitting(H100, 9.9 * GB, cores=4.5, runs=100) == 4
    assert fitting(H100, 9.9 * GB, cores=16, runs=3) == 3
    assert fitting(H100, 100 * GB, cores=16, runs=100) == 1, "one is tried in any case"
    assert fitting(Gpu(5 * GB, 80 * GB, 0.5 * GB), 1 * GB, cores=16, runs=100) == 1, "others fill it"


def sized(sweep: Any, *names: str) -> list[Sized]:
    workload = Workload(sweep.plan, sweep.catalogue)
    return [Sized(run, workload.of(run), 64) for name in names for run in runs_of(sweep, name)]


def test_the_largest_runs_have_the_largest_minibatch_or_pass_most(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM", "GAM", n_hparams=2, set={"ERM.batch_size": 32})
    every = sized(sweep, "ERM", "GAM")
    assert {each.run.method.name for each in largest(every)} == {"ERM", "GAM"}
    assert [each.run for each in largest(sized(sweep, "ERM"))] == [runs_of(sweep, "ERM")[0]]


def test_peaks_come_from_finished_runs_and_grow_with_what_is_passed(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM", "SAM", n_hparams=2)
    erm, sam = sized(sweep, "ERM"), sized(sweep, "SAM")
    place = ("RotatedDigits", erm[0].run.setting.backbone)
    assert peaks([*erm, *sam], []) == {}
    assert peaks(erm, [(erm[0], 3.0), (erm[1], 2.0)]) == {place: 3.0}
    assert peaks(sam, [(erm[0], 3.0)]) == {place: pytest.approx(6.0)}, "it passes twice as much"
    assert peaks(erm, [(sam[0], 6.0)]) == {place: 6.0}, "never less than was seen"


def test_auto_is_one_where_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM")
    monkeypatch.setattr(reconcile, "visible_gpus", list)
    assert choose_slots(sweep, 2, "auto") == (sweep.slots(2, 1), "")
    local = launcher_of({"jobs_per_gpu": "auto", "jobs": 2}, {})
    assert local == Local(jobs=2, jobs_per_gpu="auto")
    assert launcher_of({"launcher": ["local", "jobs_per_gpu=auto"]}, {}) == Local(jobs_per_gpu="auto")
    assert launcher_of({}, {"jobs_per_gpu": 3}) == Local(jobs_per_gpu=3)
    for wrong, said in ((0, "must be at least 1, not 0"), ("all", "is a number or auto, not all")):
        with pytest.raises(UserError, match=f"--jobs_per_gpu {said}"):
            launcher_of({"jobs_per_gpu": wrong}, {})
    with pytest.raises(UserError, match="one run executes at a time"):
        launcher_of({"launcher": ["here"], "jobs_per_gpu": "auto"}, {})


def test_workers_choose_on_their_own_machine(tmp_path: Path) -> None:
    slurm, ray = Slurm(gpus=2, jobs_per_gpu="auto"), Ray(gpus=2, jobs_per_gpu="auto")
    assert (slurm.slots(), ray.slots()) == (2, 2)
    assert "--jobs_per_gpu=auto" in slurm.command(tmp_path)
    assert not [word for word in ray.command(tmp_path) if word.startswith("--jobs=")]
    assert "--jobs=4" in Ray(gpus=2, jobs_per_gpu=2).command(tmp_path)


def test_auto_takes_finished_runs_or_else_a_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM", "SAM", n_hparams=2, site=Site(device="cpu"))
    memory = {"0": H100, "1": Gpu(40 * GB, 80 * GB, 0.5 * GB)}
    monkeypatch.setattr(module, "measure", memory.__getitem__)
    monkeypatch.setattr(module, "usable_cores", lambda: 64)
    answers: list[list[float]] = [[3.5 * GB, 11.5 * GB], []]

    def rehearse(sweep: Any, chosen: Any, slots: Any, goes_on: Any) -> tuple[list[Rehearsal], float]:
        assert [slot.gpu for slot in slots] == ["0"], "one run at a time, on one GPU"
        parts = {"start": 1, "step": 1, "example": 1, "save": 1, "norms": 0, "size": 1}
        return [Rehearsal(*chosen[0], **parts, peak=peak) for peak in answers.pop(0)], 1.0

    monkeypatch.setattr(module, "rehearse", rehearse)
    count, line = choose(sweep, ["0", "1"])
    assert count == 2, "32 GB on the fuller one over 12 GB"
    assert line == "GPUs: 2 runs at once on each: the largest reserves 12.0 GB, and 40.0 GB are free"
    assert choose(sweep, ["0"]) == (1, "GPUs: one run on each, because no run on RotatedDigits could be rehearsed")
    run = runs_of(sweep, "SAM")[0]
    assert execute(sweep, run) == 0
    times = sweep.store.folder(run.id).path / "times.jsonl"
    times.write_text(json.dumps({"seconds": 1, "peak_bytes": 17 * GB / FRAGMENTS}))
    assert choose(sweep, ["0"])[0] == 3, "71 GB over 17.5 GB would be 4, but 3 runs are left"
    times.write_text(json.dumps({"seconds": 1, "peak_bytes": 1, "reserved_bytes": 34 * GB}))
    assert choose(sweep, ["0"])[0] == 2
    assert choose(sweep, []) == (1, "")
