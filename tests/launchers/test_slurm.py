"""The Slurm launcher on a real Slurm, with two nodes that are emulated on this machine.

However Slurm ends a worker, its runs are saved and resumed, and the records are those of runs that were never stopped.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dgbench import cli
from dgbench.core.machine import usable_cores
from dgbench.launchers.slurm import Slurm
from dgbench.plan.planfile import read_plan
from dgbench.store.folder import Store
from dgbench.store.holder import read_holder
from dgbench.store.state import State
from tests.support import slurm_cluster
from tests.support.commands import sweep
from tests.support.pages import blocks
from tests.support.places import ROOT, SUPPORT
from tests.support.slurm_cluster import Cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing() or "-"),
]

Until = Callable[[Callable[[], object]], None]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with slurm_cluster.running() as found:
        yield found


@pytest.fixture(autouse=True)
def _on_the_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.env[name])
    yield
    cluster.call("scancel", f"--user={os.getuid()}")
    while cluster.call("squeue", "--noheader"):
        time.sleep(0.1)


@pytest.fixture(scope="module")
def words() -> list[str]:
    """What asks for two training runs and one that merges them."""
    slow = str(SUPPORT / "slow_erm.py")
    asked = ["--include", slow, "--algorithms", "Slow", "Slow+DiWA", "--datasets", "RotatedDigits"]
    asked += ["--test_envs", "75", "--single_test_envs", "--n_hparams", "2", "--n_trials", "1", "--steps", "600"]
    asked += ["--checkpoint_freq", "300", "--set", "backbone=Linear", "batch_size=8", "--skip_confirmation"]
    # As many runs at once as there are cores, so that each computes with one thread wherever it executes.
    return [*asked, "--device", "cpu", "--jobs", str(usable_cores())]


@pytest.fixture(scope="module")
def expected(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Records of the same sweep on this machine, without Slurm."""
    root = tmp_path_factory.mktemp("expected") / "sweep"
    assert cli.run(sweep.main, ["launch", str(root), *words]) == 0
    return records(root)


def records(root: Path) -> dict[str, bytes]:
    return {run.id: (root / "runs" / run.id / "records.jsonl").read_bytes() for run in read_plan(root).runs}


def launch(root: Path, words: list[str], *options: str) -> int:
    return cli.run(sweep.main, ["launch", str(root), *words, "--launcher", "slurm", "poll=1", "workers=2", *options])


def begin(root: Path, words: list[str], *options: str) -> list[str]:
    """Submits workers and leaves; the ids of their arrays."""
    assert cli.run(sweep.main, ["launch", str(root), *words, "--detach", "--launcher", "slurm", *options]) == 0
    return re.findall(r'"id": "(\d+)"', (root / "slurm" / "jobs.json").read_text())


def steps(root: Path) -> dict[str, int]:
    """Steps of runs that are not done."""
    store = Store(root)
    return {id: (store.folder(id).progress() or (0, 0))[0] for id in store.ids()}


def states(root: Path) -> list[State]:
    return list(Store(root).states((run.id for run in read_plan(root).runs), 1).values())


def resumed(root: Path) -> list[int]:
    """The steps at which attempts after the first took up their runs."""
    logs = [path.read_text() for path in sorted(root.glob("runs/*/log.txt"))]
    return [int(step) for log in logs for step in re.findall(r"resum\w+ at step ([\d,]+)", log)]


def attempts(root: Path) -> list[int]:
    """How often each run was taken up, sorted: the merged one once, if no more was needed."""
    return sorted(len(list(folder.glob("lease-????"))) for folder in root.glob("runs/*"))


def finish(cluster: Cluster, root: Path, until: Until) -> None:
    """Waits for every run to be done, while Slurm starts what it has requeued."""

    def done() -> bool:
        cluster.hurry()
        return set(states(root)) == {State.DONE}

    until(done)


def jobs_left(cluster: Cluster) -> list[str]:
    return cluster.call("squeue", "--noheader", "--array", "--format=%i %T").splitlines()


