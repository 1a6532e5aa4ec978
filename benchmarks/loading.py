"""Does the network wait for images? Training steps with loader processes and without, beside steps that need no images.

    python benchmarks/loading.py [--backbone resnet18] [--side 64] [--steps 20] [--rounds 5]

Photographs of 227 x 227 are augmented to the side; ERM takes 2 x 32 of them a step, on all cores of this machine, as a
single run has them (`--jobs 1`). The reference repeats one minibatch. Besides what dgbench chooses, a process and a
thread make minibatches ahead. Times are of the clock and of the processor, taken in turn; those of the clock need a
quiet machine. Where the network computes on the same cores, augmenting takes of its time whoever does it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import torch
from _measure import machine, training
from images import write_photos

from dgbench.core.machine import usable_cores
from dgbench.data.ahead import AHEAD
from dgbench.data.views import Minibatch, Minibatches
from dgbench.execute.loading import loader_processes, numbers_of


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cores = usable_cores()
    torch.set_num_threads(cores)
    with tempfile.TemporaryDirectory() as place:
        write_photos(Path(place), 227, 227, 900)
        ours = training(
            algorithms=["ERM"],
            datasets=[f"folder:{place}"],
            test_envs=["c"],
            setting={"steps": 10**6, "image_size": args.side, "backbone": args.backbone, "pretrained": False},
            hparams={"batch_size": 32},
        )
        minibatches = Minibatches(ours.data, ours.run)
        chosen = loader_processes(None, numbers_of(minibatches), ours.device, cores)
        sources: dict[str, Iterator[Minibatch]] = {
            "one minibatch": repeat(minibatches[0]),
            "no processes": minibatches.between(0, 10**6, 0),
            "one process": minibatches.between(0, 10**6, 1),
            "one thread": by_thread(minibatches),
        }
        if chosen > 1:
            sources[f"{chosen} processes"] = minibatches.between(0, 10**6, chosen)
        ours.algorithm.train()
        times: dict[str, list[float]] = {name: [] for name in sources}
        worked: dict[str, list[float]] = {name: [] for name in sources}
        for round_ in range(args.rounds + 1):
            for name, batches in sources.items():
                for _ in range(max(1, chosen) * AHEAD + 1):
                    next(batches)  # what was made ahead while others were timed
                start, begun = time.perf_counter(), time.process_time()
                for _ in range(args.steps):
                    ours._step(0, next(batches))
                if round_:
                    times[name].append((time.perf_counter() - start) / args.steps)
                    worked[name].append((time.process_time() - begun) / args.steps)
        print(f"{machine()}; {args.backbone}, {args.side} x {args.side}")
        reference = times["one minibatch"]
        for name, found in times.items():
            ratios = [a / b for a, b in zip(reference, found, strict=True)]
            work = f"{1000 * statistics.median(worked[name]):8.1f} ms of the processor in this process"
            print(
                f"{name:16} {1000 * statistics.median(found):8.1f} ms a step {statistics.median(ratios):6.2f}   {work}"
            )
        del sources


def by_thread(minibatches: Minibatches) -> Iterator[Minibatch]:
    """Yield minibatches that a thread of this process makes ahead: OpenCV and NumPy let others run meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        ahead: deque[Future[Minibatch]] = deque()
        for step in range(10**6):
            ahead.append(thread.submit(minibatches.__getitem__, step))
            if len(ahead) > AHEAD:
                yield ahead.popleft().result()


if __name__ == "__main__":
    main()
