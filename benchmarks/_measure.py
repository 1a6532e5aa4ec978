"""What the benchmarks share: the machine in a line, a training run to measure, and ratios of paired timings."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.site import Site
from dgbench.execute.context import open_context
from dgbench.execute.training import Training
from dgbench.plan.asking import declare, open_facts
from dgbench.store.folder import Store


def machine() -> str:
    """Processor, cores, versions."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    return (
        f"{name}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )


def paired(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Time two things in turn and print medians and the ratio theirs / ours, pair by pair."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        pair = []
        for thing in (ours, theirs):
            start = clock()
            thing()
            pair.append(clock() - start)
        times.append((pair[0], pair[1]))
    print_pairs(times)


def print_pairs(times: Sequence[tuple[float, float]]) -> None:
    """Print medians of seconds, ours and theirs, and of the ratios theirs / ours, pair by pair."""
    ratios = sorted(b / a for a, b in times)
    print(f"dgbench    {statistics.median(a for a, _ in times):8.3f} s (median of {len(times)})")
    print(f"reference  {statistics.median(b for _, b in times):8.3f} s")
    print(f"reference / dgbench: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def training(include: Path | None = None, **asked: Any) -> Training:
    """A training run of one fold, in a folder that is removed when the process ends."""
    catalogue = Catalogue([include] if include else [])
    base = {"n_hparams": 1, "n_trials": 1, "test_envs": ["75"], "single_test_envs": True}
    declaration, paths = declare({**base, **asked}, catalogue)
    site = Site(paths=paths, include=(str(include),) if include else ())
    run = declaration.plan(open_facts(declaration, site, catalogue), catalogue).runs[0]
    store = Store(Path(tempfile.mkdtemp(prefix="dgbench-benchmark-")))
    store.folder(run.id).create(run)
    context = open_context(run, store, site, catalogue, lease=store.folder(run.id).claim())
    return Training(context, context.algorithm(begin=True))
