"""Execute runs on this machine, one process a run, in slots that share out GPUs and cores."""

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
from dgbench.launchers.base import GRACE, Ended, Engine, Slot
from dgbench.launchers.forkserver import ForkServer, ForkServerDied
from dgbench.launchers.interrupts import Interrupts
from dgbench.store import lease as leases
from dgbench.store.folder import Store


def make_slots(jobs: int, gpus: Sequence[str] = (), jobs_per_gpu: int = 1) -> list[Slot]:
    """Make the slots of a launch; consecutive ones are on different GPUs, and the cores are divided among them.

    Args:
        jobs: Number of slots; at most `jobs_per_gpu` on each GPU where there are any.
        gpus: Values for CUDA_VISIBLE_DEVICES, one a GPU; empty: runs execute on the CPU.
        jobs_per_gpu: Number of runs that share a GPU.
    """
    count = min(jobs, len(gpus) * jobs_per_gpu) if gpus else jobs
    threads = max(1, usable_cores() // count)
    return [Slot(index, gpus[index % len(gpus)] if gpus else None, threads) for index in range(count)]


@dataclass
class _Attempt:
    """A process that executes a run."""

    slot: Slot
    server: ForkServer
    before: int
    """Number of the run's newest lease when the process started; its own is higher."""
    started: float
    deadline: float
    """Time by `time.monotonic` at which it is killed."""
    oom_kills: int
    """Number of processes that the system had killed for lack of memory when it started."""
    stopped: bool = False
    expired: bool = False
    """Whether it was killed at its deadline."""


class KeptServer:
    """A fork server that several engines use one after another; it starts with the first run of the first of them."""

    def __init__(self) -> None:
        self._server: ForkServer | None = None

    def get(self, start: Callable[[], ForkServer]) -> ForkServer:
        """Return the server; start it by `start` if there is none."""
        self._server = self._server or start()
        return self._server

    def close(self) -> None:
        """End the server, if there is one."""
        if self._server:
            self._server.close()


@dataclass
class LocalSlots(Engine):
    """An engine that runs at most one process a slot. The fork server starts with the first run.

    Each process calls the server's target with the job that `make_job` made; it claims the run and exits with 0,
    `TAKEN`, `STOPPED`, or a failure. Methods raise `ForkServerDied` if the server can't be started or was killed.
    """

    store: Store
    slots: Sequence[Slot]
    make_job: Callable[[Run, Slot], Mapping[str, Any]]
    start_server: Callable[[], ForkServer]
    """Called once, before the first run; never if there is none."""
    interrupts: Interrupts
    """Signals that end `wait` early."""
    timeout: float | None = None
    """Limit of an attempt in seconds; None: none."""
    grace: float = GRACE
    """Seconds that a run has to save its state when it is asked to stop."""
    keeps_server: bool = False
    """Whether the server stays when the engine is closed."""
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
        """Request that each process save its state and exit; `wait` kills those that take longer than `grace`."""
        self._stop(signal.SIGTERM)

    def kill(self) -> None:
        """End every process now."""
        self._stop(signal.SIGKILL)

    def _stop(self, number: int) -> None:
        for id, attempt in self._attempts.items():
            attempt.stopped = True
            attempt.deadline = min(attempt.deadline, time.monotonic() + self.grace)
            attempt.server.signal(id, number)

    def wait(self, timeout: float) -> list[Ended]:
        """Return the attempts that ended, after `timeout` seconds at most; kill those that are past their deadline."""
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
        """Request that remaining runs save their state and exit, then end the server."""
        if self._server:
            with suppress(ForkServerDied):
                self.cancel()
                while self._attempts:
                    self.wait(self.grace)
            if not self.keeps_server:
                self._server.close()
