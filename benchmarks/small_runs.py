"""60 small runs as one sweep: processor time beside a bare PyTorch loop's, and wall time beside processes of their own.

    python benchmarks/small_runs.py [--steps 300] [--rounds 1] [--references 8] [--algorithm ERM]

The bare loop (`_bare.py`) makes the same networks, steps and evaluations without dgbench, with one thread, in as many
processes at once as the sweep has. CPU seconds of all processes are counted on both sides, and imports of torch, once a
machine, apart. Aim: at most 1.15 times the bare loop's.

The other reference is what DomainBed's local launcher does: for each run a new Python that imports torch, torchvision
and timm, then trains, one after the other; it may use all cores. `--references` of the 60 are measured, and the time of
60 is taken from their mean. Aim: 10 times as fast, with no more processes than --jobs + 2.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _measure import machine

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset
from dgbench.core.run import Run
from dgbench.core.site import Site
from dgbench.data.views import ViewData
from dgbench.store.folder import Store

DOMAINS = ("0", "15", "30", "45", "60", "75")
HPARAMS, TRIALS = 5, 2
RUNS = len(DOMAINS) * HPARAMS * TRIALS
TRAIN = "import torch, torchvision, timm; from dgbench.train import cli, main; raise SystemExit(cli.run(main))"
BARE = Path(__file__).with_name("_bare.py")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Cost:
    """The time and the processes of a sweep."""

    seconds: float
    """By the clock."""
    cpu: float
    """CPU seconds of all its processes."""
    launcher: float
    """Those of the launcher's process."""
    server: float
    """Those of the process that runs are forked from, imports included."""
    most: int
    """Most processes at once."""

    @property
    def runs(self) -> float:
        """CPU seconds of the runs' processes."""
        return self.cpu - self.launcher - self.server


