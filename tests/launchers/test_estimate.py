"""What is said of a launch before it is confirmed: runs, time and disk, and on what that stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dgbench.core.run import Run
from dgbench.core.site import Site
from dgbench.launchers import estimate as module
from dgbench.launchers import rehearsal
from dgbench.launchers.base import Slot
from dgbench.launchers.estimate import estimate
from dgbench.launchers.pace import Rehearsal, by_finished, makespan
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.cost import cost_of
from dgbench.plan.work import Work, Workload
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
    assert said["time"] == "unknown until runs finish", "20 steps are too few to be rehearsed"
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


def test_time_comes_from_finished_runs(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM", "SAM", n_hparams=3)
    erm, sam = runs_of(sweep, "ERM"), runs_of(sweep, "SAM")
    took(sweep, erm[0], 100, 20)
    took(sweep, erm[1], 80)
    workload = Workload(sweep.plan, sweep.catalogue)
    finished = [(erm[0], workload.of(erm[0]), 120.0), (erm[1], workload.of(erm[1]), 80.0)]
    expected = by_finished([(run, workload.of(run)) for run in (erm[2], *sam)], finished)
    assert expected[0] == pytest.approx(100), "the mean of its method"
    said = told(sweep)
    assert said["runs"] == "4 of 6 are left (4 train)"
    source = "from the times of finished runs"
    assert said["time"] == f"about {module._words(makespan(expected, 2))} with 2 runs at once, {source}"
    assert told(sweep, TWO[:1])["time"] == f"about {module._words(makespan(expected, 1))}, {source}"
    (sweep.store.folder(erm[0].id).path / "times.jsonl").write_text("{")
    (sweep.store.folder(erm[1].id).path / "times.jsonl").unlink()
    assert told(sweep)["time"] == "unknown until runs finish"


def test_nothing_is_said_of_what_is_done(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM")
    took(sweep, sweep.plan.runs[0], 1)
    assert told(sweep) == {"runs": "0 of 1 are left"}


def test_long_sweeps_are_rehearsed_if_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM", "ERM+DiWA", "SAM", "GAM", "CORAL", "VREx", n_hparams=3, setting=LONG)
    calls: list[list[str]] = []

    def rehearse(
        sweep: Sweep, chosen: list[tuple[Run, Work]], slots: list[Slot], goes_on: Callable[..., bool]
    ) -> tuple[list[Rehearsal], float]:
        calls.append([run.method.name for run, _ in chosen])
        found = [Rehearsal(*pair, start=1, step=0.1, example=0, save=0, norms=0, size=2e8) for pair in chosen[:4]]
        assert goes_on([], 1000), "without one, nothing is known"
        assert goes_on(found, 10)
        assert not goes_on(found, 100), "a twentieth of the time that it found"
        return found, 7.0

    monkeypatch.setattr(rehearsal, "rehearse", rehearse)
    assert told(sweep)["time"] == "unknown until runs finish"
    assert calls == []
    said = told(sweep, rehearse=True)
    assert sorted(calls.pop()) == ["CORAL", "ERM", "GAM", "SAM", "VREx"]
    # 15 runs of 1,000 steps, a merge, and half a mean run at the end.
    assert said["time"].startswith(
        f"about {module._words(7 + (15 * 101 + 1) / 2 + (15 * 101 + 1) / 16 / 4)} with 2 runs"
    )
    assert said["time"].endswith("on RotatedDigits (0.1 s a step) and 1 more")
    assert said["disk"].startswith("3 models kept, about 0.6 GB; ")
    short = sweep_of(tmp_path / "short", "ERM", n_hparams=3)
    assert told(short, rehearse=True)["time"] == "unknown until runs finish"
    assert calls == [], "it is over before a rehearsal would be"


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
