"""Memory of one machine that executes several runs at once: what each holds that the others don't share.

    python benchmarks/memory_machine.py [--mb 500] [--jobs 4] [--kinds ToyArrays arrays ToyPacked ToyDrawn ToyStrings]

For each way in which data lie in memory, a sweep of one draw of ERM a slot evaluates all of its examples. While the
runs train, the private bytes of their processes are read (/proc/PID/smaps_rollup), less those of the same sweep on a
tenth of the data. The reference is the size of the data, a copy a slot; `ToyStrings` is one too, with texts in a
list.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from _measure import machine

KINDS = ("ToyArrays", "arrays", "ToyPacked", "ToyDrawn", "ToyStrings")
TOYS = Path(__file__).with_name("_toy_memory.py")
PATIENCE = 600.0


def main() -> None:
    """Measure each kind with few and with many data, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mb", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    args = parser.parse_args()
    print(f"{machine()}; {args.jobs} runs at once on {args.mb} MB")
    for kind in args.kinds:
        few, many = (measure(kind, size, args.jobs) for size in (args.mb * 10**5, args.mb * 10**6))
        private, shared = ((b - a) / 1e6 / 0.9 for a, b in zip(few, many, strict=True))
        share = f"{private / args.mb:.2f} of the data"
        print(f"{kind:12} private to a run {private:7.1f} MB, {share}; proportional {shared:7.1f} MB", flush=True)


def measure(kind: str, size: int, jobs: int) -> tuple[float, float]:
    """Return the private bytes of a run, and its proportional ones, at most; means over the runs.

    Args:
        kind: One of `KINDS`.
        size: Bytes of the data.
        jobs: Runs at once.
    """
    with tempfile.TemporaryDirectory(prefix="dgbench-benchmark-") as folder:
        root, dataset = Path(folder) / "sweep", kind
        if kind == "arrays":
            dataset = f"arrays:{make_arrays(Path(folder) / 'arrays', size)}"
        words = ["--algorithms", "ERM", "--datasets", dataset, "--test_domains", "c", "--include", str(TOYS)]
        words += ["--n_hparams", str(jobs), "--n_trials", "1", "--steps", "5001", "--checkpoint_freq", "5000"]
        words += ["--set", "evaluate=all", "--jobs", str(jobs), "--skip_confirmation"]
        words += ["--device", "cpu", "--hparams", '{"batch_size": 8}']
        launch = subprocess.Popen(
            [sys.executable, "-m", "dgbench", "launch", str(root), *words],
            env={**os.environ, "TOY_BYTES": str(size)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            return watch(launch, root, jobs)
        finally:
            launch.send_signal(signal.SIGTERM)
            launch.wait()


def watch(launch: subprocess.Popen[bytes], root: Path, jobs: int) -> tuple[float, float]:
    """Wait until each run has evaluated its first model, and read the memory of their processes."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if launch.poll() is not None:
            raise SystemExit(f"the sweep ended with {launch.returncode} before it was measured")
        if len([file for file in root.glob("runs/*/records.jsonl") if file.stat().st_size]) == jobs:
            time.sleep(1)
            found = [rollup(pid) for pid in grandchildren(launch.pid)]
            assert len(found) == jobs, f"{len(found)} processes, not {jobs}"
            private, shared = map(sum, zip(*found, strict=True))
            return private / jobs, shared / jobs
    raise SystemExit(f"the runs did not evaluate within {PATIENCE:.0f} s")


def grandchildren(pid: int) -> Iterator[int]:
    """Yield the processes that the children of a process forked."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    children = {child for child, parent in parents.items() if parent == pid}
    yield from (child for child, parent in parents.items() if parent in children)


def rollup(pid: int) -> tuple[float, float]:
    """Return the private and the proportional bytes of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {name: float(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    private = sum(kilobytes[f"Private_{state}"] for state in ("Clean", "Dirty"))
    return 1024 * private, 1024 * kilobytes["Pss"]


def make_arrays(folder: Path, size: int) -> Path:
    """Write a data set of vectors as `dgbench.from_dataset` does, and return its folder."""
    import numpy as np

    from dgbench.datasets.arrays import INPUTS, ArrayFacts, write_arrays

    n = size // 4096 // 4 // 3 * 3
    folder.mkdir()
    np.save(folder / INPUTS, np.full((n, 4096), 0.5, np.float32))
    write_arrays(folder, ArrayFacts(("a", "b", "c"), ("0", "1"), False), np.arange(n) % 2, np.arange(n) // (n // 3))
    return folder


if __name__ == "__main__":
    main()
