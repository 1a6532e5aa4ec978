"""A simulated cluster: drawn durations and failures, the real planner, driver and store, as fast as the disk allows.

    python benchmarks/cluster.py [--runs 1000 10000] [--workers 1000] [--folder /dev/shm]

Time is simulated: no run computes anything, each takes a drawn number of hours. All else is real: the plan, the order
of the runs, merges after their members, leases, records, `done`, notes on failures. Of the attempts 5 % end badly, half
of them by an error and half by the loss of their machine.
"""

from __future__ import annotations

import argparse
import heapq
import math
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.run import Run
from dgbench.core.site import Site
from dgbench.launchers.base import Ended
from dgbench.launchers.driver import drive
from dgbench.launchers.interrupts import Interrupts
from dgbench.launchers.prepare import prepare
from dgbench.store.folder import Store
from dgbench.store.lease import Lease

FAILING, RETRIES = 0.05, 5
FOLDS, TRIALS = 6, 3  # RotatedDigits has six domains


class SimulatedCluster:
    """An engine whose workers only wait, in simulated hours."""

    def __init__(self, store: Store, workers: int, seed: int = 0) -> None:
        self.store, self.workers, self.rng = store, workers, np.random.default_rng(seed)
        self.now = self.work = 0.0
        """Hours since the start, and hours of work in all."""
        self.under_way: list[tuple[float, str, Lease]] = []
        self.failed = 0

    @property
    def capacity(self) -> int:
        return self.workers - len(self.under_way)

    def submit(self, runs: Sequence[Run]) -> None:
        for run in runs:
            lease = self.store.folder(run.id).claim()
            assert lease, "nobody else works here"
            hours = float(self.rng.lognormal(math.log(1.0), 0.5)) * (1.0 if run.kind == "train" else 0.05)
            self.work += hours
            heapq.heappush(self.under_way, (self.now + hours, run.id, lease))

    def wait(self, timeout: float) -> list[Ended]:
        if not self.under_way:
            return []
        self.now, id, lease = heapq.heappop(self.under_way)
        folder = self.store.folder(id)
        if self.rng.random() < FAILING:
            self.failed += 1
            if self.failed % 2:
                return [Ended(id, -9, lease.number, stopped=True)]
            folder.fail({"exit": 1, "error": "drawn", "traceback": "", "log": ""}, lease.number)
            lease.release()
            return [Ended(id, 1, lease.number)]
        folder.append_records([{"step": 1, "predictor": "model", "views": {}}])
        lease.confirm()
        folder.finish({"fingerprint": "", "versions": {}, "commit": "", "weights": "", "machine": ""})
        lease.release()
        return [Ended(id, 0, lease.number)]

    def cancel(self) -> None:
        self.under_way.clear()

    kill = close = cancel


def counting(counts: Counter[str]) -> list[Any]:
    """Patches that count the operations that a file server would see."""

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return original(*args, **options)

        return call

    return [patch.object(os, name, counted(name)) for name in ("listdir", "link", "replace", "utime", "mkdir", "fsync")]


def simulate(runs: int, workers: int, folder: Path) -> None:
    hparams = max(1, round(runs / (FOLDS * TRIALS)) - 1)  # in each fold and trial so many runs, and their merger
    asked = {
        "algorithms": ["ERM", "ERM+DiWA"],
        "datasets": ["RotatedDigits"],
        "n_hparams": hparams,
        "n_trials": TRIALS,
        "single_test_envs": True,
        "setting": {"backbone": "Linear"},
    }
    site = Site(device="cpu", retries=RETRIES)
    with tempfile.TemporaryDirectory(dir=folder) as root:
        start = time.perf_counter()
        sweep = prepare(Path(root) / "sweep", asked, site, Catalogue(site.include))
        sweep.write()
        planned = time.perf_counter() - start
        engine, counts = SimulatedCluster(sweep.store, workers), Counter[str]()
        patches = counting(counts)
        for each in patches:
            each.start()
        start, cpu = time.perf_counter(), time.process_time()
        with Interrupts() as interrupts:
            summary = drive(sweep.store, sweep.plan.runs, engine, RETRIES, interrupts)  # type: ignore[arg-type]
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        for each in patches:
            each.stop()
        start = time.perf_counter()
        states = Counter(state.value for state in sweep.states().values())
        surveyed = time.perf_counter() - start
    n, ideal = len(sweep.plan.runs), engine.work / workers
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{n:,} runs, {workers:,} workers: {dict(summary.counts)} {dict(states)}, {engine.failed:,} attempts failed")
    print(f"  makespan {engine.now:.2f} h, sum/N {ideal:.2f} h: {engine.now / ideal:.3f} times")
    cost = cpu / summary.executed * 1e3
    print(f"  planned in {planned:.1f} s, driven in {seconds:.1f} s, {cost:.2f} ms of CPU an attempt")
    print(f"  states of all runs in {surveyed:.2f} s; {memory:.2f} GiB at most")
    print(f"  operations an attempt: {', '.join(f'{name} {c / summary.executed:.1f}' for name, c in counts.items())}")
    print(f"  {sum(counts.values()) / seconds:,.0f} operations a second", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where sweeps are made (the folder of temporary files)"
    )
    args = parser.parse_args()
    for runs in args.runs:
        simulate(runs, args.workers, args.folder)
