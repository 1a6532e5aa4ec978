"""Workers, through the real command: they finish a sweep that was launched, and their exit codes say what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from dgbench import worker
from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.site import Site
from dgbench.launchers.prepare import prepare
from dgbench.plan.declaration import read_site
from dgbench.plan.planfile import read_plan
from dgbench.store.folder import Store
from dgbench.store.state import State

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("preloaded")]
REAL = sys.executable
"""An interpreter that has nothing imported yet."""

SLOW = '''
import time
from pathlib import Path
from dgbench.algorithms.erm import ERM
from dgbench.core.cards import AlgorithmCard

class Slow(ERM):
    """ERM that takes its time while the file `slow` is there, and fails while `broken` is."""

    card = AlgorithmCard(paper="none")

    def loss(self, batches):
        if Path(__file__).with_name("broken").exists():
            raise ArithmeticError("broken")
        if Path(__file__).with_name("slow").exists():
            time.sleep(0.5)
        return super().loss(batches)
'''
ASKED = {
    "algorithms": ["Slow"],
    "datasets": ["RotatedDigits"],
    "test_envs": ["75"],
    "single_test_envs": True,
    "n_hparams": 4,
    "n_trials": 1,
    "hparams": {"batch_size": 8},
    "setting": {"steps": 20, "checkpoint_freq": 19},
}


def command(name: str, root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "dgbench", name, str(root), *words]


def run(name: str, root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(name, root, *words), capture_output=True, text=True, stdin=subprocess.DEVNULL)


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("worker", root, *words), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def until(true: object, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def attempts(root: Path) -> Counter[str]:
    return Counter(path.parent.name for path in root.glob("runs/*/lease-????"))


def states(root: Path) -> Counter[State]:
    return Counter(Store(root).states((run.id for run in read_plan(root).runs), 0).values())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a sweep of four runs, planned and not begun."""
    (tmp_path / "slow.py").write_text(SLOW)
    site = Site(device="cpu", retries=0, include=(str(tmp_path / "slow.py"),))
    prepare(tmp_path / "sweep", ASKED, site, Catalogue(site.include)).write()
    return tmp_path


def test_a_plan_that_grows_is_noticed_and_only_then_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, read = place / "sweep", list[Path]()
    monkeypatch.setattr(worker, "read_plan", lambda root: read.append(root) or read_plan(root))
    plan = worker.Replanning(root)
    known = {run.id for run in read_plan(root).runs}
    plan.take(known)
    assert [plan.has_more() for _ in range(3)] == [False] * 3
    assert read == []
    site = read_site(root)
    prepare(root, ASKED, site, Catalogue(site.include)).write()
    assert not plan.has_more(), "written anew, and the same"
    more = prepare(root, {**ASKED, "n_hparams": 5}, site, Catalogue(site.include))
    more.write()
    assert plan.has_more()
    assert plan.has_more(), "until it is taken"
    assert len(read) == 2
    plan.take(known)  # as if the declaration had not been written yet
    assert not plan.has_more(), "no busy loop"
    (root / "sweep.json").touch()
    assert plan.has_more()
    plan.take(run.id for run in more.plan.runs)
    assert not plan.has_more()


def test_a_worker_takes_up_runs_that_a_launch_adds_and_imports_methods_once(place: Path) -> None:
    root = place / "sweep"
    (place / "slow").touch()
    (place / "slow.py").write_text(
        f"{SLOW}\nimport sys\nif any('forkserver' in word for word in sys.orig_argv):\n"
        f"    open({str(place / 'imports')!r}, 'a').write('x')\n"
    )
    site = read_site(root)
    prepare(root, ASKED, site, Catalogue(site.include)).write()
    working = start(root, "--jobs", "2", "--idle", "0")
    until(lambda: states(root)[State.RUNNING])
    prepare(root, {**ASKED, "n_hparams": 6}, site, Catalogue(site.include)).write()
    (place / "slow").unlink()
    printed = working.communicate(timeout=300)[0]
    assert working.returncode == 0, printed
    assert states(root) == {State.DONE: 6}
    assert (place / "imports").read_text() == "x", "by one process that all runs are forked from"


