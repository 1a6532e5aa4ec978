"""The Ray launcher on a real Ray, with two nodes on this machine.

Whatever dies, the records are those of runs that were never stopped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dgbench.core.errors import UserError
from dgbench.core.machine import usable_cores
from dgbench.launchers import ray as ray_launcher
from dgbench.launchers.base import STOPPED_EARLY
from dgbench.launchers.launcher import choose_launcher
from dgbench.launchers.ray import Ray
from dgbench.plan.planfile import read_plan
from dgbench.store.folder import Store
from tests.support import ray_cluster
from tests.support.places import ROOT, SUPPORT
from tests.support.ray_cluster import NODES, Cluster


def test_options_that_are_out_of_range() -> None:
    with pytest.raises(UserError) as caught:
        choose_launcher(["ray", "cpus=-1", "gpus=-1", "workers=0"], {}, {})
    assert len(caught.value.problems) == 3


def test_a_worker_executes_as_many_runs_as_it_has_cores_or_gpus() -> None:
    assert Ray(cpus=4).slots() == 4
    assert Ray(cpus=0.5).slots() == 1
    assert Ray(cpus=4, gpus=1, jobs_per_gpu=2).slots() == 2
    assert "--jobs=4" in Ray(cpus=4).command(ROOT)
    assert [word for word in Ray(jobs=3).command(ROOT) if word.startswith("--jobs=")] == ["--jobs=3"]


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(ray_launcher.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'dgbench\[ray\]'"):
        Ray().start(ROOT, 1)


needs_ray = pytest.mark.skipif(bool(ray_cluster.missing()), reason=ray_cluster.missing() or "-")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster.running() as found:
        yield found


@pytest.fixture(scope="module")
def words() -> list[str]:
    """What asks for four training runs and one that merges them."""
    slow = str(SUPPORT / "slow_erm.py")
    asked = ["--include", slow, "--algorithms", "Slow", "Slow+DiWA", "--datasets", "RotatedDigits"]
    asked += ["--test_envs", "75", "--single_test_envs", "--n_hparams", "4", "--n_trials", "1", "--steps", "600"]
    return [*asked, "--checkpoint_freq", "200", "--set", "backbone=Linear", "batch_size=8", "--device", "cpu"]


def launched(cluster: Cluster, root: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dgbench", "launch", str(root), *words, "--skip_confirmation"]
    return subprocess.Popen(command, env=cluster.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(condition: Callable[[], object], launch: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 200
    while not condition():
        assert launch.poll() is None, launch.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.1)


def begun(root: Path) -> int:
    """How many unfinished runs have made a step."""
    folders = [Store(root).folder(id) for id in Store(root).ids()]
    return sum((folder.progress() or (0, 0))[0] > 0 and folder.summary() is None for folder in folders)


def records(root: Path) -> dict[str, bytes]:
    folders = [Store(root).folder(run.id) for run in read_plan(root).runs]
    return {folder.id: (folder.path / "records.jsonl").read_bytes() for folder in folders}


def workers_of(root: Path) -> list[int]:
    """Processes that are workers of this sweep."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"worker" in line and str(root.resolve()).encode() in line:
                found.append(int(entry))
    return found


RAY = ("--launcher", "ray", "idle=5", "poll=1", "workers=4")


@pytest.mark.slow
@needs_ray
@pytest.mark.timeout(600)
def test_killed_canceled_and_killed_again_the_records_are_the_same(
    cluster: Cluster, words: list[str], tmp_path: Path
) -> None:
    # As many runs at once as there are cores, so that each computes with one thread wherever it executes.
    local = launched(cluster, tmp_path / "local", *words, "--jobs", str(usable_cores()))
    printed = local.communicate(timeout=300)[0]
    assert local.returncode == 0, printed

    root = tmp_path / "sweep"
    launch = launched(cluster, root, *words, *RAY)
    until(lambda: begun(root), launch)
    subprocess.run([sys.executable, "-m", "dgbench", "cancel", str(root)], check=True, env=cluster.env)
    printed = launch.communicate(timeout=100)[0]
    assert launch.returncode == STOPPED_EARLY, printed
    assert workers_of(root) == []
    assert any((Store(root).folder(id).path / "checkpoint.pt").exists() for id in Store(root).ids())

    launch = launched(cluster, root, *RAY)
    until(lambda: begun(root) and workers_of(root), launch)
    os.kill(workers_of(root)[0], signal.SIGKILL)
    cluster.kill_node(NODES[1])
    printed = launch.communicate(timeout=300)[0]
    assert launch.returncode == 0, printed
    assert workers_of(root) == []
    assert records(root) == records(tmp_path / "local")


@pytest.mark.slow
@needs_ray
def test_a_worker_that_fits_no_node_is_refused(cluster: Cluster, words: list[str], tmp_path: Path) -> None:
    launch = launched(cluster, tmp_path / "sweep", *words, "--launcher", "ray", "cpus=64")
    printed = launch.communicate(timeout=200)[0]
    assert launch.returncode == 2
    assert "no node has the 64 cores" in printed
    assert not (tmp_path / "sweep").exists()
