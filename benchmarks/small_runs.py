"""60 small runs as one sweep against the same runs as separate processes, one after the other.

    python benchmarks/small_runs.py [--steps 300] [--references 8]

The reference is what DomainBed's local launcher does: for each run a new Python that imports torch, torchvision and
timm, then trains; it may use all cores. `--references` of the 60 are measured, in turn with nothing else, and the
time of 60 is taken from their mean. Aim: 10 times as fast, with no more processes than --jobs + 2.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from _measure import machine

from dgbench.store.folder import Store

DOMAINS = ("0", "15", "30", "45", "60", "75")
HPARAMS, TRIALS = 5, 2
TRAIN = "import torch, torchvision, timm; from dgbench.train import cli, main; raise SystemExit(cli.run(main))"


def descendants(pid: int) -> int:
    """Processes below one, itself included."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return 1 + sum(descendants(int(child)) for child in children)


def sweep(root: Path, steps: int) -> tuple[float, int]:
    """Seconds for all runs by `launch`, and the most processes seen."""
    words = ["--algorithms", "ERM", "--datasets", "RotatedDigits", "--single_test_envs", "--output_dir", str(root)]
    words += ["--n_hparams", str(HPARAMS), "--n_trials", str(TRIALS), "--steps", str(steps)]
    start = time.perf_counter()
    launcher = subprocess.Popen([sys.executable, "-m", "dgbench.sweep", "launch", *words], stdin=subprocess.DEVNULL)
    most = 0

    def watch() -> None:
        nonlocal most
        while launcher.poll() is None:
            most = max(most, descendants(launcher.pid))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = launcher.wait()
    seconds = time.perf_counter() - start
    watcher.join()
    done = sum(Store(root).folder(id).summary() is not None for id in Store(root).ids())
    assert (code, done) == (0, len(DOMAINS) * HPARAMS * TRIALS)
    return seconds, most


def separate(root: Path, steps: int, i: int) -> float:
    """Seconds for one run in a process of its own."""
    words = ["--algorithm", "ERM", "--dataset", "RotatedDigits", "--test", DOMAINS[i % len(DOMAINS)]]
    words += ["--steps", str(steps), "--hparams_seed", str(i % HPARAMS), "--output_dir", str(root / str(i))]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", TRAIN, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--references", type=int, default=8)
    args = parser.parse_args()
    runs = len(DOMAINS) * HPARAMS * TRIALS
    with tempfile.TemporaryDirectory(prefix="dgbench-benchmark-") as folder:
        ours, most = sweep(Path(folder) / "sweep", args.steps)
        one = sum(separate(Path(folder), args.steps, i) for i in range(args.references)) / args.references
    print(machine())
    print(f"{runs} runs of ERM on RotatedDigits, {args.steps} steps each")
    print(
        f"dgbench    {ours:8.1f} s; at most {most} processes ({len(os.sched_getaffinity(0))} jobs + launcher + server)"
    )
    print(f"reference  {runs * one:8.1f} s ({one:.2f} s a run, mean of {args.references})")
    print(f"reference / dgbench: {runs * one / ours:.1f}")


if __name__ == "__main__":
    main()
