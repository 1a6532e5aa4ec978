"""Record the failures of attempts whose own processes could not, because they were killed or crashed."""

from __future__ import annotations

import signal
from pathlib import Path

from dgbench.launchers.base import Ended
from dgbench.store import lease as leases
from dgbench.store.run_folder import RunFolder

_TAIL = 4000  # characters of the log that a failure keeps
# Signals of people, batch systems and machines that shut down. A crash has others (SIGSEGV, SIGABRT, SIGBUS).
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def record_failure(folder: RunFolder, ended: Ended) -> None:
    """Record a failed attempt and free its lease; do nothing if another process holds the run."""
    number = ended.lease
    if number is None:  # The process died before it claimed the run, and a failure is filed under a lease's number.
        lease = folder.claim()
        if lease is None:
            return
        number = lease.number
    if number not in folder.failed_attempts():
        tail = _tail(folder.log_path)
        info = {"exit": ended.status, "error": _error(ended, tail), "traceback": tail, "log": str(folder.log_path)}
        folder.fail(info, number, killed=_killed(ended))
    leases.mark_released(folder.path, number)


def _killed(ended: Ended) -> bool:
    """Decide whether a signal from outside ended an attempt, so that its end says nothing about the run."""
    return ended.timeout is None and not ended.out_of_memory and -ended.status in _FROM_OUTSIDE


def _error(ended: Ended, log: str) -> str:
    if ended.timeout is not None:
        return f"took longer than {ended.timeout:.0f} s"
    if ended.status == 0:
        return "ended without finishing the run"
    if ended.status > 0:
        last_line = (log.strip() or "it said nothing").splitlines()[-1]
        return f"exit code {ended.status}: {last_line[:200]}"
    name = signal.Signals(-ended.status).name
    if ended.out_of_memory:
        return f"killed by {name}: the machine, or its share of it, was out of memory"
    return f"killed by {name}" + (" (often: out of memory)" if name == "SIGKILL" else "")


def _tail(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
