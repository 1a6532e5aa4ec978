"""Grant leases: the right of one process to execute a run, on any machine that sees the sweep's folder.

Each attempt at a run has a number, and the process that manages to create the file `lease-<number>` holds that lease.
Lease K+1 may be claimed only by a process that found K released or stale. The holder touches its file every few
seconds; `store.holder` tells by that whether it is still at work.

Lease files are never renamed or removed, and a release is a second, empty file beside. If a number became free again, a
process that listed the folder long ago, and decided then to claim that number, could still succeed and execute the run
beside its rightful holder.

A holder that gave no sign of life for half of its time to live, such as one on a machine that slept, claims the next
number before it writes anything more. Any other process would have to claim that very number, so one of the two gets
it, and the other knows. This leaves one assumption: a write ends within half of that time after the `confirm` before
it. The tests search a model of these steps for every way around them (`tests/store/lease_model.py`).

Only creation has to be atomic across machines, which NFS guarantees for hard links; file locks are not needed. Times
are compared only with the file server's clock, because the clocks of machines may differ by more than a lease lasts.
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
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import orjson

from dgbench.core.machine import describe_engine
from dgbench.store.holder import BEAT, GONE, WORKING, Holder, Looks, default_ttl, judge, read_holder
from dgbench.store.process import Process, file_clock, machine

PROGRESS = "progress.json"
"""Name of the file with the steps made so far and the steps in all."""

_LEASE = re.compile(r"lease-(\d+)(\.released)?")


class Stopped(Exception):
    """Raised when a run stops at the request of a signal or a cancel, with its state saved and nothing half-done."""


class LeaseLost(RuntimeError):
    """Raised when another process has taken the run over while this one seemed dead; it must write nothing more."""


def lease_name(number: int) -> str:
    """Return the file name of a lease; its release has `.released` appended."""
    return f"lease-{number:04d}"


def is_lease(name: str) -> bool:
    """Return whether a file of this name is a lease, or the release of one."""
    return _LEASE.fullmatch(name) is not None


def newest(names: Iterable[str]) -> tuple[int, bool]:
    """Return the highest lease number and whether that lease is released; 0 if there is none.

    Args:
        names: The names in a run's folder.
    """
    highest, released = 0, False
    for name in names:
        if match := _LEASE.fullmatch(name):
            number, release = int(match[1]), match[2] is not None
            if number > highest:
                highest, released = number, release
            elif number == highest:
                released = released or release
    return highest, released


def number_of(folder: Path, pid: int, after: int) -> int | None:
    """Return the number of the newest lease that process `pid` of this machine claimed; None if it has none.

    Args:
        folder: The run's folder.
        pid: The process.
        after: Leases up to this number are older than the process and are not looked at.
    """
    highest, _ = newest(os.listdir(folder))
    for number in range(highest, after, -1):
        found = read_holder(folder / lease_name(number))
        if found and found.process.pid == pid and (found.process.host, found.process.boot) == machine():
            return number
    return None


def mark_released(folder: Path, number: int) -> None:
    """Record that the holder of this lease has stopped, whether or not it was recorded before."""
    (folder / f"{lease_name(number)}.released").touch()


def cancel_mark(path: Path) -> tuple[int, bytes] | None:
    """Return the identity of a cancel marker's content and date; None if there is no marker.

    A cancel is a change of this identity, never a date later than another: a marker that was copied, or written while a
    clock was wrong, may be dated years ahead.
    """
    try:
        return path.stat().st_mtime_ns, path.read_bytes()
    except OSError:
        return None


class StopSignals:
    """Context manager that records SIGTERM and Ctrl-C instead of letting them end the process.

    Enter it before claiming a lease: a signal between the claim and the first step would otherwise leave a lease that
    other machines believe until its time is over. Processes of a fork server begin with SIGTERM blocked; from the entry
    on it is answered.
    """

    def __init__(self) -> None:
        self.came = False
        """Whether a signal has come."""
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                # A shell starts background jobs with SIGINT ignored, and nohup does likewise: leave it ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._old[number] = signal.signal(number, self._note)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return self

    def __exit__(self, *error: object) -> None:
        while self._old:
            signal.signal(*self._old.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        # The first signal is answered at the end of a step. A second Ctrl-C means that the user won't wait for that; a
        # second SIGTERM may be a scheduler that repeats itself, so it changes nothing.
        """Handle a signal: record the first, and let a second Ctrl-C interrupt at once."""
        if self.came and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.came = True


def claim(
    folder: Path,
    done: Path | None,
    cancel: Path,
    ttl: float | None = None,
    now: Callable[[], float] | None = None,
    stops: StopSignals | None = None,
    looks: Looks | None = None,
) -> Lease | None:
    """Take the next lease of a run's folder; if its holder elsewhere seems gone, look again two beats later.

    Args:
        folder: The run's folder.
        done: A file whose existence means that there is nothing to claim; None: claim in any case.
        cancel: The sweep's cancel marker.
        ttl: Seconds without a sign of life after which the lease counts as given up; None: by the file system.
        now: Returns the file server's time in seconds; None: ask the server through `folder`.
        stops: Signals that ask the holder to stop; None: there are none.
        looks: Signs of life that this process has seen; None: none.

    Returns:
        The lease; None if another process holds the newest or was faster, or if `done` exists.
    """
    names = os.listdir(folder)
    if done and done.name in names:
        return None
    number, released = newest(names)
    ttl, looks = ttl or default_ttl(folder), looks or Looks()
    if number and not released and not _is_gone(folder / lease_name(number), ttl, now, looks):
        return None
    lease = Lease(folder, number + 1, cancel, ttl, stops or StopSignals())
    if not _create(lease.path, ttl):
        return None
    lease.begin()
    # Another process may have finished the run and released its lease between the listing and the claim. Whoever holds
    # the newest lease sees a final state, so this second look settles it.
    if done and done.exists():
        lease.release()
        return None
    return lease


def _is_gone(path: Path, ttl: float, now: Callable[[], float] | None, looks: Looks) -> bool:
    """Return whether the holder of a lease is gone; one on another machine, by two looks."""
    now = now or (lambda: file_clock(path.parent))
    wait = judge(path, ttl, now, looks)
    if GONE < wait < WORKING:
        time.sleep(wait)
        wait = judge(path, ttl, now, looks)
    return wait == GONE


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of a hard link on file systems without them, such as FAT and some network file systems."""


