"""Runs on this machine: a process a run, forked from one server into slots."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from dgbench.core.machine import count_oom_kills, usable_cores
from dgbench.core.run import Run
from dgbench.launchers.base import Ended, Engine, Slot
from dgbench.launchers.forkserver import ForkServer, ForkServerDied
from dgbench.launchers.interrupts import Interrupts
from dgbench.store import lease as leases
from dgbench.store.folder import Store

GRACE = 10.0
"""Seconds that a run has to save its state when it is asked to stop."""


def make_slots(jobs: int, gpus: Sequence[str] = (), jobs_per_gpu: int = 1) -> list[Slot]:
    """Return `jobs` slots, or as many as the GPUs have room for; neighbors on different GPUs, the cores divided."""
    count = min(jobs, len(gpus) * jobs_per_gpu) if gpus else jobs
    threads = max(1, usable_cores() // count)
    return [Slot(index, gpus[index % len(gpus)] if gpus else None, threads) for index in range(count)]


@dataclass
class _Attempt:
    """A process that executes a run."""

    slot: Slot
    server: ForkServer
    before: int
    """The newest lease when it was started; its own is higher."""
    started: float
    deadline: float
    """When it is killed, by `time.monotonic`."""
    oom_kills: int
    """How many processes the system had killed for lack of memory when it was started."""
    stopped: bool = False
    expired: bool = False
    """Whether it was killed at its deadline."""


@dataclass
class LocalSlots(Engine):
    """At most one process a slot, from a server that starts with the first.

    Each process calls the server's target with what `make_job` gives; it claims the run and leaves with 0, `TAKEN`,
    `STOPPED`, or a failure. If the server can't be started or is killed, methods raise `ForkServerDied`.
    """

    store: Store
    slots: Sequence[Slot]
    make_job: Callable[[Run, Slot], Mapping[str, Any]]
    start_server: Callable[[], ForkServer]
    """Called once, if anything is to be executed."""
    interrupts: Interrupts
    """What ends `wait` early."""
    timeout: float | None = None
    """Seconds that an attempt may take."""
    _server: ForkServer | None = field(default=None, init=False)
    _attempts: dict[str, _Attempt] = field(default_factory=dict, init=False)

    @property
    def capacity(self) -> int:
        """Return the number of free slots."""
        return len(self.slots) - len(self._attempts)

    def submit(self, runs: Sequence[Run]) -> None:
        """Start each of these runs in the first free slot."""
        server = self._server = self._server or self.start_server()
        for run in runs:
            used = {attempt.slot for attempt in self._attempts.values()}
            slot = next(slot for slot in self.slots if slot not in used)
            folder = self.store.folder(run.id)
            before, _ = leases.newest(os.listdir(folder.path))
            now = time.monotonic()
            self._attempts[run.id] = _Attempt(
                slot, server, before, now, now + (self.timeout or float("inf")), count_oom_kills()
            )
            env = {"CUDA_VISIBLE_DEVICES": slot.gpu or ""}
            server.start(run.id, self.make_job(run, slot), env, str(folder.log_path))

    def cancel(self) -> None:
        """Ask each process to save and leave; `wait` kills those that have not within `GRACE`."""
        self._stop(signal.SIGTERM)

    def kill(self) -> None:
        """End every process now."""
        self._stop(signal.SIGKILL)

    def _stop(self, number: int) -> None:
        for id, attempt in self._attempts.items():
            attempt.stopped = True
            attempt.deadline = min(attempt.deadline, time.monotonic() + GRACE)
            attempt.server.signal(id, number)

    def wait(self, timeout: float) -> list[Ended]:
        """Return the attempts that ended, after `timeout` seconds at most; kill those over their time."""
        until = min([time.monotonic() + timeout, *(attempt.deadline for attempt in self._attempts.values())])
        sources = [source.fileno() for source in (self.interrupts, self._server) if source]
        ready = wait(sources, max(0.0, until - time.monotonic()))
        self.interrupts.clear()
        ended = [self._end(*self._server.receive())] if self._server and self._server.fileno() in ready else []
        for id, attempt in self._attempts.items():
            if time.monotonic() >= attempt.deadline:
                attempt.expired, attempt.deadline = True, float("inf")
                attempt.server.signal(id, signal.SIGKILL)
        return ended

    def _end(self, id: str, pid: int, status: int) -> Ended:
        attempt = self._attempts.pop(id)
        lease = leases.number_of(self.store.folder(id).path, pid, attempt.before)
        timeout = self.timeout if attempt.expired else None
        starved = status == -signal.SIGKILL and count_oom_kills() > attempt.oom_kills
        return Ended(id, status, lease, attempt.stopped, timeout, time.monotonic() - attempt.started, starved)

    def close(self) -> None:
        """Ask remaining runs to save and leave, and end the server."""
        if self._server:
            with suppress(ForkServerDied):
                self.cancel()
                while self._attempts:
                    self.wait(GRACE)
            self._server.close()
