"""What is said of a launch before it is confirmed: runs, time and disk, and on what that stands."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dgbench.core.run import Run
from dgbench.core.site import Site
from dgbench.launchers import estimate as module
from dgbench.launchers.base import Slot
from dgbench.launchers.estimate import STEPS, estimate
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.cost import cost_of
from dgbench.store.folder import Store
from tests.support.in_process import execute, runs_of, sweep_of

TWO = [Slot(0, None, 1), Slot(1, None, 1)]
LONG = {"steps": 1000, "checkpoint_freq": 500}


def told(sweep: Sweep, slots: list[Slot] = TWO, *, rehearse: bool = False) -> dict[str, str]:
    lines = estimate(sweep, slots, rehearse=rehearse)
    return dict(line.split(": ", 1) for line in lines)


def took(sweep: Sweep, run: Run, *seconds: float) -> None:
    """Execute a run, and say that its attempts took so long."""
    assert execute(sweep, run) == 0
    lines = [json.dumps({"seconds": second}) for second in seconds]
    (sweep.store.folder(run.id).path / "times.jsonl").write_text("\n".join(lines))


def test_without_any_record_the_time_is_unknown(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM", "ERM+DiWA", "ERM+T3A", n_hparams=3)
    said = told(sweep, rehearse=True)
    assert said["runs"] == "7 of 7 are left (3 train, 1 merge, 3 adapt)"
    assert said["time"] == "unknown until runs finish", "20 steps are too short to be rehearsed"
    models, free = said["disk"].split("; ")
    assert models == "6 models kept"
    assert free.endswith(" free")


def test_the_weights_that_stay_are_those_of_the_networks(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM", site=Site(device="cpu", save_models="all"))
    (run,) = sweep.plan.runs
    expected = module.kept_bytes(sweep, cost_of(sweep.plan, sweep.catalogue, save_models="all"))
    assert execute(sweep, run) == 0
    sizes = [path.stat().st_size for path in sweep.store.folder(run.id).path.glob("models/*.safetensors")]
    assert len(sizes) == 2
    assert expected <= sum(sizes) < expected + 2 * 20_000, "beside the tensors a header"
    assert module.kept_bytes(sweep, cost_of(sweep.plan, sweep.catalogue)) == 0


def test_time_comes_from_the_finished_runs_of_a_method_or_by_work_from_those_of_others(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM", "SAM", n_hparams=3)
    erm, sam = runs_of(sweep, "ERM"), runs_of(sweep, "SAM")
    took(sweep, erm[0], 100, 20)
    took(sweep, erm[1], 80)
    plans = [dataclasses.replace(sweep.plan, runs=tuple(runs)) for runs in (erm[:2], sam)]
    costs = [cost_of(plan, sweep.catalogue) for plan in plans]
    known, others = (cost.passes + cost.evaluated / 3 for cost in costs)
    expected = 100 + 200 / known * others
    said = told(sweep)
    assert said["runs"] == "4 of 6 are left (4 train)"
    assert said["time"] == (f"about {module._words(expected / 2)} with 2 runs at once, from the times of finished runs")
    assert told(sweep, TWO[:1])["time"] == f"about {module._words(expected)}, from the times of finished runs"
    (sweep.store.folder(erm[0].id).path / "times.jsonl").write_text("{")
    (sweep.store.folder(erm[1].id).path / "times.jsonl").unlink()
    assert told(sweep)["time"] == "unknown until runs finish"


def test_nothing_is_said_of_what_is_done(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM")
    took(sweep, sweep.plan.runs[0], 1)
    assert told(sweep) == {"runs": "0 of 1 are left"}


def test_long_runs_are_rehearsed_if_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM", "ERM+DiWA", n_hparams=3, setting=LONG)
    jobs: list[dict[str, Any]] = []

    def time(job: dict[str, Any], seconds: float) -> dict[str, float]:
        run = Store(Path(job["root"])).folder(job["id"]).run()
        jobs.append(job | {"run": run})
        return {"seconds": 0.5, "bytes": 2e8}

    monkeypatch.setattr(module, "_time", time)
    assert told(sweep)["time"] == "unknown until runs finish"
    assert jobs == []
    said = told(sweep, rehearse=True)
    (job,) = jobs
    assert (job["steps"], job["threads"]) == (STEPS, 1)
    assert job["run"].method == sweep.plan.runs[0].method
    assert job["run"].setting.cache == "off"
    assert not Path(job["root"]).exists()
    assert said["time"].startswith("about 12 min 36 s")
    assert said["time"].endswith("with 2 runs at once, from 20 steps of ERM on RotatedDigits (0.5 s each)")
    assert said["disk"].startswith("3 models kept, about 0.6 GB; ")
    assert capsys.readouterr().err == f"rehearsing 20 steps of {sweep.plan.runs[0].name}\n"
    assert {path.name for path in sweep.root.iterdir()} == {"sweep.json", "plan.json"}


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("x", 1), subprocess.CalledProcessError(1, "x"), None])
def test_a_rehearsal_that_fails_says_nothing(
    error: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: Any, **how: Any) -> Any:
        if error:
            raise error
        return subprocess.CompletedProcess((), 0, "no answer")

    sweep = sweep_of(tmp_path / "sweep", "ERM", n_hparams=3, setting=LONG)
    monkeypatch.setattr(module.subprocess, "run", run)
    assert told(sweep, rehearse=True)["time"] == "unknown until runs finish"


@pytest.mark.slow
@pytest.mark.parametrize("row", ["ERM+SWAD", "SAM", "Fish"])
def test_a_rehearsal_times_real_steps(row: str, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "sweep", row, n_hparams=3, setting=LONG, site=Site(device="cpu"))
    (found,) = module._rehearse(sweep, sweep.plan.runs[:1], 1)
    assert 0 < found.seconds < 5
    assert 1e4 < found.size < 1e6
    assert found.run == sweep.plan.runs[0]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (16, "16 s"), (75, "1 min 15 s"), (5400, "1.5 hours"), (3600 * 72, "3.0 days")]
)
def test_long_times_are_told_in_hours_and_days(seconds: float, words: str) -> None:
    assert module._words(seconds) == words


def test_decoded_images_are_counted_until_they_are_there(tmp_path: Path) -> None:
    from tests.support.layouts import write_folders

    write_folders(tmp_path / "toy", {"a": 20, "b": 20, "c": 20}, ["x", "y"])
    asked = {"datasets": [f"folder:{tmp_path / 'toy'}"], "test_envs": ["a"], "hparams": {"batch_size": 4}}
    sweep = sweep_of(tmp_path / "sweep", "ERM", **asked, setting={"image_size": 16})
    assert "; decoded images of folder:toy, about " in told(sweep)["disk"]
    sweep.build_caches()
    assert "decoded images" not in told(sweep)["disk"]
