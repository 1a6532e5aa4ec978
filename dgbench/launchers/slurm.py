"""Execute a sweep by workers in the queue of a Slurm cluster: `--launcher slurm`.

Workers are tasks of job arrays. Each array has a script in `DIR/slurm/`, to be read, or submitted again by hand; the
output of its tasks is beside it. Only sbatch, squeue, scancel and scontrol are called, so neither accounting nor a
database is needed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from dgbench.core.errors import Problems, UserError
from dgbench.core.machine import STEPPED
from dgbench.core.wording import count_nouns
from dgbench.launchers.pool import WorkerLauncher
from dgbench.launchers.reconcile import Sweep
from dgbench.store.files import making_sense_of, read_object, write_atomic, write_json
from dgbench.store.sealed import CorruptFile

FOLDER = "slurm"
"""Name of the folder in the sweep's that holds scripts, their output, and `jobs.json`."""
JOBS = "jobs.json"
"""Name of the file that lists the ids of the submitted arrays."""
NOTICE = 120
"""Seconds before its time limit at which a worker is asked to save and leave. Slurm may be a minute early."""
MOST_RESTARTS = 100
"""Number of times that a task submits itself again."""
_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")
_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING", "RESIZING", "STOPPED")
_WELL = ("COMPLETED", "CANCELLED")
_PATIENCE = 60  # seconds for an answer of a command
_DEFAULT_ARRAY = 1001  # Slurm's own MaxArraySize

_SCRIPT = r"""#!/bin/bash
# Workers of the sweep in {root}. To start them again by hand: sbatch {script}
{directives}

{setup}
task=$SLURM_JOB_ID
[ -n "$SLURM_ARRAY_JOB_ID" ] && task=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
export {stepped}={folder}/$task.stepped  # made by a worker whose runs made a step
rm -f "${stepped}"
# The signal of --signal comes to this shell alone. It is passed on, and the worker's runs save their state. A task that
# is stopped in this way, for the end of its time, waits in the queue once more if its runs made at least one step.
trap 'ending=1; again=1; kill -TERM "$worker"' TERM
{worker} &
worker=$!
wait "$worker"; code=$?
while [ "$again" ]; do again=; wait "$worker"; code=$?; done  # a signal ends the wait before the worker ends
if [ "$ending" ] && [ "$code" = 75 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ] &&
    [ "$(squeue --noheader --jobs="$task" --format=%T)" = RUNNING ]; then
    if [ -e "${stepped}" ]; then
        scontrol requeue "$task"
    else
        echo "dgbench: error: no step was made before the end of this task's time: give workers more time"
    fi
fi
rm -f "${stepped}"
exit "$code"
"""


class Task(NamedTuple):
    """A task of an array as squeue shows it."""

    job: str
    """Id of the array."""
    name: str
    """`<array>_<index>`, which also names the file of its output."""
    state: str
    """Slurm's word: `PENDING`, `RUNNING`, `OUT_OF_MEMORY`, ..."""
    node: str
    reason: str
    """Cause of its waiting, or of its end."""


