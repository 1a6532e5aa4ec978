"""Execute one sweep in every place there is: in one process, by local ones, by workers, by Slurm, by Ray."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.chaos.sandbox import Harm, Sandbox, finish, request, same
from dgbench.core.machine import CORES
from tests.support import ray_cluster, slurm_cluster

ROWS = ("ERM+SWAD", "SAM", "Fish", "ERM+DiWA", "ERM+T3A")
SECONDS = 1200.0
"""Seconds that one place may take: other work may share the machine."""
TTL = 77
"""A time to live of leases, in seconds, that nothing has by default."""


def places(place: Path, count: int, seed: int) -> Iterator[str]:
    """Compare a sweep of about `count` runs in one process, in two, by four workers, on Slurm and on Ray."""
    # Of n draws: n runs of ERM, of SAM, of Fish and of T3A each, and one of DiWA.
    words = request(ROWS, hparams=max(1, count // 4), steps=120)
    whole = Sandbox(place / "here", words)
    yield _timed("here", whole, [whole.launch("--launcher", "here")])
    local = Sandbox(place / "local", words)
    yield _timed("local", local, [local.launch("--jobs", "2")], whole)
    workers = Sandbox(place / "workers", words)
    workers.plan()
    yield _timed("four workers", workers, [workers.worker("--jobs", "1", "--idle", "30") for _ in range(4)], whole)
    for name, env, options in clusters():
        sandbox = Sandbox(place / name, words, env)
        yield _timed(name, sandbox, [sandbox.launch("--launcher", name, *options)], whole) if env else options[0]


def searches(place: Path, count: int, seed: int) -> Iterator[str]:
    """Compare a sweep that drops the worse of `count` draws in one process, on Slurm and on Ray."""
    words = [*request(("ERM+SWAD", "ERM+T3A"), hparams=count, steps=120), "--search", "halving", "--ttl", str(TTL)]
    whole = Sandbox(place / "here", words)
    yield _timed("here", whole, [whole.launch("--launcher", "here")])
    for name, env, options in clusters():
        sandbox = Sandbox(place / name, words, env)
        yield _timed(name, sandbox, [sandbox.launch("--launcher", name, *options)], whole) if env else options[0]
        for folder in sandbox.folders():
            found = folder.holder()
            if found and found[0].ttl != TTL:
                raise Harm(f"{folder.path}: its lease lives for {found[0].ttl} s, not for {TTL}")
        yield f"{name}: {len(sandbox.folders())} leases with a time to live of {TTL} s"


def clusters() -> Iterator[tuple[str, Mapping[str, str], tuple[str, ...]]]:
    """Start one cluster after the other; yield its name, environment, and the options of a launch on it.

    Where one can't be started, the environment is empty and the option is the reason.
    """
    options = ("workers=4", "poll=2", "idle=20", "jobs=1")
    if why := slurm_cluster.missing():
        yield "slurm", {}, (f"slurm: left out: {why}",)
    else:
        with slurm_cluster.running() as slurm:
            yield "slurm", _without_cores(slurm.env), (*options, "setup=export DGBENCH_CORES=1")
    if why := ray_cluster.missing():
        yield "ray", {}, (f"ray: left out: {why}",)
    else:
        with ray_cluster.running() as ray:
            yield "ray", _without_cores(ray.env), options


def _without_cores(env: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in env.items() if key != CORES}


def _timed(name: str, sandbox: Sandbox, commands: list[subprocess.Popen[str]], whole: Sandbox | None = None) -> str:
    """Wait for the commands that execute a sweep, and compare it."""
    start = time.monotonic()
    with sandbox:
        for command in commands:
            finish(command, 0, seconds=SECONDS)
        if whole:
            same(sandbox, whole)
    tasks = {found[0].engine for folder in sandbox.folders() if (found := folder.holder())}
    told = (f", by {len(tasks)} tasks" if len(tasks) > 1 else "") + (", same records, same table" if whole else "")
    return f"{name}: {len(sandbox.states())} runs in {time.monotonic() - start:.0f} s{told}"
