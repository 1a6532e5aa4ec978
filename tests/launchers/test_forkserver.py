from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toy_launch import gone

from dgbench.launchers.forkserver import ForkServer, ForkServerDied
from dgbench.launchers.interrupts import STOPS

Until = Callable[[Callable[[], object]], None]


def _huge_pages_on_request() -> bool:
    """Return whether glibc can ask this kernel for huge pages, and has to."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    library, version = platform.libc_ver()
    if library != "glibc" or not setting.exists():
        return False
    return tuple(map(int, version.split("."))) >= (2, 35) and "[madvise]" in setting.read_text()


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer("toy_jobs:execute", modules=["json"], hook="toy_jobs:hook", argument={"hello": [1]})
    yield server
    server.close()


class Jobs:
    """Starts jobs and gathers what the server says about them."""

    def __init__(self, server: ForkServer, log: Path) -> None:
        self.server, self.log = server, log
        self.pid: dict[str, int] = {}
        self.status: dict[str, int] = {}

    def start(self, id: str, **job: object) -> None:
        self.server.start(id, job, {"TOY": f"env of {id}"}, str(self.log))

    def wait(self, number: int) -> dict[str, int]:
        while len(self.status) < number:
            id, self.pid[id], self.status[id] = self.server.receive()
        return self.status

    def sleeping(self) -> dict[str, int]:
        """The processes that sleep or slept, by job."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return {line.split()[3]: int(line.split()[4]) for line in lines if line.startswith("sleeping")}

    def run(self, **job: object) -> tuple[int, str]:
        self.start("a", **job)
        return self.wait(1)["a"], self.log.read_text()


@pytest.fixture
def jobs(server: ForkServer, tmp_path: Path) -> Jobs:
    return Jobs(server, tmp_path / "log.txt")


@pytest.mark.parametrize(
    ("job", "status", "said"),
    [
        ({"do": "return", "code": 0}, 0, ""),
        ({"do": "return", "code": 7}, 7, ""),
        ({"do": "raise"}, 1, "ValueError: it went wrong"),
        ({"do": "exit"}, 1, "bye"),
        ({"do": "kill"}, -signal.SIGKILL, "about to die"),
        ({"do": "segfault"}, -signal.SIGSEGV, "Segmentation fault"),
    ],
)
def test_says_how_a_run_ended_and_its_log_says_why(jobs: Jobs, job: dict, status: int, said: str) -> None:
    jobs.log.write_text("an earlier attempt\n")
    ended, log = jobs.run(**job)
    assert ended == status
    assert log.startswith("an earlier attempt\n")
    assert said in log


def test_what_a_run_finds(jobs: Jobs) -> None:
    _, log = jobs.run(do="look")
    found = eval(log)
    assert found == {
        "env": "env of a",
        "omp": "1",
        "hook": {"hello": [1]},
        "json": True,
        "leader": True,
        "ignored": ["SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"],
        "blocked": ["SIGTERM"],
        "chld": True,
        "wakeup": -1,
        "input": "",
        "threads": 1,
        "huge": _huge_pages_on_request(),
    }


def test_many_runs_at_once(jobs: Jobs) -> None:
    for i in range(30):
        jobs.start(str(i), do="return", code=i)
    assert jobs.wait(30) == {str(i): i for i in range(30)}
    assert len(set(jobs.pid.values())) == 30


def test_the_server_outlives_signals_to_every_process_of_a_job(jobs: Jobs, until: Until) -> None:
    jobs.start("a", do="sleep")
    until(lambda: jobs.sleeping())
    for number in STOPS:
        os.kill(jobs.server.process.pid, number)
        if number is not signal.SIGTERM:
            os.kill(jobs.sleeping()["a"], number)
    jobs.start("b", do="return", code=5)
    assert jobs.wait(1) == {"b": 5}
    assert not gone(jobs.sleeping()["a"])


