"""A whole ERM run on 28 x 28 digits against a loop of ours that feeds and evaluates as DomainBed does.

    python benchmarks/run.py [--rounds 3] [--precision fp32 bf16]

RotatedMNIST's layout in short: 10,000 digits in 6 domains, 61 steps of 5 x 64, evaluations after steps 0, 30 and 60.
Reference: one endless DataLoader of 8 workers for each of 5 training domains, one of 8 workers for each of the 12
splits, in which every split is evaluated in shuffled batches of 64 at each evaluation, `.item()` each step; the same
network, batch, optimizer and number of steps, in PyTorch's own order in memory. dgbench runs as it ships
(`channels_last` by itself), in fp32 and, where the processor has it, in bf16, in a process that sweeps would start
(with huge pages); the reference in one that DomainBed's would. Times are the processor's, of workers too, of one
thread a process. Aims: 1.8 and 3 times as fast.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from _measure import machine, print_pairs, training
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from dgbench.core.machine import with_huge_pages
from dgbench.core.protocol import View
from dgbench.data.views import ViewData
from dgbench.execute.training import Training
from dgbench.networks.network import build_network

WORKERS, EVALUATION_BATCH = 8, 64


class Split(Dataset[tuple[Tensor, Tensor]]):
    """One split, an example at a time, as a DataLoader's worker fetches it."""

    def __init__(self, data: ViewData, view: View) -> None:
        inputs = data.examples[view.domain].inputs[data.indices[view]]  # type: ignore[attr-defined]
        self.inputs = torch.from_numpy(inputs).float().div_(255)
        self.labels = torch.from_numpy(data.labels(view))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.inputs[i], self.labels[i]


class Endless:
    """Batches drawn with replacement for ever, by workers that stay."""

    def __init__(self, split: Split, batch_size: int) -> None:
        sampler = BatchSampler(RandomSampler(split, replacement=True, num_samples=10**9), batch_size, drop_last=True)
        self.batches: Iterator[list[Tensor]] = iter(DataLoader(split, batch_sampler=sampler, num_workers=WORKERS))


def reference(ours: Training) -> None:
    """One run, DomainBed's way."""
    run, data = ours.run, ours.data
    batch_size = int(run.method.hparams["batch_size"])
    plain = replace(run.setting, channels_last=False, precision="fp32")
    network = build_network(data.input_shape, 10, plain)
    optimizer = torch.optim.Adam(network.parameters(), lr=run.method.hparams["lr"])  # type: ignore[arg-type]
    training_batches = [Endless(Split(data, view), batch_size).batches for view in run.fold.train]
    evaluations = [
        DataLoader(
            Split(data, view), batch_size=EVALUATION_BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True
        )
        for view in data.indices
    ]
    for step in range(run.setting.steps):
        batches = [next(source) for source in training_batches]
        optimizer.zero_grad()
        loss = F.cross_entropy(network(torch.cat([x for x, _ in batches])), torch.cat([y for _, y in batches]))
        loss.backward()
        optimizer.step()
        loss.item()
        if step in run.setting.evaluation_steps:
            network.eval()
            with torch.no_grad():
                for loader in evaluations:
                    for x, y in loader:
                        (network(x).argmax(1) == y).sum().item()
            network.train()


def dgbench_run(precision: str) -> Training:
    """A run that is ready to start, with its lease."""
    include = Path(__file__).with_name("digits28.py")
    hparams = {"batch_size": 64}
    return training(
        include, algorithms=["ERM"], datasets=["RotatedDigits10000"], setting={"precision": precision}, hparams=hparams
    )


def processor_seconds() -> float:
    """The processor's seconds of this process and of all workers that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def execute(side: str, precision: str) -> None:
    """Execute the run of one side, and print the processor's seconds that it took."""
    torch.set_num_threads(1)
    run = dgbench_run(precision)
    start = processor_seconds()
    if side == "dgbench":
        with run.lease:
            run.execute()
    else:
        reference(run)
    print(processor_seconds() - start)


def measure(side: str, precision: str) -> float:
    """Return the seconds of one side, in a process of its own."""
    environment = with_huge_pages(os.environ) if side == "dgbench" else dict(os.environ)
    command = [sys.executable, __file__, "--side", side, "--precision", precision]
    return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--side", choices=("dgbench", "reference"), help="execute this side once and print its seconds")
    args = parser.parse_args()
    if args.side:
        execute(args.side, *args.precision)
        return
    print(machine())
    shape = dgbench_run("fp32")
    setting = shape.run.setting
    sizes = sorted({len(examples.labels) for examples in shape.data.examples.values()})
    print(f"ERM on 6 domains of {sizes} digits, {setting.steps} steps, evaluations at {setting.evaluation_steps}")
    for precision in args.precision:
        print(f"dgbench in {precision} beside a loop of ours in fp32 that feeds and evaluates as DomainBed does")
        print_pairs([(measure("dgbench", precision), measure("reference", "fp32")) for _ in range(args.rounds)])


if __name__ == "__main__":
    main()
