"""Disturb sweeps on purpose, and check that nothing is lost, counted twice or left behind.

    python -m benchmarks.chaos                          what can be done
    python -m benchmarks.chaos kills --count 50         50 times kill -9 at random moments
    python -m benchmarks.chaos kills stops --seed 1     one after the other

It ends with exit code 1 at the first harm, and leaves that folder for a look. Figures are in results/reliability.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.chaos.caches import caches
from benchmarks.chaos.crowds import engines, launches, quotas, workers
from benchmarks.chaos.disks import disks, permissions
from benchmarks.chaos.heads import heads
from benchmarks.chaos.holders import clocks, namespaces, stops
from benchmarks.chaos.kills import kills
from benchmarks.chaos.large import large
from benchmarks.chaos.places import places, searches
from benchmarks.chaos.sandbox import Harm

Scenario = Callable[[Path, int, int], Iterator[str]]

SCENARIOS: dict[str, tuple[Scenario, int]] = {
    "kills": (kills, 50),
    "stops": (stops, 5),
    "clocks": (clocks, 1),
    "namespaces": (namespaces, 1),
    "caches": (caches, 1),
    "launches": (launches, 10),
    "workers": (workers, 2),
    "engines": (engines, 1),
    "quotas": (quotas, 1),
    "disks": (disks, 10),
    "permissions": (permissions, 3),
    "places": (places, 60),
    "searches": (searches, 6),
    "heads": (heads, 1),
    "large": (large, 100_000),
}
"""Name -> the function, and how often it is done by default."""


def main() -> int:
    """Run the named scenarios, or list all of them if a name is wrong; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--count", type=int, help="how often")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where sweeps are made (the folder of temporary files)")
    args = parser.parse_args()
    if not args.names or not SCENARIOS.keys() >= set(args.names):
        for name, (scenario, _) in SCENARIOS.items():
            print(f"{name:12} {(scenario.__doc__ or '').splitlines()[0]}")
        return 2
    for name in args.names:
        scenario, count = SCENARIOS[name]
        place, start = Path(tempfile.mkdtemp(prefix=f"chaos-{name}-", dir=args.folder)), time.monotonic()
        try:
            for line in scenario(place, args.count or count, args.seed):
                print(f"{name}: {line}", flush=True)
        except Harm as harm:
            print(f"{name}: HARM: {harm}")
            return 1
        print(f"{name}: {time.monotonic() - start:.0f} s")
        shutil.rmtree(place, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
