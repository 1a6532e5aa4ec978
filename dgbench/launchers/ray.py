"""Execute a sweep by workers on a Ray cluster: `--launcher ray`.

Each worker is a task whose process starts `dgbench worker` and waits for it. Ray places the tasks, and starts one again
elsewhere when its process or its node dies. Nothing goes through Ray's object store: what a worker has done is in the
sweep's folder, which all nodes must see under the same path.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from dgbench.core.errors import UserError
from dgbench.core.machine import CORES, ENGINE
from dgbench.core.wording import count_nouns
from dgbench.launchers.base import STOPPED_EARLY
from dgbench.launchers.forkserver import die_with_parent
from dgbench.launchers.pool import WorkerLauncher
from dgbench.launchers.reconcile import Sweep, go_on

FOLDER = "ray"
"""Name of the folder in the sweep's that holds what workers print."""
_LOOK = 0.2  # seconds between two looks at a worker's process
_GIVEN_UP = 60.0
"""Seconds without an answer of the head after which a cluster is gone: its nodes have ended by themselves then."""


@dataclass(frozen=True, kw_only=True)
class Ray(WorkerLauncher):
    """Workers are tasks of a Ray cluster, and end with the command; the folder must be shared by all nodes."""

    name = "ray"
    detaches: ClassVar[bool] = False
    least: ClassVar[Mapping[str, float]] = {**WorkerLauncher.least, "cpus": 0, "gpus": 0}
    address: str = ""
    """Address of the cluster, such as 10.0.0.1:6379; empty: that of RAY_ADDRESS, else a Ray that is started on this
    machine for the launch."""
    cpus: float = 1.0
    """Cores of a worker."""
    gpus: float = 0.0
    """GPUs of a worker."""

    @cached_property
    def _tasks(self) -> list[Any]:
        """References to the tasks of this launch that are not known to have ended."""
        return []

    @cached_property
    def _head(self) -> tuple[str, int]:
        """Host and port of the cluster's head."""
        host, _, port = self._ray.get_runtime_context().gcs_address.rpartition(":")
        return host, int(port)

    @cached_property
    def _silent(self) -> list[float]:
        """Time by `time.monotonic` since which the head does not answer; empty while it does."""
        return []

    @cached_property
    def _ray(self) -> Any:
        """The module `ray`, connected to the cluster."""
        try:
            ray = importlib.import_module("ray")
        except ImportError:
            raise UserError("--launcher ray needs Ray: pip install 'dgbench[ray]'") from None
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        local = {} if self.address or os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
        if not local:  # Ray would end this process a minute after it has lost the head; `lost` notices that by itself
            os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(10**6))
        try:
            ray.init(
                self.address or None,
                ignore_reinit_error=True,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **local,
            )
        except Exception as error:  # of many types, by what is wrong with the address
            problem = str(error).strip().partition("\n")[0]
            raise UserError(f"--launcher ray: {self.address or 'Ray'} can't be reached: {problem}") from None
        return ray

    def check(self, sweep: Sweep) -> None:
        """Raise UserError if Ray is missing, can't be reached, or has no node that is large enough for a worker."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            largest: dict[str, float] = max(
                nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default={}
            )
            raise UserError(
                f"--launcher ray: no node has the {self.cpus:g} cores and {self.gpus:g} GPUs of a worker; "
                f"the largest has {largest.get('CPU', 0):g} and {largest.get('GPU', 0):g}"
            )

    def slots(self) -> int:
        """Return the number of runs that a worker is expected to execute at once."""
        return self.jobs or int(self.gpus) * self.per_gpu or max(1, int(self.cpus))

    def command(self, root: Path) -> list[str]:
        """Return the words of the command that is a worker; its number of runs follows from its cores and GPUs."""
        chosen = self.jobs or (self.gpus and self.jobs_per_gpu == "auto")  # by the worker, on its node
        jobs = [] if chosen else [f"--jobs={self.slots()}"]
        return [*super().command(root), *jobs]

    def start(self, root: Path, count: int) -> str:
        """Submit workers as tasks, spread over the nodes."""
        # A task whose process dies with its node runs again; by default one that uses a GPU gets a new process each.
        options = {"max_retries": -1, "max_calls": 0, "scheduling_strategy": "SPREAD"}
        work = self._ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, **options)(work_in_task)
        (root / FOLDER).mkdir(exist_ok=True)
        words = self.command(root)[1:]  # the interpreter is that of the node
        logs = str((root / FOLDER).resolve())
        self._tasks.extend(work.remote(words, logs, self.grace, gpu=self.gpus > 0) for _ in range(count))
        nodes = count_nouns(sum(node["Alive"] for node in self._ray.nodes()), "node")
        return f"ray: {count_nouns(count, 'worker')} submitted to {nodes}; they print to {root / FOLDER}"

    def alive(self, root: Path) -> int | None:
        """Count the workers of this launch that wait or run; none if the cluster is gone."""
        if self.lost():
            return 0
        if self._tasks:
            _, self._tasks[:] = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        return len(self._tasks)

    def answers(self) -> bool:
        """Return whether the head of the cluster takes connections."""
        with suppress(OSError), socket.create_connection(self._head, timeout=5):
            return True
        return False

    def lost(self) -> str:
        """Return a line if the head of the cluster has not answered for a minute; empty otherwise."""
        if not self._tasks or self.answers():
            self._silent.clear()
            return ""
        if not self._silent:
            self._silent.append(time.monotonic())
        if time.monotonic() - self._silent[0] < _GIVEN_UP:
            return ""
        return f"the Ray cluster is gone: its head {self._head[0]}:{self._head[1]} does not answer"

    def interrupted(self, root: Path) -> str:
        """Return a line on the workers, after Ctrl-C has ended the command."""
        return f"the workers stop; to go on: {go_on(root)} --launcher ray"

    def execute(self, sweep: Sweep, *, detach: bool = False) -> int:
        """Execute the unfinished runs; workers that are left at the end save their state and stop."""
        code = STOPPED_EARLY
        try:
            code = super().execute(sweep, detach=detach)
        finally:
            if self._tasks and not self.answers():
                _leave_without_ray(code)
            else:
                self._end(sweep.root)
        return code

    def _end(self, root: Path) -> None:
        """Have the workers that are left save their state and stop, and leave the cluster."""
        ray = self._ray
        if self.alive(root):
            for task in self._tasks:
                ray.cancel(task)
            ray.wait(self._tasks, num_returns=len(self._tasks), timeout=self.grace + 10)
        self._tasks.clear()
        ray.shutdown()


def _leave_without_ray(code: int) -> None:
    """Have this process end without Ray's own end, which blocks or crashes once the head is gone."""

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)

    atexit.register(leave)  # runs before what Ray has registered


def work_in_task(words: Sequence[str], logs: str, grace: float, *, gpu: bool) -> int:
    """Execute a worker in a task of Ray; return its exit code.

    Args:
        words: The command's, without the interpreter.
        logs: Folder of the file to which the worker prints.
        grace: Seconds that the worker has to save its state when the task is canceled.
        gpu: Whether Ray gave the task a GPU; without one the worker must see none.
    """
    ray = importlib.import_module("ray")
    node = ray.util.get_node_ip_address()
    cores = max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
    env = {**os.environ, CORES: str(cores), ENGINE: f"ray:{node}"}
    if not gpu:
        env["CUDA_VISIBLE_DEVICES"] = ""
    name = f"{node}-{os.getpid()}.txt"
    with open(Path(logs) / name, "ab") as log:
        worker = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGTERM),  # with the task, also if it is killed
        )
        try:
            while worker.poll() is None:  # `wait` would not be interrupted by a cancel
                time.sleep(_LOOK)
        finally:
            worker.terminate()
            with suppress(subprocess.TimeoutExpired):
                worker.wait(grace + 5)
            worker.kill()
    return worker.returncode