def test_workers_share_a_sweep_and_leave_the_plan_alone(place: Path) -> None:
    root = place / "sweep"
    before = {name: (root / name).stat().st_mtime_ns for name in ("sweep.json", "plan.json")}
    workers = [start(root, "--jobs", "1") for _ in range(2)]
    said = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert states(root) == {State.DONE: 4}
    assert set(attempts(root).values()) == {1}
    assert {name: (root / name).stat().st_mtime_ns for name in before} == before
    began = time.monotonic()
    words = [REAL, *command("worker", root)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, "4 done\n"), done.stderr
    assert time.monotonic() - began < 10, "nothing to do: torch is not imported"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_asks_for_another_worker(place: Path, number: signal.Signals) -> None:
    root = place / "sweep"
    (place / "slow").touch()
    worker = start(root, "--jobs", "2")
    until(lambda: len(list(root.glob("runs/*/progress.json"))) == 2)
    worker.send_signal(number)
    worker.send_signal(number)
    said, _ = worker.communicate(timeout=60)
    assert worker.returncode == 75, said
    assert f"stopping: {number.name}" in said
    assert states(root) == {State.WAITING: 2, State.MISSING: 2}
    assert len(list(root.glob("runs/*/checkpoint.pt"))) == len(list(root.glob("runs/*/lease-0001.released"))) == 2


def test_a_worker_with_nothing_to_claim_leaves_after_its_idle_time(place: Path) -> None:
    root = place / "sweep"
    (place / "slow").touch()
    holder = start(root, "--jobs", "4")
    until(lambda: len(list(root.glob("runs/*/progress.json"))) == 4)
    done = run("worker", root, "--idle", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no run could be claimed for 2 s" in done.stderr
    (place / "slow").unlink()
    said, _ = holder.communicate(timeout=300)
    assert holder.returncode == 0, said
    assert set(attempts(root).values()) == {1}


def test_one_run_and_failures_and_time(place: Path) -> None:
    root = place / "sweep"
    assert run("worker", root, "--once").returncode == 0
    assert states(root) == {State.DONE: 1, State.MISSING: 3}
    (place / "slow").touch()
    done = run("worker", root, "--stop_after", "6s")
    assert done.returncode == 75, done.stdout + done.stderr
    assert "stopping: time" in done.stderr
    assert State.RUNNING not in states(root)
    (place / "slow").unlink()
    (place / "broken").touch()
    done = run("worker", root, "--max_failures", "2", "--jobs", "1")
    assert done.returncode == 70, done.stdout + done.stderr
    assert states(root)[State.FAILED] == 2
    assert run("worker", root, "--max_failures", "2", "--jobs", "1").returncode == 1, "one is left, and fails"
    assert run("worker", root).returncode == 1


def test_what_is_wrong_is_said_by_the_exit_code(place: Path, tmp_path: Path) -> None:
    root = place / "sweep"
    done = run("worker", tmp_path / "none", "--stop_after", "soon", "--idle", "-1")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) >= 2, done.stderr
    assert "Traceback" not in done.stderr
    done = run("worker", root, "--device", "cuda", "--jobs", "1")
    assert (done.returncode, "no GPU" in done.stderr) == (69, True), done.stderr
    gpu = {**os.environ, "CUDA_VISIBLE_DEVICES": "nonsense"}
    done = subprocess.run(command("worker", root, "--device", "auto"), capture_output=True, text=True, env=gpu)
    assert (done.returncode, "GPU nonsense can't be used" in done.stderr) == (69, True), done.stderr
    (place / "slow.py").rename(place / "elsewhere.py")
    done = run("worker", root)
    assert done.returncode == 69, done.stderr
    assert "slow.py" in done.stderr
    assert not list(root.glob("runs/*"))
    plan = json.loads((root / "plan.json").read_text())
    assert plan, "untouched"


def test_another_versions_plan_is_refused(place: Path) -> None:
    root = place / "sweep"
    text = (root / "plan.json").read_text()
    id = read_plan(root).runs[0].id
    (root / "plan.json").write_text(text.replace(id, f"{int(id, 16) ^ 1:0{len(id)}x}"))
    done = run("worker", root)
    assert (done.returncode, "another version" in done.stderr) == (69, True), done.stderr
    assert not os.path.exists(root / "runs")
