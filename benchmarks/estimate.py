"""Hours that `launch --dry_run --rehearse` tells of a sweep, against those that the sweep then takes.

    python benchmarks/estimate.py quickstart
    python benchmarks/estimate.py "catalogue --steps 60" "glyphs --data_dir DIR --steps 60 --n_hparams 2" --rounds 3

Each argument is the name or file of a sweep, with flags of `launch`. The sweep starts right after its estimate, in a
new folder. A second estimate is that by the finished runs, when a tenth of them had finished: it is made from the
sweep's folder afterwards. A ratio of 1 is perfect; the aim is 1/1.5 to 1.5. On a machine that other work shares, the
estimate holds for the load that the rehearsal met: the lines tell how many processors the machine was asked for.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measure import machine

from dgbench.core.machine import usable_cores
from dgbench.launchers.pace import by_finished, makespan
from dgbench.launchers.prepare import reopen
from dgbench.plan.work import Workload
from dgbench.store.times import read_times

UNITS = {"s": 1, "min": 60, "hours": 3600, "days": 86400}


def main() -> None:
    """Measure each sweep and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweeps", nargs="+")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    print(machine())
    for sweep in args.sweeps:
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory(prefix="dgbench-benchmark-") as folder:
                measure(shlex.split(sweep), Path(folder) / "sweep")


def measure(words: list[str], root: Path) -> None:
    """Estimate a sweep, execute it, and print how the two compare."""
    command = [sys.executable, "-m", "dgbench", "launch", str(root), "--sweep", *words]
    before, began = os.getloadavg()[0], time.perf_counter()
    told = subprocess.run([*command, "--dry_run", "--rehearse"], check=True, capture_output=True, text=True).stdout
    rehearsed = time.perf_counter() - began
    line = next(line for line in told.splitlines() if line.startswith("time: "))
    estimate, used, began = seconds_in(line), processor(), time.perf_counter()
    subprocess.run([*command, "--skip_confirmation"], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    took, used = time.perf_counter() - began, processor() - used
    print(f"{' '.join(words)}\n  {line}\n  it took {took:.0f} s, {used:.0f} s of processors ({used / took:.2f} busy)")
    print(f"  load {before:.1f} before, {os.getloadavg()[0]:.1f} after; the rehearsal took {rehearsed:.0f} s")
    if estimate:
        print(f"  estimate / actual: {estimate / took:.2f}")
    print(f"  after a tenth of the runs, rest: {tenth(root):.2f}", flush=True)


def seconds_in(line: str) -> float:
    """Return the seconds that a line of an estimate tells; 0 if it tells none."""
    found = re.match(r"time: about (?:([\d.,]+) (hours|days|min))?(?: ?(\d+) s)?", line)
    if not found:
        return 0.0
    return float((found[1] or "0").replace(",", "")) * UNITS.get(found[2], 0) + float(found[3] or 0)


def processor() -> float:
    """Return the processor seconds of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tenth(root: Path) -> float:
    """Return estimate / actual of the time that was left when a tenth of a finished sweep's runs had finished."""
    sweep = reopen(root)
    workload, ends = Workload(sweep.plan, sweep.catalogue), []
    for run in sweep.plan.runs:
        attempts = read_times(sweep.store.folder(run.id).path)
        seconds = sum(attempt["seconds"] for attempt in attempts)
        ends.append((max(attempt["started"] + attempt["seconds"] for attempt in attempts), seconds, run))
    ends.sort(key=lambda end: end[0])
    first, rest = ends[: len(ends) // 10], ends[len(ends) // 10 :]
    finished = [(run, workload.of(run), seconds) for _, seconds, run in first]
    left = [(run, workload.of(run)) for _, _, run in rest]
    return makespan(by_finished(left, finished), usable_cores()) / (ends[-1][0] - first[-1][0])


if __name__ == "__main__":
    main()
