"""Let workers see one folder through clients of a file server whose caches are older or younger than leases live."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.chaos.holders import ELSEWHERE
from benchmarks.chaos.sandbox import ROOT, Harm, Sandbox, finish, kill, same, slow_request, until
from dgbench.store.state import State

SITUATIONS = ((5, 30), (40, 10))
"""(Seconds of the cache, seconds of the time to live): as it should be, and as it should not."""
SECONDS = 900.0


def caches(place: Path, count: int, seed: int) -> Iterator[str]:
    """Let two workers share a sweep through old attributes; then kill one of two."""
    if not (importlib.util.find_spec("mfusepy") and os.access("/dev/fuse", os.W_OK)):
        yield "left out: mfusepy is not installed, or /dev/fuse can't be used"
        return
    whole = Sandbox(place / "whole", slow_request(place, hparams=4, steps=2000))
    finish(whole.launch("--jobs", "4"), 0)
    for number in range(count):
        for cache, ttl in SITUATIONS:
            for killed in (False, True):
                where = place / f"{number}-{cache}-{ttl}-{killed}"
                with _clients(where, cache) as mounts, Sandbox(where / "server", whole.words) as sandbox:
                    attempts = _share(sandbox, mounts, ttl, killed=killed)
                    same(sandbox, whole)
                told = f"cache of {cache} s, time to live of {ttl} s{', a worker killed' if killed else ''}"
                yield f"{told}: runs taken up {', '.join(map(str, attempts))} times; same records"


def _share(sandbox: Sandbox, mounts: list[Path], ttl: int, *, killed: bool) -> list[int]:
    """Finish a sweep by a worker on each mount, of which the first may be killed; return the attempts at each run."""
    sandbox.plan()
    options = ("--jobs", "1", "--idle", "120", "--ttl", str(ttl))
    workers = [sandbox.start("worker", str(mount / "sweep"), *options, wrap=ELSEWHERE) for mount in mounts]
    if killed:
        until(lambda: list(sandbox.states().values()).count(State.RUNNING) == 2, "both workers to begin", SECONDS)
        kill(sandbox.below([workers[0].pid]))
        finish(workers.pop(0), -9)
    for worker in workers:
        finish(worker, 0, seconds=SECONDS)
    return sandbox.attempts()


def _answers(mount: Path, process: subprocess.Popen[bytes]) -> bool:
    return mount.is_mount() or process.poll() is not None


@contextmanager
def _clients(place: Path, seconds: float) -> Iterator[list[Path]]:
    """Mount `place`/server twice, each time with a cache of its own."""
    server, mounts = place / "server", [place / "one", place / "two"]
    for folder in (server, *mounts):
        folder.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.chaos.slow_cache", str(server)]
    serving = [subprocess.Popen([*command, str(mount), str(seconds)], cwd=ROOT) for mount in mounts]
    try:
        for mount, process in zip(mounts, serving, strict=True):
            until(partial(_answers, mount, process), f"{mount} to be mounted")
            if process.poll() is not None:
                raise Harm(f"{mount} can't be mounted: slow_cache ended with {process.returncode}")
        yield mounts
    finally:
        for mount, process in zip(mounts, serving, strict=True):
            subprocess.run(["umount", "--lazy", str(mount)], check=False, capture_output=True)
            process.terminate()
            process.wait()
