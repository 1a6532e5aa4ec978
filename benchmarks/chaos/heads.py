"""Kill the head of a Ray cluster in mid-sweep: the cluster is gone, the folder is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.chaos.sandbox import Sandbox, finish, same, slow_request, until
from dgbench.launchers.base import STOPPED_EARLY
from dgbench.store.state import State
from tests.support import ray_cluster


def heads(place: Path, count: int, seed: int) -> Iterator[str]:
    """Kill the head of a Ray cluster in mid-sweep, and finish without Ray."""
    if why := ray_cluster.missing():
        yield f"left out: {why}"
        return
    whole = Sandbox(place / "whole", slow_request(place, hparams=4, steps=6000))
    finish(whole.launch("--jobs", "4"), 0)
    for number in range(count):
        with ray_cluster.running() as cluster, Sandbox(place / f"{number}", whole.words, cluster.env) as sandbox:
            launch = sandbox.launch("--launcher", "ray", "workers=2", "poll=2", "idle=20", "jobs=1")
            until(lambda found=sandbox: State.RUNNING in found.states().values(), "a run")
            time.sleep(3)
            cluster.kill_node(ray_cluster.HEAD)
            killed = time.monotonic()
            output = finish(launch, STOPPED_EARLY)
            lasted = time.monotonic() - killed
            until(lambda found=sandbox: not found.processes(), "the workers to end", 60)
            finish(sandbox.start("launch", str(sandbox.root), "--launcher", "local", "--jobs", "4"), 0)
            same(sandbox, whole)
        line = output.strip().splitlines()[-1].replace(str(sandbox.root), "DIR")
        yield f"ended with {STOPPED_EARLY} {lasted:.0f} s later ({line}); by local processes the same records"
