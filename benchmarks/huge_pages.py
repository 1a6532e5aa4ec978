"""Training steps in a process as sweeps start it, with huge pages for large arrays, against the same without them.

    OMP_NUM_THREADS=1 python benchmarks/huge_pages.py [--rounds 3]

The processor's time of one thread, after some steps to warm up. Both sides have to reach the same weights. Without
glibc 2.35, or where the kernel gives huge pages to all or to none, both sides are the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import torch
from _measure import machine, print_pairs, training

from dgbench.core.machine import with_huge_pages
from dgbench.data.views import Minibatches

STEPS = (("MNIST_CNN", 64, 15), ("MNIST_CNN", 32, 30), ("resnet18", 32, 30))
"""Network, examples of each of five domains, steps."""
WARM_UP = 6
SIDES = (with_huge_pages(os.environ), {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"})


def execute(network: str, batch_size: int, steps: int) -> None:
    """Make steps of ERM, and print their seconds after some to warm up, and the hash of the weights that they reach."""
    torch.set_num_threads(1)
    setting = {"backbone": network, "pretrained": False, "steps": 10**6}
    include = Path(__file__).with_name("digits28.py")
    hparams = {"batch_size": batch_size}
    run = training(include, algorithms=["ERM"], datasets=["RotatedDigits28"], setting=setting, hparams=hparams)
    minibatches = Minibatches(run.data, run.run)
    run.algorithm.train()
    start = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            start = time.process_time()
        run._step(step, minibatches[step])
    seconds = time.process_time() - start
    weights = b"".join(weight.numpy().tobytes() for weight in run.algorithm.state_dict().values())
    print(seconds, sha256(weights).hexdigest())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", nargs=3, help="NETWORK BATCH_SIZE STEPS: make these steps and print their time")
    args = parser.parse_args()
    if args.run:
        execute(args.run[0], *map(int, args.run[1:]))
        return
    print(machine())
    for run in STEPS:
        pairs = []
        for _ in range(args.rounds):
            command = [sys.executable, __file__, "--run", *map(str, run)]
            said = [subprocess.run(command, env=env, check=True, text=True, stdout=subprocess.PIPE) for env in SIDES]
            (ours, weights), (theirs, same) = (side.stdout.split() for side in said)
            if weights != same:
                sys.exit(f"{run[0]}: other weights with huge pages")
            pairs.append((float(ours), float(theirs)))
        print(f"{run[0]}, {run[2]} steps of 5 x {run[1]} digits of 28 x 28; reference: without huge pages")
        print_pairs(pairs)


if __name__ == "__main__":
    main()