def test_the_cluster_has_two_nodes_that_hand_out_gpus(cluster: Cluster) -> None:
    shown = cluster.call("srun", "--nodes=2", "--gres=gpu:1", "sh", "-c", "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES")
    assert sorted(shown.splitlines()) == ["n1 0", "n2 0"]


def test_a_sweep_on_slurm_has_the_records_of_one_without(
    cluster: Cluster, words: list[str], expected: dict[str, bytes], tmp_path: Path, until: Until
) -> None:
    """Even if the controller is away for a while."""
    root = tmp_path / "sweep"

    def restart() -> None:
        until(lambda: root.exists() and any(steps(root).values()))
        cluster.stop_controller()
        time.sleep(3)
        cluster.start_controller()

    with ThreadPoolExecutor() as beside:
        restarted = beside.submit(restart)
        assert launch(root, words, "ttl=77", "setup=export SEEN=yes", "setup=echo seen $SEEN") == 0
        restarted.result()
    assert records(root) == expected
    holders = [read_holder(path) for path in root.glob("runs/*/lease-????")]
    assert {holder.ttl for holder in holders if holder} == {77}
    assert all("seen yes" in log.read_text() for log in root.glob("slurm/*.txt"))
    assert launch(root, words) == 0, "and nothing is submitted again"
    assert len(list(root.glob("slurm/*.sh"))) == 1


def test_canceled_tasks_save_their_runs_and_do_not_come_back(
    cluster: Cluster, words: list[str], expected: dict[str, bytes], tmp_path: Path, until: Until
) -> None:
    root = tmp_path / "sweep"
    (job,) = begin(root, words, "workers=1")
    until(lambda: any(steps(root).values()))
    cluster.call("scancel", job)
    until(lambda: not jobs_left(cluster))
    assert not {State.RUNNING, State.FAILED} & set(states(root))
    assert launch(root, words) == 0
    assert records(root) == expected
    assert attempts(root) == [1, 2, 2]
    assert all(resumed(root)), "and none began anew"


