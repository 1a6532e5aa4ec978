"""Identify processes across machines and reboots, and read the clock of a file server."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process, identified so that no later one is mistaken for it: pids are reused, start times are not."""

    host: str
    """Name of its machine."""
    boot: str
    """Identity of the running kernel and of the pid namespace; empty if there is no /proc, or that of another one."""
    pid: int
    """Process id in that namespace."""
    started: int
    """Clock ticks between boot and the start of the process; 0 if `boot` is empty."""

    @staticmethod
    def current() -> Process:
        """Return the calling process."""
        host, boot = machine()
        return Process(host, boot, os.getpid(), (boot and start_time(os.getpid())) or 0)

    def alive(self) -> bool | None:
        """Return whether the process still exists; None if that can't be seen from this machine or container.

        The boot identity decides which machine it is, whatever its name. But copies of a virtual machine share that
        identity, so a process that is not found is gone only if the names agree, too.
        """
        host, boot = machine()
        if not self.boot or not self.started or self.boot != boot:
            return None
        found = self._is_there()
        return None if found is False and self.host != host else found

    def _is_there(self) -> bool | None:
        """Look the process up in this machine's table; None if it is another user's and hidden."""
        # The signal alone is not enough: a zombie answers it but has no start time, and a later process with the same
        # pid has another start time.
        started = start_time(self.pid)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's process, whose /proc entry may be hidden (hidepid)
            return None if started is None else started == self.started
        return started == self.started


@lru_cache(maxsize=1)
def machine() -> tuple[str, str]:
    """Return the host name and `Process.boot` of this machine."""
    # Containers on one machine share a kernel but number their processes apart, so the pid namespace belongs to it. In
    # a namespace that still sees the /proc of another, the numbers there are other processes'.
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return socket.gethostname(), ""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return socket.gethostname(), f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname(), ""


def start_time(pid: int) -> int | None:
    """Return the clock ticks from boot to a process's start; None if it is gone or a zombie, or without /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # Field 2, the program's name in parentheses, may itself hold spaces and parentheses: count from the last `)`. State
    # is then field 3, and the start time field 22.
    state, *fields = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def file_clock(folder: Path) -> float:
    """Return the time in seconds by the clock of the server that holds `folder`.

    A new file's modification time is set by the server, so it can be compared with that of any other file there; this
    machine's clock can't. The file has a name while it is asked, since some file systems forget those without one.

    Raises:
        OSError: Nothing can be written in `folder`.
    """
    file, path = tempfile.mkstemp(prefix=".clock-", suffix=".tmp", dir=folder)
    try:
        return os.fstat(file).st_mtime
    finally:
        os.close(file)
        with suppress(FileNotFoundError):  # the holder of a lease removes temporary files
            os.unlink(path)