def test_signals_to_a_server_that_is_about_to_import_are_ignored(until: Until) -> None:
    code = (
        "import os, signal, subprocess, sys\n"
        "from dgbench.launchers import forkserver\n"
        "popen = subprocess.Popen\n"
        "def start(*args, **options):\n"
        "    process = popen(*args, **options)\n"
        "    for _ in range(100): os.kill(process.pid, signal.SIGTERM)\n"
        "    return process\n"
        "subprocess.Popen = start\n"
        "server = forkserver.ForkServer('toy_jobs:execute')\n"
        "server.close()\n"
        "assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr


def test_signals_reach_one_run(jobs: Jobs, until: Until) -> None:
    jobs.start("a", do="sleep")
    jobs.start("b", do="sleep")
    until(lambda: len(jobs.sleeping()) == 2)
    jobs.server.signal("nobody", signal.SIGKILL)
    jobs.server.signal("a", signal.SIGTERM)
    assert jobs.wait(1) == {"a": -signal.SIGTERM}
    assert jobs.pid["a"] == jobs.sleeping()["a"]
    assert not gone(jobs.sleeping()["b"])


def test_what_a_run_leaves_behind_ends_with_it(jobs: Jobs, until: Until) -> None:
    jobs.run(do="spawn")
    until(lambda: gone(int(jobs.log.read_text())))


def test_a_fork_that_fails_is_that_runs_failure(tmp_path: Path) -> None:
    server = ForkServer("toy_jobs:execute", hook="toy_jobs:fail_to_fork_once")
    try:
        jobs = Jobs(server, tmp_path / "log.txt")
        jobs.start("a", do="return", code=0)
        jobs.start("b", do="return", code=0)
        assert jobs.wait(2) == {"a": os.EX_OSERR, "b": 0}
    finally:
        server.close()


@pytest.mark.parametrize("how", ["kill", "close"])
def test_runs_end_with_the_server(jobs: Jobs, until: Until, how: str) -> None:
    jobs.start("a", do="sleep")
    until(jobs.sleeping)
    if how == "kill":
        os.kill(jobs.server.process.pid, signal.SIGKILL)
        with pytest.raises(ForkServerDied, match="was killed by SIGKILL"):
            jobs.wait(1)
        with pytest.raises(ForkServerDied):
            jobs.start("b", do="return", code=0)
    else:
        jobs.server.close()
    until(lambda: gone(jobs.sleeping()["a"]))


def test_server_ends_with_the_launcher_even_while_it_imports(tmp_path: Path, until: Until) -> None:
    text = (
        "import json, os; from dgbench.launchers.forkserver import ForkServer\n"
        "ForkServer('toy_jobs:execute', hook='toy_jobs:slow_hook', argument=os.environ['OUT'])"
    )
    out = tmp_path / "pid"
    launcher = subprocess.Popen([sys.executable, "-c", text], env={**os.environ, "OUT": str(out)})
    until(lambda: out.exists() and out.read_text())
    launcher.kill()
    launcher.wait()
    until(lambda: gone(int(out.read_text())))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "toy_jobs:nothing"}, "has no attribute 'nothing'"),
        ({"target": "toy_jobs:execute", "modules": ["no_such_module"]}, "No module named 'no_such_module'"),
        ({"target": "toy_jobs:execute", "hook": "toy_jobs:bad_hook"}, "ZeroDivisionError"),
    ],
)
def test_a_server_that_cannot_start_says_why(options: dict, said: str) -> None:
    with pytest.raises(ForkServerDied, match=said):
        ForkServer(**options)


@pytest.mark.slow
def test_torch_is_forked_not_imported(tmp_path: Path) -> None:
    server = ForkServer("toy_jobs:execute", modules=["torch"])
    try:
        assert len(os.listdir(f"/proc/{server.process.pid}/task")) == 1, "a thread in the server: fork may deadlock"
        jobs = Jobs(server, tmp_path / "log.txt")
        jobs.start("a", do="torch", threads=2)
        assert jobs.wait(1) == {"a": 0}, jobs.log.read_text()
    finally:
        server.close()
