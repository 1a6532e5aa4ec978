"""A real Slurm on this machine: a controller and two nodes on loopback, without munge, cgroups or accounting.

    python tests/support/slurm_cluster.py                          a shell in which sbatch, squeue and scancel work
    python tests/support/slurm_cluster.py sbatch --wrap hostname   one command in it

The cluster ends with the shell or command. It runs as the user who starts it, root or not, and takes jobs of this user
alone. Debian's and Ubuntu's package `slurm-wlm` has all that it needs.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
NODES = ("n1", "n2")
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])  # where daemons lie
_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={ports[0]}
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdPidFile={root}/slurmd.%n.pid
SlurmdLogFile={root}/slurmd.%n.log
SlurmdSpoolDir={root}/spool.%n
StateSaveLocation={root}/state
SlurmdTimeout=10
KillWait=10
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,default_queue_depth=1000,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MaxArraySize=11
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 DefMemPerCPU=2000 State=UP
PartitionName=high Nodes=ALL PriorityTier=2 DefMemPerCPU=2000 PreemptMode=OFF State=UP
"""
"""`config_overrides` lets nodes have more cores than the machine, and a low MaxArraySize makes large arrays cheap."""
_GRES = "AutoDetect=off\n" + "".join(
    f"NodeName={node} Name=gpu File=/dev/{device}\n" for node in NODES for device in ("null", "zero")
)
"""GPUs have to be character devices; these are given to jobs by number, and never opened."""


def missing() -> str:
    """Why no cluster can be started here; empty if one can."""
    lacking = [name for name in NEEDED if shutil.which(name, path=_PATH) is None]
    return f"{', '.join(lacking)} not found: install slurm-wlm" if lacking else ""


class Cluster:
    """A running cluster; `running` starts one and ends it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(root / "slurm.conf")}
        self._hurried = 0.0
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the controller and both nodes; return when the nodes take jobs."""
        (self.root / "state").mkdir(parents=True)
        conf = _CONF.format(
            root=self.root, host=socket.gethostname().partition(".")[0], user=_user(), ports=_free_ports(3)
        )
        (self.root / "slurm.conf").write_text(conf)
        (self.root / "gres.conf").write_text(_GRES)
        self._daemon("slurmctld", "slurmctld", "-D", "-i")
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes(*NODES)

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        (self.root / f"spool.{node}").mkdir(exist_ok=True)
        self._daemon(node, "slurmd", "-D", "-N", node)

    def _daemon(self, name: str, *command: str) -> None:
        with open(self.root / f"{name}.out", "ab") as out:
            program = shutil.which(command[0], path=_PATH) or command[0]
            self._daemons[name] = subprocess.Popen(
                [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.env
            )

    def wait_for_nodes(self, *nodes: str, seconds: float = 60) -> None:
        """Return when these nodes take jobs; RuntimeError with the ends of the logs if they don't."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and all(daemon.poll() is None for daemon in self._daemons.values()):
            found = self.call("sinfo", "--noheader", "--Node", "--format=%N %t", check=False)
            states = dict(line.split(" ") for line in found.splitlines())
            if all(states.get(node) in ("idle", "mix", "alloc") for node in nodes):
                return
            time.sleep(0.1)
        logs = "\n".join(f"{log}: {log.read_text(errors='replace')[-1500:]}" for log in self.root.glob("*.log"))
        raise RuntimeError(f"{', '.join(nodes)} did not start within {seconds:.0f} s\n{logs}")

    def call(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands; what it printed."""
        done = subprocess.run(command, env=self.env, check=False, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def hurry(self) -> None:
        """Let jobs that were requeued start now: Slurm holds them back for two minutes. It is asked once a second."""
        if time.monotonic() - self._hurried < 1:
            return
        self._hurried = time.monotonic()
        for line in self.call("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i %r").splitlines():
            job, _, reason = line.partition(" ")
            if reason == "BeginTime":
                self.call("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)

    def processes(self, node: str) -> set[int]:
        """Ids of the node's daemon, of the processes that watch its jobs, and of those jobs."""
        daemon = self._daemons[node].pid
        jobs = {pid for pid, env in self._environments() if f"SLURMD_NODENAME={node}" in env}
        watching = {parent for pid in jobs if (parent := _parent(pid)) and _name(parent).startswith("slurmstepd")}
        return {daemon} | jobs | watching

    def _environments(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the processes of this cluster, with their environments."""
        for entry in os.listdir("/proc"):
            with suppress(OSError):
                if entry.isdigit():
                    env = Path(f"/proc/{entry}/environ").read_bytes().decode(errors="replace").split("\0")
                    if f"SLURM_CONF={self.env['SLURM_CONF']}" in env:
                        yield int(entry), env

    def kill_node(self, node: str) -> None:
        """Kill a node as a power failure does: its daemon and all that runs on it."""
        for pid in self.processes(node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._daemons.pop(node).wait()

    def kill_daemon(self, node: str) -> None:
        """Kill the daemon of a node; the jobs on it go on."""
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()

    def stop_controller(self) -> None:
        """Stop the controller; no command is answered until `start_controller`."""
        daemon = self._daemons.pop("slurmctld")
        daemon.terminate()
        daemon.wait()

    def start_controller(self) -> None:
        """Start the controller again, with the jobs that it had."""
        self._daemon("slurmctld", "slurmctld", "-D")
        self.wait_for_nodes(*(set(NODES) & self._daemons.keys()))

    def stop(self) -> None:
        """End the jobs, then all that was started, by process id."""
        others = {pid for pid, env in self._environments() if any(line.startswith("SLURMD_NODENAME=") for line in env)}
        watching = {parent for pid in others if (parent := _parent(pid)) and _name(parent).startswith("slurmstepd")}
        for pid in others | watching:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for daemon in self._daemons.values():
            daemon.terminate()
        end = time.monotonic() + 10
        while time.monotonic() < end and any(daemon.poll() is None for daemon in self._daemons.values()):
            time.sleep(0.02)
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()
        self._daemons.clear()


@contextmanager
def running() -> Iterator[Cluster]:
    """A cluster for the time of the block."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        cluster = Cluster(root)
        stack.callback(cluster.stop)
        cluster.start()
        yield cluster


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    if why := missing():
        sys.exit(why)
    with running() as here:
        words = sys.argv[1:] or [os.environ.get("SHELL", "sh")]
        sys.exit(subprocess.run(words, env=here.env, check=False).returncode)