@dataclass(frozen=True, kw_only=True)
class Slurm(WorkerLauncher):
    """Workers are tasks of a Slurm array; the folder must lie on a file system that all nodes share."""

    name = "slurm"
    least: ClassVar[Mapping[str, float]] = {**WorkerLauncher.least, "gpus": 0, "cpus": 0, "at_once": 0}
    partition: str = ""
    """Partition of the jobs; empty: the cluster's default."""
    account: str = ""
    """Account that pays for them; empty: the user's default."""
    qos: str = ""
    """Quality of service; empty: the default."""
    time: str = ""
    """Time limit of a worker, such as 4:00:00 or 1-00:00:00; it queues again for runs that are left. Empty: the
    partition's."""
    gpus: int = 0
    """GPUs of a worker."""
    gres: str = ""
    """Resources in Slurm's words, such as gpu:a100:1, in place of `gpus`."""
    cpus: int = 0
    """Cores of a worker; 0: the partition's default."""
    memory: str = ""
    """Memory of a worker, such as 16G; empty: the partition's default."""
    at_once: int = 0
    """Most tasks of an array that run at the same time; 0: no limit."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the worker starts, such as `module load cuda`."""
    sbatch: tuple[str, ...] = ()
    """Further options of sbatch, such as `--constraint=a100`; they win over all others."""

    def __post_init__(self) -> None:
        """Raise UserError if numbers are out of range, or options contradict each other."""
        problems = Problems()
        with problems.collecting():
            super().__post_init__()
        if self.gpus and self.gres:
            problems.add("launcher slurm: give either gpus or gres")
        problems.raise_if_any()

    def check(self, sweep: Sweep) -> None:
        """Raise UserError if Slurm's commands are missing, or if sbatch would refuse the jobs."""
        if missing := [name for name in _COMMANDS if not shutil.which(name)]:
            raise UserError(f"--launcher slurm: {', '.join(missing)} not found; launch on a login node of the cluster")
        _run("sbatch", "--test-only", stdin=self.script(sweep.root, 1, ""))

    def slots(self) -> int:
        """Return the number of runs that a worker is expected to execute at once."""
        return self.jobs or self.gpus * self.per_gpu or (1 if self.gres else max(1, self.cpus))

    def script(self, root: Path, count: int, name: str) -> str:
        """Return the text of a script whose array has `count` tasks; `name` is the script's file name."""
        folder = root.resolve() / FOLDER
        worker = " ".join(map(shlex.quote, self.command(root)))
        return _SCRIPT.format(
            root=root.resolve(),
            script=shlex.quote(str(folder / name)),
            directives="\n".join(f"#SBATCH {option}" for option in self._directives(folder, count)),
            setup="\n".join((*self.setup, "") if self.setup else ()),
            worker=worker,
            folder=shlex.quote(str(folder)),
            stepped=STEPPED,
            restarts=MOST_RESTARTS,
        )

    def _directives(self, folder: Path, count: int) -> Iterator[str]:
        """Yield the options of sbatch."""
        yield "--job-name=dgbench"
        yield f"--array=0-{count - 1}" + (f"%{self.at_once}" if self.at_once else "")
        yield "--requeue"
        yield "--open-mode=append"
        yield f"--signal=B:TERM@{NOTICE}"
        output = str(folder).replace("%", "%%")
        yield f'--output="{output}/%A_%a.txt"'
        options = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.time,
            "gpus-per-node": str(self.gpus or ""),
            "gres": self.gres,
            "cpus-per-task": str(self.cpus or ""),
            "mem": self.memory,
        }
        yield from (f"--{name}={value}" for name, value in options.items() if value)
        yield from self.sbatch

    def start(self, root: Path, count: int) -> str:
        """Submit workers as arrays that are no longer than the cluster allows."""
        folder = root / FOLDER
        folder.mkdir(exist_ok=True)
        lines = [*_ended(root, _tasks(root) or ())]
        most = _largest_array()
        sizes = [min(most, count - first) for first in range(0, count, most)]
        for size in sizes:
            number = max((int(path.stem) for path in folder.glob("*.sh") if path.stem.isdecimal()), default=0) + 1
            script = folder / f"{number}.sh"
            write_atomic(script, self.script(root, size, script.name).encode())
            job = _run("sbatch", "--parsable", str(script.resolve())).partition(";")[0]
            write_json(folder / JOBS, {"jobs": [*_jobs(root), {"id": job, "script": script.name, "tasks": size}]})
            lines.append(f"slurm: {count_nouns(size, 'worker')} submitted as job {job} by {script}")
        return "\n".join(lines)

    def alive(self, root: Path) -> int | None:
        """Count the tasks that wait or run; None if squeue fails."""
        tasks = _tasks(root)
        return None if tasks is None else sum(not _is_over(task) for task in tasks)

    def queue(self, root: Path) -> Iterator[str]:
        """Yield a line that counts the tasks by state, and a line for each that ended badly."""
        tasks = _tasks(root)
        if tasks is None:
            yield "slurm: squeue does not answer"
            return
        running = Counter(task.node for task in tasks if task.state in ("RUNNING", "COMPLETING"))
        pending = Counter(task.reason for task in tasks if task.state in _WAITING)
        where = ", ".join(f"{node} {count}" for node, count in sorted(running.items()))
        why = ", ".join(f"{reason} {count}" for reason, count in sorted(pending.items()))
        yield (
            f"slurm: {running.total():,} running{f' ({where})' if where else ''}, "
            f"{pending.total():,} pending{f' ({why})' if why else ''}"
        )
        yield from _ended(root, tasks)

    def cancel(self, root: Path) -> Iterator[str]:
        """Cancel the tasks that wait or run; workers that run save their state first."""
        tasks = _tasks(root)
        if tasks is None:
            yield "slurm: squeue does not answer; the jobs are not canceled"
            return
        alive = [task for task in tasks if not _is_over(task)]
        if alive:
            _run("scancel", *sorted({task.job for task in alive}))
            yield f"slurm: {count_nouns(len(alive), 'task')} canceled"