def test_cancel_ends_tasks_that_run_and_that_wait(
    cluster: Cluster, words: list[str], tmp_path: Path, until: Until, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "sweep"
    begin(root, [*words, "--n_hparams", "9"], "workers=4", "at_once=1")
    until(lambda: any(steps(root).values()))
    capfd.readouterr()
    assert cli.run(sweep.main, ["status", str(root)]) != 0
    assert re.search(r"slurm: 1 running \(n. 1\), 3 pending \(JobArrayTaskLimit 3\)", capfd.readouterr().out)
    assert cli.run(sweep.main, ["cancel", str(root)]) == 0
    assert "slurm: 4 tasks canceled" in capfd.readouterr().out
    until(lambda: not jobs_left(cluster))
    assert not {State.RUNNING, State.FAILED} & set(states(root))
    assert State.WAITING in states(root)


def test_the_end_of_its_time_queues_a_worker_once_more(
    cluster: Cluster, words: list[str], tmp_path: Path, until: Until
) -> None:
    root = tmp_path / "sweep"
    (job,) = begin(root, [*words, "--steps", "30000"], "workers=1", "time=10", "sbatch=--signal=B:TERM@10")
    until(lambda: any(steps(root).values()))
    # Slurm checks limits every 30 s, and gives notice at the last check before the time that it is to give notice.
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    until(lambda: jobs_left(cluster) == [f"{job}_0 PENDING"])
    assert not {State.RUNNING, State.FAILED} & set(states(root))
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=10")

    def again() -> bool:
        cluster.hurry()
        return bool(resumed(root))

    until(again)
    assert all(resumed(root)), "at a step that was saved"


def test_a_worker_that_made_no_step_in_its_time_is_not_queued_again(
    cluster: Cluster, words: list[str], tmp_path: Path, until: Until
) -> None:
    root = tmp_path / "sweep"
    (job,) = begin(root, words, "workers=1", "setup=export PAUSE=1000", "grace=1")
    until(lambda: State.RUNNING in states(root))
    cluster.call("scancel", "--batch", "--signal=TERM", f"{job}_0")  # as at the end of its time
    until(lambda: not jobs_left(cluster))
    (log,) = root.glob("slurm/*.txt")
    assert "no step was made before the end of this task's time" in log.read_text()
    assert list(root.glob("slurm/*.stepped")) == []


def test_a_preempted_worker_saves_and_comes_back(
    cluster: Cluster, words: list[str], expected: dict[str, bytes], tmp_path: Path, until: Until
) -> None:
    root = tmp_path / "sweep"
    begin(root, words, "workers=1")
    until(lambda: any(steps(root).values()))
    cluster.call(
        "sbatch", "--wait", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true"
    )
    finish(cluster, root, until)
    assert records(root) == expected
    assert attempts(root) == [1, 2, 2]
    assert all(resumed(root))


def test_a_node_that_dies_loses_no_run(
    cluster: Cluster, words: list[str], expected: dict[str, bytes], tmp_path: Path, until: Until
) -> None:
    root = tmp_path / "sweep"
    begin(root, words, "workers=1")
    until(lambda: any(steps(root).values()))
    node = cluster.call("squeue", "--noheader", "--format=%N")
    cluster.kill_node(node)
    until(lambda: State.RUNNING not in states(root))
    finish(cluster, root, until)
    cluster.start_node(node)
    cluster.wait_for_nodes(node)
    assert records(root) == expected
    assert attempts(root) == [1, 2, 2]


def test_no_run_is_executed_twice_if_a_nodes_daemon_dies(
    cluster: Cluster, words: list[str], expected: dict[str, bytes], tmp_path: Path, until: Until
) -> None:
    """Slurm starts the worker on the other node, while the one that it has lost sight of goes on."""
    root = tmp_path / "sweep"
    begin(root, [*words, "--steps", "2000"], "workers=1")
    until(lambda: any(steps(root).values()))
    node = cluster.call("squeue", "--noheader", "--format=%N")
    cluster.kill_daemon(node)
    finish(cluster, root, until)
    cluster.start_node(node)
    cluster.wait_for_nodes(node)
    assert attempts(root) == [1, 1, 1]


def test_workers_that_run_out_of_memory_are_not_started_for_ever(
    cluster: Cluster, words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch(tmp_path / "sweep", words, "memory=20M") == 75
    told = capfd.readouterr().out
    assert re.search(r"slurm: \d+_\d ended on n\d: FAILED: .* memory limit", told)
    assert "workers were started 3 times without a step made" in told
    assert len(list((tmp_path / "sweep").glob("slurm/*.sh"))) == 3


def test_arrays_are_as_long_as_the_cluster_allows(cluster: Cluster, tmp_path: Path) -> None:
    """There is no sweep in the folder, so the workers end at once."""
    launcher = Slurm()
    launcher.start(tmp_path, 12)
    assert [job["tasks"] for job in json.loads((tmp_path / "slurm" / "jobs.json").read_text())["jobs"]] == [10, 2]
    assert launcher.alive(tmp_path)
    list(launcher.cancel(tmp_path))


def test_options_that_slurm_refuses_are_told_before_anything_is_written(
    cluster: Cluster, words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch(tmp_path / "sweep", words, "partition=none", "gpus=1") == 2
    assert "invalid partition specified: none" in capfd.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_the_page_on_launching_is_right(cluster: Cluster, tmp_path: Path, until: Until) -> None:
    (block,) = (
        found for found in blocks((ROOT / "docs/launching.md").read_text()) if Path(__file__).name in found.skip
    )
    script = f'set -e; dgbench() {{ {sys.executable} -m dgbench "$@" || [ $1 = status ]; }}; {block.commands}'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"slurm: \d+ tasks? canceled", done.stdout)
    until(lambda: not jobs_left(cluster))
