"""`dgbench.sweep`: the folder of `dgbench launch`, made by a process of its own."""

from __future__ import annotations

import inspect
import signal
from pathlib import Path
from typing import Any

import pytest

import dgbench
from dgbench.api.sweep import LOG, _planned
from dgbench.launchers.launcher import choose_launcher, words_of
from dgbench.sweep import main as launch
from tests.api.test_train import files

SMALL: dict[str, Any] = {
    "algorithms": ["ERM"],
    "datasets": "RotatedDigits",
    "test_envs": [75],
    "quick": True,
    "steps": 4,
    "checkpoint_freq": 2,
    "device": "cpu",
}
WORDS = [
    *("--algorithms", "ERM", "--datasets", "RotatedDigits", "--test_envs", "75", "--quick"),
    *("--steps", "4", "--checkpoint_freq", "2", "--device", "cpu"),
]


@pytest.mark.slow
def test_it_writes_what_the_command_writes(tmp_path: Path) -> None:
    found = dgbench.sweep(tmp_path / "python", **SMALL, jobs=1)
    assert found.process
    assert found.status().runs.keys() <= {"missing", "running", "waiting", "done"}
    status = found.wait(timeout=250)
    assert status.done
    assert status.runs == {"done": 1}
    assert repr(found).startswith(" " * 24)
    assert (tmp_path / "python" / LOG).read_text().endswith("1 done\n")
    assert launch(["launch", str(tmp_path / "command"), *WORDS, "--jobs", "1", "--skip_confirmation"]) == 0
    one, other = (files(tmp_path / name) for name in ("python", "command"))
    del one[LOG]
    assert one == other
    assert {"sweep.json", "plan.json"} <= one.keys()
    table = found.results().table()
    assert set(table["row"]) == {"ERM"}
    again = dgbench.sweep(tmp_path / "python", **SMALL)
    assert again.process is None
    assert again.wait().done


def test_it_can_be_cancelled_and_goes_on(tmp_path: Path) -> None:
    """Also from a process that ignores interrupts, as all do that a shell starts in its background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        found = dgbench.sweep(tmp_path / "s", **{**SMALL, "steps": 100_000}, jobs=1)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(TimeoutError, match="it goes on"):
        found.wait(timeout=0.1)
    status = found.cancel()
    assert found.process
    assert found.process.returncode is not None
    assert not status.done
    assert "running" not in status.runs
    with pytest.raises(dgbench.RunFailed, match="the launch ended with exit code"):
        found.wait()


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(dgbench.UserError) as caught:
        dgbench.sweep(tmp_path / "s", **{**SMALL, "algorithms": ["VRex"], "jobs": 0}, launcher="slurmm", retries=-1)
    assert sorted(problem.partition(":")[0] for problem in caught.value.problems) == [
        "jobs must be at least 1, not 0",
        "retries must be at least 0, not -1",
        "unknown algorithm 'VRex'",
        "unknown launcher 'slurmm'",
    ]
    with pytest.raises(dgbench.UserError, match="holds no sweep to go on with: ask for one by sweep, or by algorithms"):
        dgbench.sweep(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_files_tables_and_dicts_are_taken(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'algorithms = ["ERM", "SAM"]\ndatasets = ["RotatedDigits"]\n[launcher]\njobs = 2\n'
    )
    options: dict[str, Any] = {"quick": True, "space": {"lr": "U(0, 1)"}, "setting": {"steps": 3}}
    planned, words = _planned(tmp_path / "s", tmp_path / "s.toml", None, options)
    assert {run.method.name for run in planned.plan.runs} == {"ERM", "SAM"}
    assert {run.setting.steps for run in planned.plan.runs} == {3}
    assert words == ["local", "jobs=2"]
    chosen = choose_launcher(["slurm", "partition=gpu", "jobs=3"], {}, {})
    assert choose_launcher(words_of(chosen), {}, {}) == chosen
    assert words_of(chosen) == ["slurm", "jobs=3", "partition=gpu"]


def test_its_signature_shows_the_options() -> None:
    names = inspect.signature(dgbench.sweep).parameters
    assert {"algorithms", "datasets", "quick", "jobs", "launcher", "sweep", "steps"} <= set(names)
    assert "detach" not in names