def _create(path: Path, ttl: float) -> bool:
    """Create the file of a lease with its content; return False if it exists."""
    # Written beside and then linked, so that the lease appears with its content. If it were created empty and filled
    # afterwards, a process killed in between would leave a lease without a holder, and every machine, this one too,
    # would have to wait until its time is over. `link` fails if the name exists, where a rename would replace it.
    content = Holder(Process.current(), describe_engine(), BEAT, ttl).to_json()
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        beside.write_bytes(content)
        try:
            os.link(beside, path)
        except FileExistsError:
            # NFS may make the link, lose the answer, repeat the request and report that the name exists. The number of
            # links to our own file is the truth: 2 means that the lease is ours.
            return beside.stat().st_nlink == 2
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_exclusively(path, content)
        return True
    except FileNotFoundError:  # a faster process has claimed the run and removed `beside`, or the folder is gone
        return False
    finally:
        with suppress(OSError):
            beside.unlink()


def _create_exclusively(path: Path, content: bytes) -> bool:
    """Create the file of a lease where hard links are not supported; return False if it exists."""
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


class Lease:
    """The right to execute a run, made by `claim`. As a context manager it gives signs of life until it is left.

    Example:
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
        """Number of the newest lease of this attempt, from 1; goes up if the attempt claims another after a silence."""
        self.lost = False
        """True once another process may have taken the run over: stop without writing anything."""
        self.path = folder / lease_name(number)
        self._cancel, self._ttl, self._stops = cancel, ttl, stops
        self._mark = cancel_mark(cancel)
        self._cancelled = False
        self._steps = self._written = (0, 0)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._touched = time.monotonic()
        self._lock = threading.Lock()
        """Held to give a sign of life, which the heartbeat and the work both do."""
        self._dated: float | None = None
        """The file server's time of the last sign of life; None before the first."""

    @property
    def _next(self) -> Path:
        """Return the lease that a successor would have claimed."""
        return self.folder / lease_name(self.number + 1)

    @property
    def stop_requested(self) -> bool:
        """Whether to save and stop: a signal came, the sweep was canceled, or the lease is lost."""
        return self._stops.came or self._cancelled or self.lost

    def begin(self) -> None:
        """Count silence from the date of the lease's file, which was just created."""
        with suppress(FileNotFoundError):
            self._dated = self.path.stat().st_mtime

    def beat(self, step: int, steps: int) -> None:
        """Report the run's progress, at no cost: the next sign of life writes it.

        Args:
            step: Steps made.
            steps: Steps in all.
        """
        self._steps = (step, steps)

    def confirm(self) -> None:
        """Raise LeaseLost if another process has taken the run over; call it before writing results."""
        # The heartbeat notices a takeover only every few seconds, and not at all while the process is suspended, so the
        # folder itself is looked at. Any successor must have claimed the next number.
        try:
            self._touch()
        except FileNotFoundError:
            self.lost = True
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
        """End the lease, so that the run may be claimed again at once; harmless if it has ended."""
        self._ended.set()
        if self._thread:
            self._thread.join(timeout=BEAT)
            self._thread = None
        self._write_progress()
        mark_released(self.folder, self.number)

    def _beats(self) -> None:
        """Give signs of life until the lease ends, in a thread beside the work."""
        while not self._ended.is_set():
            self._sign_of_life()
            self._ended.wait(BEAT)

    def _sign_of_life(self) -> None:
        """Touch the lease, look for a cancel and for a successor, and write the progress."""
        try:
            self._touch()
        except FileNotFoundError:
            self.lost = True
        except OSError:  # a file server may be away for less than the TTL: until then the lease stays valid
            self.lost = self.lost or time.monotonic() - self._touched > self._ttl
        self.lost = self.lost or self._next.exists()
        self._cancelled = self._cancelled or cancel_mark(self._cancel) not in (None, self._mark)
        self._write_progress()

    def _write_progress(self) -> None:
        """Write the steps made, if there are new ones."""
        if self._steps != self._written and not self.lost:
            with suppress(OSError):  # nothing that must hold depends on it
                (self.folder / PROGRESS).write_bytes(orjson.dumps(self._steps))
                self._written = self._steps

    def _touch(self) -> None:
        """Give a sign of life, and after a long silence claim the next number, or lose the lease."""
        with self._lock:
            os.utime(self.path)  # without a time to set, so that NFS servers set theirs
            # By the server's clock, which goes on while a process, a laptop or a virtual machine is suspended.
            now, before = self.path.stat().st_mtime, self._dated
            if before is not None and abs(now - before) > self._ttl / 2:
                if not _create(self._next, self._ttl):
                    self.lost = True
                    return
                mark_released(self.folder, self.number)
                self.number += 1
                self.path = self.folder / lease_name(self.number)
                now = self.path.stat().st_mtime
            self._dated = now
            self._touched = time.monotonic()


TAKEN = 75
"""Exit code of a process that left because another one executes the run, or has finished it."""
STOPPED = 76
"""Exit code of a process that stopped on request, and saved its state."""
INPUT_DAMAGED = 77
"""Exit code of a process that found one of its run's inputs damaged, and reset that input so that it begins anew."""
AT_RUNG = 78
"""Exit code of a process that trained its run up to a rung of the search, and saved its state."""
