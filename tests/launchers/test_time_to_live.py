"""The time to live of leases, from a sweep file or a flag to the leases of whatever executes the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dgbench import cli, worker
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.declaration import read_site
from dgbench.store.holder import TTL, read_holder
from tests.support.commands import sweep
from tests.support.in_process import execute

FILE = """
algorithms = ["ERM"]
datasets = ["RotatedDigits"]
test_envs = ["75"]
single_test_envs = true
n_hparams = 1
n_trials = 1

[setting]
steps = 1

[launcher]
name = "{launcher}"
ttl = 77
"""


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Sweep]:
    """The sweeps that a launch hands to its launcher, written, or a worker to its engine."""
    found: list[Sweep] = []

    def write(sweep: Sweep, *rest: Any) -> int:
        sweep.write()
        found.append(sweep)
        return 0

    monkeypatch.setattr(sweep, "execute", write)
    monkeypatch.setattr(Sweep, "execute", lambda self, *rest, **options: found.append(self) or 0)
    return found


def ttls(sweep: Sweep) -> list[float | None]:
    found = [read_holder(path) for path in sorted(sweep.root.glob("runs/*/lease-????"))]
    return [holder.ttl for holder in found if holder]


@pytest.mark.parametrize("launcher", ["local", "here"])
def test_it_reaches_the_leases_of_launches_and_workers(launcher: str, tmp_path: Path, executed: list[Sweep]) -> None:
    file, root = tmp_path / "sweep.toml", tmp_path / "sweep"
    file.write_text(FILE.format(launcher=launcher))

    def run(main: Any, *words: str) -> Sweep:
        assert cli.run(main, [*words, "--device", "cpu"]) == 0
        return executed[-1]

    first = run(sweep.main, "launch", str(root), "--sweep", str(file), "--skip_confirmation")
    assert execute(first, first.plan.runs[0]) == 0
    assert ttls(first) == [77]
    assert read_site(root).ttl == 77, "for workers, which Slurm or Ray may start"
    assert run(worker.main, str(root)).store.ttl == 77
    assert run(worker.main, str(root), "--ttl", "99").store.ttl == 99
    assert run(sweep.main, "launch", str(root)).store.ttl == 77, "the folder's own"
    assert run(sweep.main, "launch", str(root), "--algorithms", "ERM", "VREx").store.ttl == 77
    assert run(sweep.main, "retry", str(root), "--skip_confirmation", "--ttl", "88").store.ttl == 88
    assert run(sweep.main, "launch", str(root), "--launcher", launcher, "ttl=66").store.ttl == 66
    assert read_site(root).ttl == 66


def test_by_default_the_file_system_decides(tmp_path: Path, executed: list[Sweep]) -> None:
    root, file = tmp_path / "sweep", tmp_path / "sweep.toml"
    file.write_text(FILE.partition("[launcher]")[0])
    assert cli.run(sweep.main, ["launch", str(root), "--sweep", str(file), "--skip_confirmation"]) == 0
    assert (read_site(root).ttl, executed[0].store.ttl) == (0, TTL)