def children(pid: int) -> list[int]:
    """Return the processes that one has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def descendants(pid: int) -> int:
    """Count the processes below one, itself included."""
    return 1 + sum(descendants(child) for child in children(pid))


def own_cpu(pid: int) -> float:
    """Return the CPU seconds of a process without its children; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_of_children() -> float:
    """Return the CPU seconds of all processes that this one has waited for, and those below them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def sweep(root: Path, steps: int, algorithm: str) -> Cost:
    """Measure all runs by `launch`."""
    words = ["--algorithms", algorithm, "--datasets", "RotatedDigits", "--single_test_envs", "--output_dir", str(root)]
    words += ["--n_hparams", str(HPARAMS), "--n_trials", str(TRIALS), "--steps", str(steps)]
    start, before = time.perf_counter(), cpu_of_children()
    launcher = subprocess.Popen(
        [sys.executable, "-m", "dgbench.sweep", "launch", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    cost = Cost(0.0, 0.0, 0.0, 0.0, 0)

    def watch() -> None:
        while launcher.poll() is None:
            cost.most = max(cost.most, descendants(launcher.pid))
            # Processes that are ending have no time any more.
            cost.launcher = max(cost.launcher, own_cpu(launcher.pid))
            cost.server = max([cost.server, *map(own_cpu, children(launcher.pid)[:1])])
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = launcher.wait()
    watcher.join()
    cost.seconds, cost.cpu = time.perf_counter() - start, cpu_of_children() - before
    done = sum(Store(root).folder(id).summary() is not None for id in Store(root).ids())
    assert (code, done) == (0, RUNS)
    return cost


def bare(root: Path, folder: Path) -> tuple[float, float]:
    """Measure the bare loop over the runs of a sweep; return the CPU seconds of all runs, and of one process's imports.

    Args:
        root: The sweep's folder.
        folder: Where its input is written.
    """
    dataset = open_dataset("RotatedDigits", Site(), Catalogue())
    pool: dict[str, Any] = {}
    runs = []
    for id in sorted(Store(root).ids()):
        run = Store(root).folder(id).run()
        runs.append(described(run))
        data = ViewData(dataset, run)
        for view in (*run.fold.train, *run.views):
            indices = data.indices[view]
            x = data.read(view.domain, indices, None).float() / 255
            pool[f"{run.trial} {view}"] = (x, torch.from_numpy(data.labels(view)))
    torch.save(pool, folder / "pool.pt")
    jobs = len(os.sched_getaffinity(0))
    processes = []
    for i in range(jobs):
        asked = folder / f"bare-{i}.json"
        asked.write_text(json.dumps({"data": str(folder / "pool.pt"), "runs": runs[i::jobs]}))
        words = [sys.executable, str(BARE), str(asked)]
        processes.append(subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}))
    found = [json.loads(process.communicate()[0]) for process in processes]
    return sum(sum(one["runs"]) for one in found), statistics.median(one["imports"] for one in found)


def described(run: Run) -> dict[str, Any]:
    """Describe a run for the bare loop: its views, steps, evaluated steps and hyperparameters."""
    return {
        "domains": [f"{run.trial} {view}" for view in run.fold.train],
        "views": [f"{run.trial} {view}" for view in run.views],
        "steps": run.setting.steps,
        "evaluated": run.setting.evaluation_steps,
        **{name: run.method.hparams[name] for name in ("batch_size", "lr", "weight_decay")},
    }


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
    parser.add_argument("--rounds", type=int, default=1, help="sweeps and bare loops, in turn")
    parser.add_argument("--references", type=int, default=8, help="runs in processes of their own; 0: none")
    parser.add_argument("--algorithm", default="ERM", help="trained by the sweep; the bare loop's is ERM")
    args = parser.parse_args()
    costs, references = list[Cost](), list[tuple[float, float]]()
    with tempfile.TemporaryDirectory(prefix="dgbench-benchmark-") as name:
        folder = Path(name)
        for i in range(args.rounds):
            costs.append(sweep(folder / f"sweep-{i}", args.steps, args.algorithm))
            references.append(bare(folder / f"sweep-{i}", folder))
        separately = [separate(folder, args.steps, i) for i in range(args.references)]
    print(machine())
    print(f"{RUNS} runs of {args.algorithm} on RotatedDigits, {args.steps} steps each; {args.rounds} round(s)")
    print_cpu(costs, references)
    ours, most = statistics.median(cost.seconds for cost in costs), max(cost.most for cost in costs)
    print(f"by the clock: {ours:.1f} s; at most {most} processes ({len(os.sched_getaffinity(0))} jobs + 2 expected)")
    if separately:
        one = statistics.mean(separately)
        print(f"a process each: {RUNS * one:.1f} s ({one:.2f} s a run, mean of {args.references})")
        print(f"reference / dgbench: {RUNS * one / ours:.1f}")


def print_cpu(costs: list[Cost], references: list[tuple[float, float]]) -> None:
    """Print CPU seconds a run of sweeps and of the bare loops beside them, and their ratios."""

    def row(what: str, values: list[float]) -> None:
        ratios = [RUNS * value / reference for value, (reference, _) in zip(values, references, strict=True)]
        print(f"{what:34} {statistics.median(values):6.3f} s  {statistics.median(ratios):5.2f}  {numbers(ratios)}")

    def numbers(ratios: list[float]) -> str:
        return " ".join(f"{ratio:.2f}" for ratio in sorted(ratios))

    imports = [seconds for _, seconds in references]
    print("CPU seconds a run, and bare loops they are worth (median, all):")
    row("bare loop", [reference / RUNS for reference, _ in references])
    row("runs' own processes", [cost.runs / RUNS for cost in costs])
    row("all processes", [cost.cpu / RUNS for cost in costs])
    row("all but one import of torch", [(c.cpu - took) / RUNS for c, took in zip(costs, imports, strict=True)])
    sides = [("launcher", [cost.launcher for cost in costs]), ("server", [cost.server for cost in costs])]
    sides.append(("import of torch alone", imports))
    print("once a sweep: " + ", ".join(f"{what} {statistics.median(values):.2f} s" for what, values in sides))


if __name__ == "__main__":
    main()
