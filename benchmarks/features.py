"""A run on stored features of a frozen network against the same run that computes them in each step and evaluation.

    python benchmarks/features.py [--backbone resnet18] [--steps 60] [--rounds 3]

ERM trains the classifier on a frozen network (`freeze` `featurizer`), on rotated digits of 28 x 28, 5 x 32 examples a
step, with three evaluations. The features are computed once, before both sides are timed; that time stands by itself,
as it is shared by all runs of a sweep. Times are the processor's. Aim: 20 times as fast.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from pathlib import Path

import torch
from _measure import machine, training

from dgbench.execute.features import FOLDER
from dgbench.execute.training import Training


def run(backbone: str, steps: int, *, stored: bool) -> Training:
    """A run that is ready to start, with its lease."""
    setting = {
        "steps": steps,
        "checkpoint_freq": steps // 2,
        "backbone": backbone,
        "pretrained": False,
        "freeze": "featurizer",
        "augmentation": False,
        "stored_features": stored,
    }
    include = Path(__file__).with_name("digits28.py")
    hparams = {"batch_size": 32}
    return training(include, algorithms=["ERM"], datasets=["RotatedDigits28"], setting=setting, hparams=hparams)


def executed(training: Training) -> float:
    """Execute a run and return the processor's seconds that it took."""
    start = time.process_time()
    with training.lease:
        training.execute()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    start = time.process_time()
    first = run(args.backbone, args.steps, stored=True)
    print(f"features computed once, with the start of a run: {time.process_time() - start:.1f} s")
    ratios, kept = [], []
    for _ in range(args.rounds):
        ours = run(args.backbone, args.steps, stored=True)
        theirs = run(args.backbone, args.steps, stored=False)
        times = executed(ours), executed(theirs)
        print(f"stored {times[0]:.2f} s, computed in each step {times[1]:.2f} s: {times[1] / times[0]:.1f}")
        ratios.append(times[1] / times[0])
        kept += [ours, theirs]
    size = sum(file.stat().st_size for file in first.context.store.root.glob(f"{FOLDER}/*/*.npy"))
    print(f"computed / stored: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    print(f"features: {size / 1e6:.1f} MB")
    for each in (first, *kept):
        shutil.rmtree(each.context.store.root)


if __name__ == "__main__":
    main()
