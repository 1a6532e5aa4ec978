"""A real Ray cluster on this machine: a head without cores and two nodes with two each, on loopback, with a token.

    python tests/support/ray_cluster.py                          a shell in which `--launcher ray` finds the cluster
    python tests/support/ray_cluster.py ray status               one command in it

The cluster ends with the shell or command.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAD, NODES = "127.0.0.2", ("127.0.0.3", "127.0.0.4")
"""Ray replaces 127.0.0.1 by the address that others see; these stay on loopback."""
_MARK = "DGBENCH_RAY_NODE"
"""Variable in the environment of all processes of a node, by which they are found."""
_RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]


def missing() -> str:
    """Why no cluster can be started here; empty if one can."""
    return "" if importlib.util.find_spec("ray") else "ray is not installed"


class Cluster:
    """A running cluster; `running` starts one and ends it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = f"{HEAD}:{_free_port()}"
        token = secrets.token_hex(32)
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "240",  # other work may share the machine
            "RAY_enable_metrics_collection": "0",
        }
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the head, then both nodes; return when all take tasks."""
        port = self.address.partition(":")[2]
        self._start(
            HEAD, "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={self.root}"
        )
        for node in NODES:
            self.start_node(node)

    def start_node(self, node: str) -> None:
        """Start a node; return when it takes tasks."""
        self._start(node, f"--address={self.address}", "--num-cpus=2")

    def _start(self, node: str, *options: str) -> None:
        """Start a node or the head, up to three times: Ray gives up after 30 s, which a busy machine may need."""
        words = [
            *_RAY,
            "start",
            f"--node-ip-address={node}",
            "--num-gpus=0",
            "--object-store-memory=80000000",
            "--block",
        ]
        env, output = {**self.env, _MARK: f"{self.root} {node}"}, self.root / f"{node}.out"
        for _ in range(3):
            with open(output, "wb") as out:
                started = subprocess.Popen(
                    [*words, *options], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env
                )
            self._started[node] = started
            while started.poll() is None:
                if b"Ray runtime started" in output.read_bytes():
                    return
                time.sleep(0.1)
            self.kill_node(node)
        raise RuntimeError(f"{node} did not start\n{output.read_text(errors='replace')[-3000:]}")

    def processes(self, node: str = "") -> list[int]:
        """Ids of the processes of a node, of its workers and of what these started; of all nodes without a name."""
        wanted, found = f"{_MARK}={self.root} {node}", []
        for entry in os.listdir("/proc"):
            with suppress(OSError):
                if entry.isdigit() and wanted.encode() in Path(f"/proc/{entry}/environ").read_bytes():
                    found.append(int(entry))
        return found

    def kill_node(self, node: str) -> None:
        """Kill a node as a power failure does, with all that runs on it."""
        for pid in self.processes(node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._started.pop(node).wait()

    def stop(self) -> None:
        """End all that was started, by process id."""
        while pids := self.processes():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for daemon in self._started.values():
                daemon.wait()
        self._started.clear()


@contextmanager
def running() -> Iterator[Cluster]:
    """A cluster that ends with the block. Its folder is in /tmp: paths of sockets are short."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as root:
        cluster = Cluster(Path(root))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _free_port() -> int:
    """A free port below those that workers of Ray get (10002 to 19999)."""
    while True:
        port = 6000 + secrets.randbelow(3500)
        with socket.socket() as tried, suppress(OSError):
            tried.bind((HEAD, port))
            return port


if __name__ == "__main__":
    with running() as found:
        command = sys.argv[1:] or [os.environ.get("SHELL", "bash")]
        sys.exit(subprocess.run(command, env=found.env, check=False).returncode)
