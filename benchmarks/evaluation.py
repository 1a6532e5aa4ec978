"""Evaluation in small passes, and with a frozen featurizer's features remembered, against whole batches each time.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py [--rounds 3]

First MNIST_CNN on a batch of 1,024 digits of 28 x 28, which dgbench passes in parts that stay in cache. Then the
evaluations of a run of ERM on the frozen network, watched by EMA and SMA: three of the live model and of both averages,
each on all views. Both sides have the same logits and scores to the bit, which is checked. Times are the processor's.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from _measure import machine, paired, training
from torch import Tensor

from dgbench.core.setting import setting
from dgbench.execute.training import Training
from dgbench.networks.network import build_network


class Evaluations:
    """Executes runs and times their evaluations: `seconds` holds the CPU time of those of the latest run."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.records: list[bytes] = []

    def run(self, *, remembered: bool) -> None:
        """Execute a run and keep its records."""
        how: dict[str, Any] = {"freeze": "featurizer", "augmentation": False, "steps": 3, "checkpoint_freq": 1}
        include = Path(__file__).with_name("digits28.py")
        rows = ["ERM+EMA", "ERM+SMA"]
        ours = training(include, algorithms=rows, datasets=["RotatedDigits28"], setting=how, hparams={"batch_size": 8})
        if not remembered:
            whole(ours.algorithm.network)
            ours.algorithm.network.memory = None
        self.seconds, evaluate = 0.0, ours._evaluate

        def timed(step: int) -> None:
            start = time.process_time()
            evaluate(step)
            self.seconds += time.process_time() - start

        vars(ours)["_evaluate"] = timed
        with ours.lease:
            ours.execute()
        self.records.append(records(ours))


def records(ours: Training) -> bytes:
    """The records of a run as they stand in its file."""
    return (ours.folder.path / "records.jsonl").read_bytes()


def whole(network: Any) -> None:
    """Let a network pass whole batches."""
    vars(network.featurizer)["examples_per_pass"] = 0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine())
    ours, theirs = (build_network((1, 28, 28), 10, setting(backbone="MNIST_CNN", channels_last=True)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    whole(theirs)
    x = torch.randint(0, 256, (1024, 1, 28, 28), dtype=torch.uint8)
    found: dict[bool, Tensor] = {}

    def predict(*, small: bool) -> None:
        network = (ours if small else theirs).eval()
        with torch.no_grad():
            found[small] = network(network.prepare(x))

    predict(small=False)
    print("MNIST_CNN, 1,024 digits: passes of at most 128 beside one pass")
    paired(lambda: predict(small=True), lambda: predict(small=False), args.rounds, clock=time.process_time)
    assert torch.equal(found[True], found[False])

    evaluations = Evaluations()
    pairs = []
    for _ in range(args.rounds):
        pair = []
        for remembered in (True, False):
            evaluations.run(remembered=remembered)
            pair.append(evaluations.seconds)
        pairs.append(pair)
    print("ERM on a frozen MNIST_CNN with EMA and SMA, three evaluations: remembered features beside all computed")
    for mine, reference in pairs:
        print(f"dgbench {mine:.2f} s, reference {reference:.2f} s, reference / dgbench: {reference / mine:.1f}")
    assert len(set(evaluations.records)) == 1


if __name__ == "__main__":
    main()
