"""How long commands take to answer, and how long planning takes, against importing torch and DomainBed's bookkeeping.

    python benchmarks/startup.py

Aims: each command under 1 s; a plan of 438,600 runs (34 algorithms on DomainBed's 16 data sets) in 1.3 times the
processor's time that DomainBed takes to hash as many arguments, which is 3 s where those take 2.3 s.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measure import machine

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import Row
from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.core.setting import PRESETS
from dgbench.data.facts import DatasetFacts
from dgbench.plan.planner import plan
from dgbench.plan.request import Request

DOMAINS = (3, 6, 4, 4, 4, 4, 6, 10, 5, 6, 3, 3, 3, 3, 3, 3)
"""Of DomainBed's data sets but for its two of noise: 215 sets of test domains in all."""


def command(*words: str) -> float:
    """Median seconds of a command, warm."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def planned() -> tuple[int, float]:
    """Runs of the plan, and seconds of the processor."""
    catalogue = Catalogue()
    facts = {
        f"set{i}": DatasetFacts(f"set{i}", tuple(map(str, range(n))), (1000,) * n, 5, (3, 224, 224), (), 5001, 300, "")
        for i, n in enumerate(DOMAINS)
    }
    rows = [Row(f"ERM{i}", "ERM") for i in range(34)]
    start = time.process_time()
    runs = 0
    for row in rows:  # One algorithm at a time: the catalogue doesn't have 34, and ERM's runs would be shared.
        request = Request((row,), tuple(facts), LeaveOneDomainOut(), tuple(range(20)), (0, 1, 2))
        runs += len(plan([request], facts, dict.fromkeys(facts, PRESETS["dgbench"]), catalogue).runs)
    return runs, time.process_time() - start


def domainbed_names(runs: int) -> float:
    """The same for what DomainBed does for each job before it launches: dump its arguments and hash them."""
    start = time.process_time()
    for i in range(runs):
        arguments = {"dataset": "PACS", "algorithm": "ERM", "test_envs": [0, 1], "holdout_fraction": 0.2, "seed": i}
        arguments |= {"hparams_seed": 1, "data_dir": "/data", "task": "domain_generalization", "trial_seed": 0}
        hashlib.md5(json.dumps(arguments, sort_keys=True).encode()).hexdigest()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    print(machine())
    torch_import = command("-c", "import torch")
    print(f"python -c 'import torch'     {torch_import:6.2f} s (reference)")
    with tempfile.TemporaryDirectory(prefix="dgbench-benchmark-") as folder:
        sweep = ("-m", "dgbench.sweep")
        launch = (*sweep, "launch", "--algorithms", "ERM", "SAM+SWAD", "--datasets", "RotatedDigits")
        for words in (
            (*sweep, "--help"),
            ("-m", "dgbench", "list", "algorithms"),
            (*launch, "--output_dir", str(Path(folder) / "new"), "--dry_run"),
        ):
            seconds = command(*words)
            name = " ".join(word for word in words if not word.startswith(folder))
            print(f"{seconds:6.2f} s, {torch_import / seconds:5.1f} times as fast as importing torch: python {name}")
    rounds = []
    for _ in range(3):
        runs, seconds = planned()
        rounds.append((seconds, domainbed_names(runs)))
    seconds, reference = map(statistics.median, zip(*rounds, strict=True))
    print(
        f"plan of {runs:,} runs: {seconds:.1f} s CPU; DomainBed's argument hashes alone: {reference:.1f} s (reference)"
    )
    print(f"reference / dgbench: {statistics.median(b / a for a, b in rounds):.2f}")


if __name__ == "__main__":
    main()