def _ended(root: Path, tasks: Iterable[Task]) -> Iterator[str]:
    """Yield a line for each task of the last array that ended badly, with the last error of its output."""
    last = [job["id"] for job in _jobs(root)[-1:]]
    for task in tasks:
        if task.job in last and _is_over(task) and task.state not in _WELL:
            log = root / FOLDER / f"{task.name}.txt"
            yield f"slurm: {task.name} ended on {task.node}: {task.state}: {_last_error(log)} (log: {log})"


def _is_over(task: Task) -> bool:
    return task.state not in ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", *_WAITING)


def _run(*command: str, stdin: str = "") -> str:
    """Run one of Slurm's commands; return its output, or raise UserError with its message."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command[0]} can't be used: {error}") from None
    if done.returncode:
        said = "; ".join(line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip())
        raise UserError(f"{command[0]} refuses: {said or f'exit code {done.returncode}'}")
    return done.stdout.strip()


def _largest_array() -> int:
    """Return the largest number of tasks that an array may have on this cluster."""
    try:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run("scontrol", "show", "config"), re.MULTILINE)
    except UserError:
        found = None
    return max(1, (int(found[1]) if found else _DEFAULT_ARRAY) - 1)


def _jobs(root: Path) -> list[dict[str, Any]]:
    """Return the arrays that were submitted for a sweep, the last one last; raise UserError if the list is damaged."""
    path = root / FOLDER / JOBS
    try:
        found = read_object(path)
        with making_sense_of(path):
            return [{**job, "id": str(job["id"])} for job in found["jobs"]]
    except FileNotFoundError:
        return []
    except CorruptFile as error:
        raise UserError(f"{error}: remove it, and cancel jobs by scancel") from None


def _tasks(root: Path) -> list[Task] | None:
    """Return the sweep's tasks that the controller remembers, those that ended lately included; None if it fails."""
    jobs = {job["id"] for job in _jobs(root)}
    # Not by --jobs: squeue fails for ids that the controller has forgotten.
    words = ["--noheader", "--array", f"--user={os.getuid()}", "--states=all", "--format=%F|%i|%T|%N|%r"]
    try:
        shown = _run("squeue", *words)
    except UserError:
        return None
    split = (line.split("|", 4) for line in shown.splitlines() if line.count("|") >= 4)
    return [task for task in (Task(*parts) for parts in split) if task.job in jobs]


def _last_error(log: Path) -> str:
    """Return the last line of a log that names an error, else its last line."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 4000))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no output"
    errors = [line for line in lines if "error" in line.lower() and "CANCELLED" not in line]
    memory = [line for line in errors if "memory" in line or "oom" in line.lower()]  # the cause of further errors
    return (memory or errors or lines or ["no output"])[-1][:300]
