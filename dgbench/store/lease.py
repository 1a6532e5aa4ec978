"""Leases: which process executes a run. Each attempt has a number, and each number is claimed once, ever, by the one
process that manages to create its file; lease K+1 may be claimed only by who judged K stale or released.

Lease files are never renamed or removed (a release is a second, empty file beside), for a number that became free
again could be claimed by somebody who made up his mind long ago.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import orjson

TTL = 60.0
"""Seconds without a sign of life after which a process of another machine counts as gone; on NFS use 180 or more."""

BEAT = 3.0
"""Seconds between two signs of life."""

PROGRESS = "progress.json"

_LEASE = re.compile(r"lease-(\d+)(\.released)?")


class Stopped(Exception):
    """The run was asked to stop, and nothing of it is half-done."""


class LeaseLost(RuntimeError):
    """Somebody else took the run over while this process gave no sign of life; it must not write any more."""


def lease_name(number: int) -> str:
    """The file name of a lease; with `.released` after it, that of its release."""
    return f"lease-{number:04d}"


def is_lease(name: str) -> bool:
    """Decide whether a file of that name is a lease, or the release of one."""
    return _LEASE.fullmatch(name) is not None


def newest(names: Iterable[str]) -> tuple[int, bool]:
    """From the names in a run's folder: the highest lease number (0 if there is none), and whether it is released."""
    highest, released = 0, False
    for name in names:
        if match := _LEASE.fullmatch(name):
            number, release = int(match[1]), match[2] is not None
            if number > highest:
                highest, released = number, release
            elif number == highest:
                released = released or release
    return highest, released


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
        host, boot = _machine()
        return Process(host, boot, os.getpid(), _start_time(os.getpid()) or 0)

    def alive(self) -> bool | None:
        """Whether it still exists; None if that cannot be told from here (another machine or container)."""
        if not self.boot or not self.started or (self.host, self.boot) != _machine():
            return None
        started = _start_time(self.pid)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's, whose /proc entry may be hidden
            return None if started is None else started == self.started
        return started == self.started


@lru_cache(maxsize=1)
def _machine() -> tuple[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return socket.gethostname(), f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname(), ""


def _start_time(pid: int) -> int | None:
    """None if the process doesn't exist, is a zombie, or the system has no /proc."""
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


def is_held(folder: Path, number: int, ttl: float, now: Callable[[], float]) -> bool:
    """Whether the process that claimed this lease, which is not released, is still at work.

    On the holder's own machine, the process itself is looked up; from elsewhere, the age of its last sign of life
    decides. `now` gives the file server's time and is asked only in the second case.
    """
    path = folder / lease_name(number)
    holder = _holder(path)
    alive = holder.alive() if holder else None
    if alive is not None:
        return alive
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return False
    return now() - touched <= ttl


def _holder(path: Path) -> Process | None:
    """None for a file that its owner had no time to fill."""
    try:
        return Process(**orjson.loads(path.read_bytes()))
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None


def number_of(folder: Path, pid: int, after: int) -> int | None:
    """The newest lease above `after` that process `pid` of this machine claimed."""
    highest, _ = newest(os.listdir(folder))
    for number in range(highest, after, -1):
        holder = _holder(folder / lease_name(number))
        if holder and holder.pid == pid and (holder.host, holder.boot) == _machine():
            return number
    return None


def mark_released(folder: Path, number: int) -> None:
    """Say that whoever held this lease has stopped; harmless if said before."""
    (folder / f"{lease_name(number)}.released").touch()


def claim(
    folder: Path, done: Path | None, cancel: Path, ttl: float = TTL, now: Callable[[], float] | None = None
) -> Lease | None:
    """Take the next lease of a run's folder; None if somebody holds the newest, was faster, or `done` exists.

    `cancel` is the sweep's cancel marker, `now` the file server's clock (default: ask in `folder`).
    """
    names = os.listdir(folder)
    if done and done.name in names:
        return None
    number, released = newest(names)
    if number and not released and is_held(folder, number, ttl, now or (lambda: file_clock(folder))):
        return None
    lease = _create(folder, number + 1, cancel, ttl)
    if lease and done and done.exists():  # finished between the listing and the claim
        lease.release()
        return None
    return lease


def _create(folder: Path, number: int, cancel: Path, ttl: float) -> Lease | None:
    try:
        file = os.open(folder / lease_name(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None
    try:
        os.write(file, orjson.dumps(asdict(Process.current())))
        return Lease(folder, number, cancel, ttl, os.fstat(file).st_mtime)
    finally:
        os.close(file)


class Lease:
    """The right to execute a run. As a context manager it gives signs of life, and answers SIGTERM and Ctrl-C, until it
    ends.

    with folder.claim() as lease:
        for step in ...:
            lease.beat(step, steps)
            if lease.stop_requested: ...
    """

    def __init__(self, folder: Path, number: int, cancel: Path, ttl: float, since: float) -> None:
        self.folder = folder
        self.number = number
        """Counts the attempts at this run, from 1."""
        self.lost = False
        """True once somebody else may have taken the run over; leave without writing anything."""
        self._path = folder / lease_name(number)
        self._next = folder / lease_name(number + 1)
        self._cancel, self._ttl, self._since = cancel, ttl, since
        self._stop = False
        self._steps = self._written = (0, 0)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._old_handlers: dict[int, Any] = {}
        self._touched = time.monotonic()

    @property
    def stop_requested(self) -> bool:
        """Whether to save and leave: SIGTERM or Ctrl-C came, the sweep was cancelled, or the lease is lost."""
        return self._stop or self.lost

    def beat(self, step: int, steps: int) -> None:
        """Tell how far the run is; costs nothing, the heartbeat writes it down."""
        self._steps = (step, steps)

    def confirm(self) -> None:
        """Raise `LeaseLost` if somebody else took the run over: call before writing what others will believe."""
        self.lost = self.lost or self._next.exists() or not self._path.exists()
        if self.lost:
            raise LeaseLost(f"{self._path}: another process took this run over")

    def __enter__(self) -> Lease:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell has it for jobs in the background
                    self._old_handlers[number] = signal.signal(number, self._on_signal)
        self._thread = threading.Thread(target=self._beats, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """End the lease, so that the run may be claimed again at once; harmless if ended before."""
        self._ended.set()
        if self._thread:
            self._thread.join(timeout=BEAT)
            self._thread = None
        while self._old_handlers:
            signal.signal(*self._old_handlers.popitem())
        mark_released(self.folder, self.number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop and number == signal.SIGINT:  # who insists does not wait for the end of a step
            raise KeyboardInterrupt
        self._stop = True

    def _beats(self) -> None:
        while not self._ended.is_set():
            self._sign_of_life()
            self._ended.wait(BEAT)

    def _sign_of_life(self) -> None:
        try:
            os.utime(self._path)
            self._touched = time.monotonic()
        except FileNotFoundError:
            self.lost = True
        except OSError:  # a file server that is away for less than the TTL harms nobody
            self.lost = self.lost or time.monotonic() - self._touched > self._ttl
        self.lost = self.lost or self._next.exists()
        with suppress(OSError):
            self._stop = self._stop or self._cancel.stat().st_mtime > self._since
        if self._steps != self._written and not self.lost:
            with suppress(OSError):  # for people to look at; the run does without
                (self.folder / PROGRESS).write_bytes(orjson.dumps(self._steps))
                self._written = self._steps


TAKEN = 75
"""Exit code of a process that left because somebody else executes the run, or has finished it."""
STOPPED = 76
"""Exit code of a process that was asked to stop, and saved its state."""
