"""Execute one sweep in every place there is: in one process, by local ones, by workers, by Slurm, by Ray."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks.chaos.sandbox import CORES, Sandbox, finish, request, same
from tests.support import ray_cluster, slurm_cluster

ROWS = ("ERM+SWAD", "SAM", "Fish", "ERM+DiWA", "ERM+T3A")
SECONDS = 1200.0


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
    with ExitStack() as stack:
        for name, cluster, options in (
            ("slurm", slurm_cluster, ("setup=export DGBENCH_CORES=1",)),
            ("ray", ray_cluster, ()),
        ):
            if why := cluster.missing():
                yield f"{name}: left out: {why}"
                continue
            env: Mapping[str, str] = stack.enter_context(cluster.running()).env
            env = {key: value for key, value in env.items() if key != CORES}
            sandbox = Sandbox(place / name, words, env)
            launch = sandbox.launch("--launcher", name, "workers=4", "poll=2", "idle=20", "jobs=1", *options)
            yield _timed(name, sandbox, [launch], whole)


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
