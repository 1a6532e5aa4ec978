"""Ask for the state and the tables of a sweep of very many runs, which a generator writes."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.chaos.sandbox import Harm, Sandbox, finish
from benchmarks.collect import write_own
from dgbench.plan.planfile import read_plan

LIMITS = {"status": 5.0, "collect": 20.0}
"""Command -> seconds of the processor that it may take."""


def large(place: Path, count: int, seed: int) -> Iterator[str]:
    """Write a sweep of `count` finished runs, and measure `status` and `collect`."""
    sandbox = Sandbox(place, [])
    start = time.monotonic()
    sandbox.root.mkdir()
    runs = write_own(sandbox.root, max(1, count // 600))
    yield f"{runs:,} runs written in {time.monotonic() - start:.0f} s"
    assert len(read_plan(sandbox.root).runs) == runs
    slow = []
    for command, limit in LIMITS.items():
        for times in ("first", "second"):
            start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            finish(sandbox.start(command, str(sandbox.root)), 0, seconds=600)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            yield f"{command}, {times} time: {time.monotonic() - start:.1f} s, {cpu:.1f} s of the processor"
        if cpu > limit:
            slow.append(f"{command} took {cpu:.1f} s of the processor: more than {limit:.0f}")
    if slow:
        raise Harm("; ".join(slow))
