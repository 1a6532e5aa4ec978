"""Things that a process of the fork server may do."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from dgbench.launchers.interrupts import STOPS

_said: object = None


def hook(argument: object) -> None:
    global _said
    _said = argument


def slow_hook(argument: str) -> None:
    Path(argument).write_text(str(os.getpid()))
    time.sleep(60)


def bad_hook(argument: object) -> None:
    raise ZeroDivisionError


def fail_to_fork_once(argument: object) -> None:
    fork = os.fork

    def fail() -> int:
        os.fork = fork
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    os.fork = fail


def execute(job: dict) -> int:
    """Do what the job says."""
    do = job["do"]
    if do == "return":
        return int(job["code"])
    if do == "raise":
        raise ValueError("it went wrong")
    if do == "exit":
        sys.exit("bye")
    if do in ("kill", "segfault"):
        print("about to die")
        os.kill(os.getpid(), signal.SIGKILL if do == "kill" else signal.SIGSEGV)
    if do == "sleep":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        print("sleeping:", os.environ["TOY"], os.getpid())
        time.sleep(60)
    if do == "spawn":
        print(subprocess.Popen(["sleep", "60"]).pid)
    if do == "look":
        print(_found())
    if do == "torch":
        assert "torch" in sys.modules, "forked, not imported"
        import torch

        torch.set_num_threads(job["threads"])
        weight = torch.ones(300, 300, requires_grad=True)
        (weight @ weight).sum().backward()
        assert not torch.cuda.is_initialized()
        assert torch.get_num_threads() == job["threads"]
    return 0


def _found() -> dict[str, object]:
    return {
        "env": os.environ["TOY"],
        "omp": os.environ["OMP_NUM_THREADS"],
        "hook": _said,
        "json": "json" in sys.modules,
        "leader": os.getsid(0) == os.getpid(),
        "ignored": [number.name for number in STOPS if signal.getsignal(number) is signal.SIG_IGN],
        "blocked": [number.name for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "chld": signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,
        "wakeup": signal.set_wakeup_fd(-1),
        "input": sys.stdin.read(),
        "threads": threading.active_count(),
        "huge": _asks_for_huge_pages(),
    }


def _asks_for_huge_pages() -> bool:
    """Return whether the kernel may hold a large array in huge pages: the flag `hg` of its mapping."""
    array = ctypes.create_string_buffer(64 << 20)
    address, inside = ctypes.addressof(array), False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if mapped := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(mapped[1], 16) <= address < int(mapped[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise LookupError(address)
