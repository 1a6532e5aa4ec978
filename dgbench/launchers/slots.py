"""Slots on this machine: how many there are, what each may use, and the processes in them."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from dgbench.core.machine import usable_cores
from dgbench.core.run import Run
from dgbench.launchers.base import Launcher, Slot
from dgbench.launchers.forkserver import ForkServer, ForkServerDied
from dgbench.store import lease as leases
from dgbench.store.folder import Store

GRACE = 10.0
"""Seconds that a run has to save its state when it is asked to stop."""


def make_slots(jobs: int, gpus: Sequence[str] = (), jobs_per_gpu: int = 1) -> list[Slot]:
    """`jobs` slots, or as many as the GPUs have room for; neighbours on different GPUs, the cores divided."""
    count = min(jobs, len(gpus) * jobs_per_gpu) if gpus else jobs
    cores = usable_cores()
    threads = max(1, cores // count)
    return [Slot(index, gpus[index % len(gpus)] if gpus else None, threads) for index in range(count)]


class Interrupts:
    """Notes SIGINT and SIGTERM instead of dying of them, and wakes a selector; only the main thread can.

    The third raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.count = 0
        self.name = ""
        """The first signal that came."""
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)
        self._old: dict[signal.Signals, Any] = {}
        self._old_fd = -1

    def fileno(self) -> int:
        """Readable when a signal came."""
        return self._read.fileno()

    def clear(self) -> None:
        """Make it unreadable again."""
        with suppress(BlockingIOError):
            self._read.recv(1 << 12)

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._old_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.name = self.name or signal.Signals(number).name
        if self.count > 2:  # not even the server's start, or a dead disk, holds who insists
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._old:
            for number, handler in self._old.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._old_fd)
        self._read.close()
        self._write.close()


@dataclass
class Attempt:
    """A process that executes a run."""

    run: Run
    slot: Slot
    before: int
    """The newest lease when it was started; its own is higher."""
    inherits: bool
    """Whether that lease was never released: its holder died, or this process will find the run taken."""
    started: float
    deadline: float
    """When it is killed, by `time.monotonic`."""
    pid: int = 0
    status: int = 0
    stopped: bool = False
    """Whether it was asked to stop."""
    expired: bool = False
    """Whether it was killed for its time was up."""

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.started


class LocalSlots(Launcher):
    """The engine (see `base.Launcher`): at most one process a slot, from a server that starts with the first."""

    def __init__(
        self,
        store: Store,
        runs: Mapping[str, Run],
        slots: Sequence[Slot],
        make_job: Callable[[Run, Slot], Mapping[str, Any]],
        start_server: Callable[[], ForkServer],
        timeout: float | None,
        interrupts: Interrupts,
    ) -> None:
        self._store, self._runs, self._make_job, self._timeout = store, runs, make_job, timeout
        self._start_server, self._interrupts = start_server, interrupts
        self._server: ForkServer | None = None
        self._free = list(slots)
        self._attempts: dict[str, Attempt] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(interrupts, selectors.EVENT_READ)
        self.executed = self.most = 0

    @property
    def free(self) -> int:
        """How many more runs can be submitted."""
        return len(self._free)

    def submit(self, ids: Sequence[str]) -> None:
        """Start each of these runs; there must be a free slot for each."""
        for id in ids:
            if self._server is None:
                self._server = self._start_server()
                self._selector.register(self._server, selectors.EVENT_READ)
            folder, run, slot = self._store.folder(id), self._runs[id], self._free.pop(0)
            before, released = leases.newest(os.listdir(folder.path))
            now = time.monotonic()
            deadline = now + (self._timeout or float("inf"))
            self._attempts[id] = Attempt(run, slot, before, bool(before and not released), now, deadline)
            env = {"CUDA_VISIBLE_DEVICES": slot.gpu or ""}
            self._server.start(id, self._make_job(run, slot), env, str(folder.log_path))
            self.executed += 1
            self.most = max(self.most, len(self._attempts))

    def alive(self) -> set[str]:
        """The runs that have a process."""
        return set(self._attempts)

    def cancel(self) -> None:
        """Ask each process to save and leave; `wait` kills those that have not within `GRACE`."""
        for id, attempt in self._attempts.items():
            attempt.stopped = True
            attempt.deadline = min(attempt.deadline, time.monotonic() + GRACE)
            self._signal(id, signal.SIGTERM)

    def kill(self) -> None:
        """End every process now."""
        for id, attempt in self._attempts.items():
            attempt.stopped = True
            self._signal(id, signal.SIGKILL)

    def _signal(self, id: str, number: int) -> None:
        assert self._server is not None
        self._server.signal(id, number)

    def wait(self, timeout: float) -> list[Attempt]:
        """Processes that ended, after at most `timeout` seconds; less if a signal came to the launcher."""
        now = time.monotonic()
        until = min([now + timeout, *(a.deadline for a in self._attempts.values() if not a.expired)])
        ended = []
        for key, _ in self._selector.select(max(0.0, until - now)):
            if key.fileobj is self._server:
                ended += [done for message in self._server.receive() if (done := self._hear(message))]
            else:
                self._interrupts.clear()
        for id, attempt in self._attempts.items():
            if time.monotonic() >= attempt.deadline and not attempt.expired:
                attempt.expired = True
                self._signal(id, signal.SIGKILL)
        return ended

    def _hear(self, message: Mapping[str, Any]) -> Attempt | None:
        if "pid" in message:
            self._attempts[message["id"]].pid = message["pid"]
            return None
        attempt = self._attempts.pop(message["id"])
        attempt.status = message["status"]
        self._free.append(attempt.slot)
        self._free.sort(key=lambda slot: slot.index)
        return attempt

    def close(self) -> None:
        """Stop what is left, kindly, and end the server."""
        if self._server:
            with suppress(ForkServerDied):
                self.cancel()
                while self._attempts:
                    self.wait(GRACE)
            self._server.close()
        self._selector.close()
