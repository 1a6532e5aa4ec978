"""A small sweep whose processes are started, found by their role and disturbed, and whose results are compared."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from dgbench.core.machine import CORES
from dgbench.plan.declaration import read_site
from dgbench.plan.planfile import read_plan
from dgbench.store.folder import Store
from dgbench.store.lease import newest
from dgbench.store.run_folder import RunFolder
from dgbench.store.state import State

ROOT = Path(__file__).resolve().parents[2]
MARK = "DGBENCH_CHAOS"
"""Variable in the environment of all processes of a sandbox, by which they are found."""
PATIENCE = 200.0
"""Seconds after which something that should have happened counts as a hang."""
SLOW = """
import select
from dgbench.algorithms.erm import ERM

class Slow(ERM):
    '''ERM that takes 10 ms for a step, however fast the machine is.'''

    card = ERM.card.__class__(paper="none")

    def loss(self, batches):
        select.select([], [], [], 0.01)  # where the clock is faked, time.sleep fails
        return super().loss(batches)
"""
ROWS = ("ERM+SWAD", "SAM", "Fish", "ERM+DiWA", "ERM+T3A")


class Harm(AssertionError):
    """A property that does not hold."""


def request(rows: Sequence[str] = ROWS, *, hparams: int = 2, steps: int = 300) -> list[str]:
    """Words that ask for a sweep on real digits of 8 x 8 pixels, of runs that take about a second."""
    words = ["--algorithms", *rows, "--datasets", "RotatedDigits", "--test_envs", "75", "--single_test_envs"]
    words += ["--n_hparams", str(hparams), "--n_trials", "1", "--steps", str(steps)]
    words += ["--checkpoint_freq", str(max(1, steps // 6)), "--set", "backbone=Linear", "batch_size=8"]
    return [*words, "--device", "cpu"]


def slow_request(place: Path, *, hparams: int, steps: int = 1500) -> list[str]:
    """Words that ask for runs that take 10 ms a step and hardly need the processor, and for their merger."""
    file = place / "slow.py"
    place.mkdir(parents=True, exist_ok=True)
    file.write_text(SLOW)
    return [*request(("Slow", "Slow+DiWA"), hparams=hparams, steps=steps), "--include", str(file)]


class Sandbox:
    """A sweep's folder, and the processes that work on it."""

    def __init__(self, place: Path, words: Sequence[str], env: Mapping[str, str] = {}) -> None:
        """Prepare a sweep in `place`/sweep, for which `words` ask; `env` adds to the environment of its processes."""
        self.root, self.words, self.env = place / "sweep", list(words), dict(env)
        self.token = uuid.uuid4().hex
        place.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def start(self, *words: str, wrap: Sequence[str] = (), env: Mapping[str, str] = {}) -> subprocess.Popen[str]:
        """Start a command of dgbench, behind the words of `wrap`.

        Its runs use one thread, whatever the machine and the number of runs at once: sums are then the same.
        """
        both = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", CORES: "1", **self.env, **env}
        return subprocess.Popen(
            [*wrap, sys.executable, "-m", "dgbench", *words],
            env={**both, MARK: self.token},
            cwd=self.root.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def launch(self, *options: str, wrap: Sequence[str] = (), env: Mapping[str, str] = {}) -> subprocess.Popen[str]:
        """Start a launch of the sweep."""
        words = ["launch", str(self.root), *self.words, "--skip_confirmation", *options]
        return self.start(*words, wrap=wrap, env=env)

    def worker(self, *options: str, wrap: Sequence[str] = (), env: Mapping[str, str] = {}) -> subprocess.Popen[str]:
        """Start a worker on the sweep."""
        return self.start("worker", str(self.root), *options, wrap=wrap, env=env)

    def plan(self) -> None:
        """Write the plan by a launch that is killed before it executes anything."""
        launch = self.launch("--jobs", "1")
        until(lambda: (self.root / "sweep.json").exists(), "a plan")
        kill(self.below([launch.pid]))
        finish(launch, -signal.SIGKILL)
        shutil.rmtree(self.root / "runs", ignore_errors=True)

    def folder(self, run: str) -> RunFolder:
        """The folder of a run."""
        return Store(self.root).folder(run)

    def folders(self) -> list[RunFolder]:
        """The folders of all runs that were begun."""
        return [self.folder(run) for run in Store(self.root).ids()]

    def attempts(self) -> list[int]:
        """How often each begun run was taken up, sorted."""
        return sorted(newest(os.listdir(folder.path))[0] for folder in self.folders())

    def processes(self) -> dict[int, str]:
        """Living processes of the sandbox, with their roles: launch, worker, server, run, other."""
        lines = {pid: _read(pid, "cmdline").split("\0") for pid in self._parents()}
        roles = {pid: _role(line) for pid, line in lines.items()}
        # A run is forked from a server, and looks like one.
        parents = self._parents()
        forked = {pid for pid, role in roles.items() if role == roles.get(parents.get(pid, 0)) == "server"}
        return {pid: "run" if pid in forked else role for pid, role in roles.items()}

    def _parents(self) -> dict[int, int]:
        """Living processes of the sandbox, with their parents."""
        found, wanted = dict[int, int](), f"{MARK}={self.token}"
        for entry in os.listdir("/proc"):
            if entry.isdigit() and wanted in _read(int(entry), "environ").split("\0"):
                state, parent, *_ = [*_read(int(entry), "stat").rpartition(")")[2].split(), "X", "0"]
                if state not in "ZX":
                    found[int(entry)] = int(parent)
        return found

    def below(self, pids: Iterable[int]) -> set[int]:
        """These processes and all that they have started, directly or not."""
        parents, found, size = self._parents(), set(pids), 0
        while len(found) > size:
            size = len(found)
            found |= {pid for pid, parent in parents.items() if parent in found}
        return found

    def states(self) -> dict[str, State]:
        """The states of all runs of the plan; empty before there is one."""
        if not (self.root / "plan.json").exists():
            return {}
        retries = read_site(self.root).retries if (self.root / "sweep.json").exists() else 1
        return Store(self.root).states((run.id for run in read_plan(self.root).runs), retries)

    def records(self) -> dict[str, bytes]:
        """The records of each run; those that stand on a dropped run have none."""
        paths = {run.id: self.root / "runs" / run.id / "records.jsonl" for run in read_plan(self.root).runs}
        return {id: path.read_bytes() for id, path in paths.items() if path.exists()}

    @cached_property
    def table(self) -> str:
        """The output of `collect` on the finished sweep."""
        return finish(self.start("collect", str(self.root)), 0)

    def end(self) -> int:
        """Kill whatever still lives; return how many processes that were."""
        found = self.processes()
        kill(found)
        until(lambda: not self.processes(), "killed processes to end")
        return len(found)


def _role(line: Sequence[str]) -> str:
    if "dgbench.launchers.forkserver" in line:
        return "server"
    return next((role for role in ("launch", "worker") if role in line[:5]), "other")


def _read(pid: int, name: str) -> str:
    """A file of a process in /proc; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait for a condition; raise `Harm` if it does not come about."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Harm(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.02)


def finish(process: subprocess.Popen[str], *codes: int, seconds: float = PATIENCE) -> str:
    """Wait for the end of a process; return its output, or raise `Harm` if it hangs or has another exit code."""
    try:
        output = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise Harm(f"{_line(process)} did not end within {seconds:.0f} s") from None
    if codes and process.returncode not in codes:
        raise Harm(f"{_line(process)} ended with {process.returncode}:\n{output}")
    if "Traceback" in output:
        raise Harm(f"{_line(process)} printed a traceback:\n{output}")
    return output


def _line(process: subprocess.Popen[str]) -> str:
    assert isinstance(process.args, list)
    return " ".join(map(str, process.args))


def kill(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to processes, as many as still live."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def same(sandbox: Sandbox, whole: Sandbox) -> None:
    """Raise `Harm` unless records and table of a disturbed sweep are, byte for byte, those of the undisturbed one."""
    states = sandbox.states()
    if not all(state.settled for state in states.values()):
        raise Harm(f"{sandbox.root}: not every run is done")
    if states != whole.states():
        raise Harm(f"{sandbox.root}: the search has dropped other runs than in {whole.root}")
    found, expected = sandbox.records(), whole.records()
    other = [id for id in expected if found.get(id) != expected[id]]
    if other or found.keys() != expected.keys():
        raise Harm(f"{sandbox.root}: the records of {', '.join(other) or 'other runs'} differ from {whole.root}")
    if sandbox.table.replace(str(sandbox.root), str(whole.root)) != whole.table:
        raise Harm(f"{sandbox.root}: the table differs from that of {whole.root}")
