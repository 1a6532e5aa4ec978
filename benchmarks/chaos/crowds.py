"""Let many processes begin on one folder at once, and different engines share one; take cores away."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.chaos.sandbox import Harm, Sandbox, finish, request, same, slow_request, until
from dgbench.core.machine import CORES
from dgbench.store.state import State
from tests.support import slurm_cluster

CROWD = 8
ROWS = ("ERM+SWAD", "ERM+DiWA", "ERM+T3A")
ON_SLURM = ("workers=2", "poll=2", "idle=60", "jobs=1", "setup=export DGBENCH_CORES=1")
QUOTAS = Path("/sys/fs/cgroup/cpu")


def launches(place: Path, count: int, seed: int) -> Iterator[str]:
    """Give one launch command eight times at once for a new folder."""
    whole = _whole(place)
    for number in range(count):
        with Sandbox(place / f"{number}", whole.words) as sandbox:
            crowd = [sandbox.launch("--jobs", "1") for _ in range(CROWD)]
            for launch in crowd:
                finish(launch, 0)
            _once(sandbox, whole)
        yield f"{CROWD} launches: each run taken up once, same records, all ended with 0"


def workers(place: Path, count: int, seed: int) -> Iterator[str]:
    """Start eight workers at once on a sweep that nothing was done of."""
    whole = _whole(place)
    for number in range(count):
        with Sandbox(place / f"{number}", whole.words) as sandbox:
            sandbox.plan()
            crowd = [sandbox.worker("--jobs", "1", "--idle", "30") for _ in range(CROWD)]
            for worker in crowd:
                finish(worker, 0)
            _once(sandbox, whole)
        yield f"{CROWD} workers: each run taken up once, same records, all ended with 0"


def engines(place: Path, count: int, seed: int) -> Iterator[str]:
    """Launch one folder by local processes, in one process and on Slurm, with a worker beside them."""
    whole = Sandbox(place / "whole", slow_request(place, hparams=12, steps=400))
    finish(whole.launch("--jobs", "4"), 0)
    with ExitStack() as stack:
        env: Mapping[str, str] = {}
        if why := slurm_cluster.missing():
            yield f"without Slurm: {why}"
        else:
            cluster = stack.enter_context(slurm_cluster.running())
            env = {key: value for key, value in cluster.env.items() if key != CORES}
        for number in range(count):
            with Sandbox(place / f"{number}", whole.words, env) as sandbox:
                sandbox.plan()
                crowd = [sandbox.launch("--launcher", "slurm", *ON_SLURM)] if env else []
                if env:
                    until(partial(_runs, sandbox), "a run on Slurm", 600)
                crowd += [
                    sandbox.launch("--jobs", "1"),
                    sandbox.worker("--jobs", "1", "--idle", "60"),
                    sandbox.launch("--launcher", "here"),
                ]
                for command in crowd:
                    finish(command, 0, seconds=600)
                holders = [found[0] for folder in sandbox.folders() if (found := folder.holder())]
                _once(sandbox, whole)
            # All runs of `here` are executed by one process, those of the others by a process each.
            here = sum(holder.process.pid == crowd[-1].pid for holder in holders)
            slurm = sum(holder.engine.startswith("slurm:") for holder in holders)
            yield f"of {len(holders)} runs {here} by here, {slurm} by Slurm; each taken up once, same records"


def quotas(place: Path, count: int, seed: int) -> Iterator[str]:
    """Launch under a control group that grants half a core, and one and a half."""
    whole = _whole(place)
    if not os.access(QUOTAS, os.W_OK):
        yield f"left out: {QUOTAS} can't be written"
        return
    for share in (50_000, 150_000):
        group = QUOTAS / f"chaos-{uuid.uuid4().hex}"
        group.mkdir()
        try:
            (group / "cpu.cfs_quota_us").write_text(str(share))
            wrap = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
            with Sandbox(place / f"{share}", whole.words) as sandbox:
                launch = sandbox.launch(wrap=(*wrap, "env", f"--unset={CORES}"))
                most = 0
                while launch.poll() is None:
                    most = max(most, sum(state is State.RUNNING for state in sandbox.states().values()))
                finish(launch, 0)
                same(sandbox, whole)
        finally:
            group.rmdir()
        yield f"{share / 100_000:g} cores granted: at most {most} runs at once, same records"


def _runs(sandbox: Sandbox) -> bool:
    return State.RUNNING in sandbox.states().values()


def _whole(place: Path) -> Sandbox:
    whole = Sandbox(place / "whole", request(ROWS))
    finish(whole.launch("--jobs", "2"), 0)
    return whole


def _once(sandbox: Sandbox, whole: Sandbox) -> None:
    """Raise `Harm` unless each run was taken up once, and made the same records."""
    same(sandbox, whole)
    if more := [number for number in sandbox.attempts() if number != 1]:
        raise Harm(f"{sandbox.root}: runs were taken up {more} times")
