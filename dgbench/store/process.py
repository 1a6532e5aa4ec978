"""Processes, named so that no later one is mistaken for them, and the clock of the server of files."""

from __future__ import annotations

import os
import socket
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process so named that no later one is mistaken for it."""

    host: str
    boot: str
    """Identity of the running kernel and of the pid namespace; empty where the system doesn't tell."""
    pid: int
    started: int
    """Clock ticks between boot and the start of the process; 0 where the system doesn't tell."""

    @staticmethod
    def current() -> Process:
        """This process."""
        host, boot = machine()
        return Process(host, boot, os.getpid(), start_time(os.getpid()) or 0)

    def alive(self) -> bool | None:
        """Whether it still exists; None if it runs on another machine or in another container."""
        if not self.boot or not self.started or (self.host, self.boot) != machine():
            return None
        started = start_time(self.pid)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's, whose /proc entry may be hidden
            return None if started is None else started == self.started
        return started == self.started


@lru_cache(maxsize=1)
def machine() -> tuple[str, str]:
    """Return host name and `Process.boot` of this machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return socket.gethostname(), f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname(), ""


def start_time(pid: int) -> int | None:
    """Read when a process started; None if it doesn't exist, is a zombie, or the system has no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def file_clock(folder: Path) -> float:
    """The time by the clock of whoever serves `folder`, in seconds; OSError if nothing can be written there."""
    with tempfile.TemporaryFile(dir=folder) as touched:
        return os.fstat(touched.fileno()).st_mtime
