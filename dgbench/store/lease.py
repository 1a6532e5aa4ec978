"""Leases: which process executes a run. Each attempt has a number, and each number is claimed once, ever, by the one
process that manages to create its file; lease K+1 may be claimed only by who judged K stale or released.

Lease files are never renamed or removed (a release is a second, empty file beside), for a number that became free
again could be claimed by somebody who made up his mind long ago.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import orjson

from dgbench.store.process import Process, file_clock, machine

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


def is_held(folder: Path, number: int, ttl: float, now: Callable[[], float]) -> bool:
    """Whether the process that claimed this lease, which is not released, is still at work.

    On the holder's own machine, the process itself is looked up; from elsewhere, the age of its last sign of life
    decides. A sign dated further in the future than a holder may be silent is none: no clock but the file server's
    dates it, so it was copied or set, and would hold the run until that date.

    Args:
        folder: The run's.
        number: Of the lease.
        ttl: Seconds without a sign of life after which a holder elsewhere counts as gone.
        now: Gives the file server's time; asked only where age decides.
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
    return abs(now() - touched) <= ttl


def _holder(path: Path) -> Process | None:
    """Read the holder of a lease; None if the file is gone, or is none of ours: then its age alone decides."""
    try:
        fields = orjson.loads(path.read_bytes())
        return Process(str(fields["host"]), str(fields["boot"]), int(fields["pid"]), int(fields["started"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def number_of(folder: Path, pid: int, after: int) -> int | None:
    """The newest lease above `after` that process `pid` of this machine claimed."""
    highest, _ = newest(os.listdir(folder))
    for number in range(highest, after, -1):
        holder = _holder(folder / lease_name(number))
        if holder and holder.pid == pid and (holder.host, holder.boot) == machine():
            return number
    return None


def mark_released(folder: Path, number: int) -> None:
    """Say that whoever held this lease has stopped; harmless if said before."""
    (folder / f"{lease_name(number)}.released").touch()


def cancel_mark(path: Path) -> tuple[int, bytes] | None:
    """Identify the present state of a cancel marker; None if there is none.

    A cancel is a change of this, never a date later than another: a marker that was copied, or written while a clock
    was wrong, may be dated years ahead.
    """
    try:
        return path.stat().st_mtime_ns, path.read_bytes()
    except OSError:
        return None


class StopSignals:
    """Notes SIGTERM and Ctrl-C instead of ending the process. Enter it before claiming a lease.

    A signal between the claim and its answer would leave a lease that other machines believe until its time is over.
    """

    def __init__(self) -> None:
        self.came = False
        """Whether there was a signal."""
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell has it for jobs in the background
                    self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        while self._old:
            signal.signal(*self._old.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came and number == signal.SIGINT:  # who insists does not wait for the end of a step
            raise KeyboardInterrupt
        self.came = True


def claim(
    folder: Path,
    done: Path | None,
    cancel: Path,
    ttl: float = TTL,
    now: Callable[[], float] | None = None,
    stops: StopSignals | None = None,
) -> Lease | None:
    """Take the next lease of a run's folder.

    Args:
        folder: The run's.
        done: A file whose existence says that there is nothing to claim; None: claim in any case.
        cancel: The sweep's cancel marker.
        ttl: Seconds without a sign of life after which a holder elsewhere counts as gone.
        now: Gives the file server's time; None: ask in `folder`.
        stops: The signals that ask the holder to stop; None: none do.

    Returns:
        The lease; None if another process holds the newest or was faster, or `done` exists.
    """
    names = os.listdir(folder)
    if done and done.name in names:
        return None
    number, released = newest(names)
    if number and not released and is_held(folder, number, ttl, now or (lambda: file_clock(folder))):
        return None
    lease = Lease(folder, number + 1, cancel, ttl, stops or StopSignals())
    if not _create(lease.path):
        return None
    if done and done.exists():  # finished between the listing and the claim
        lease.release()
        return None
    return lease


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def _create(path: Path) -> bool:
    """Make the file of a lease, whole from its first moment; return False if it exists.

    It is written beside and linked: were it made empty and filled then, a death in between would leave a lease
    without a holder, which all believe until its time is over.
    """
    content = orjson.dumps(asdict(Process.current()))
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        beside.write_bytes(content)
        try:
            os.link(beside, path)
        except FileExistsError:
            return beside.stat().st_nlink == 2  # NFS may do it, lose its answer, and fail at the second try
        except OSError as error:
            if error.errno not in _NO_LINKS:  # as of FAT, and of some network file systems
                raise
            return _create_exclusively(path, content)
        return True
    except FileNotFoundError:  # a quicker one has tidied `beside` away, or the folder is gone
        return False
    finally:
        with suppress(OSError):
            beside.unlink()


def _create_exclusively(path: Path, content: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


class Lease:
    """The right to execute a run. As a context manager it gives signs of life until it ends.

    with StopSignals() as stops:
        lease = folder.claim(stops)
        with lease:
            for step in ...:
                lease.beat(step, steps)
                if lease.stop_requested: ...
    """

    def __init__(self, folder: Path, number: int, cancel: Path, ttl: float, stops: StopSignals) -> None:
        self.folder = folder
        self.number = number
        """Counts the attempts at this run, from 1."""
        self.lost = False
        """True once somebody else may have taken the run over; leave without writing anything."""
        self.path = folder / lease_name(number)
        self._next = folder / lease_name(number + 1)
        self._cancel, self._ttl, self._stops = cancel, ttl, stops
        self._mark = cancel_mark(cancel)
        self._cancelled = False
        self._steps = self._written = (0, 0)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._touched = time.monotonic()

    @property
    def stop_requested(self) -> bool:
        """Whether to save and leave: SIGTERM or Ctrl-C came, the sweep was cancelled, or the lease is lost."""
        return self._stops.came or self._cancelled or self.lost

    def beat(self, step: int, steps: int) -> None:
        """Tell how far the run is; costs nothing, the heartbeat writes it down."""
        self._steps = (step, steps)

    def confirm(self) -> None:
        """Raise `LeaseLost` if somebody else took the run over: call before writing what others will believe."""
        self.lost = self.lost or self._next.exists() or not self.path.exists()
        if self.lost:
            raise LeaseLost(f"{self.path}: another process took this run over")

    def __enter__(self) -> Lease:
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
        mark_released(self.folder, self.number)

    def _beats(self) -> None:
        while not self._ended.is_set():
            self._sign_of_life()
            self._ended.wait(BEAT)

    def _sign_of_life(self) -> None:
        try:
            os.utime(self.path)
            self._touched = time.monotonic()
        except FileNotFoundError:
            self.lost = True
        except OSError:  # a file server that is away for less than the TTL harms nobody
            self.lost = self.lost or time.monotonic() - self._touched > self._ttl
        self.lost = self.lost or self._next.exists()
        self._cancelled = self._cancelled or cancel_mark(self._cancel) not in (None, self._mark)
        if self._steps != self._written and not self.lost:
            with suppress(OSError):  # for people to look at; the run does without
                (self.folder / PROGRESS).write_bytes(orjson.dumps(self._steps))
                self._written = self._steps


TAKEN = 75
"""Exit code of a process that left because somebody else executes the run, or has finished it."""
STOPPED = 76
"""Exit code of a process that was asked to stop, and saved its state."""
INPUT_DAMAGED = 77
"""Exit code of a process that found a run which it reads damaged, and had that begin anew."""
