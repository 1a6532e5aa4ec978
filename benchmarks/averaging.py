"""What averages cost a training run, and what merging sixty runs of a ResNet-18 takes in memory and time.

    python benchmarks/averaging.py [--steps 20] [--rounds 15] [--members 60]

Overhead: steps of ERM on MNIST_CNN (28 x 28, 5 domains x 64) watched by each average against the same steps unwatched,
timed in turn; aim <= 3 % for SMA, EMA and SWAD. Memory: the highest resident size of the process above what it had
before, in copies of the model. SWAD over a run whose losses fall and then rise, one evaluation every ten steps; merging
from files, beside the time that reading the same files takes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _measure import machine, training
from safetensors.torch import save_file

from dgbench.averaging.swad import SWAD
from dgbench.core.setting import setting
from dgbench.data.views import Minibatches
from dgbench.execute.models import SavedModel
from dgbench.execute.training import Training
from dgbench.merging.diwa import DiWA, DiWARestricted
from dgbench.merging.model_stock import ModelStock
from dgbench.merging.soups import GreedySoup
from dgbench.methods.average import Average, Weights
from dgbench.methods.merger import Member, Merger, Tools
from dgbench.networks.network import build_network

AVERAGES = ("SMA", "EMA", "SWAD", "SWA", "BMA", "IIDMax", "WAKD")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--members", type=int, default=60)
    args = parser.parse_args()
    print(machine())
    overhead(args.steps, args.rounds)
    model = resnet18()
    size = sum(tensor.nbytes for tensor in model.values())
    print(f"one copy of ResNet-18: {size / 1e6:.1f} MB")
    print(f"SWAD in a run of 200 steps: {highest(lambda: watch(SWAD(SWAD.Hparams()), model)) / size:.2f} copies")
    merge(model, size, args.members)


def overhead(steps: int, rounds: int) -> None:
    """Print each average's share of a step of ERM."""
    include = Path(__file__).with_name("digits28.py")

    def run(row: str) -> Callable[[], None]:
        watched = training(include, algorithms=[row], datasets=["RotatedDigits28"], setting={"steps": 10**6})
        for average in watched.averages.values():
            average.begin(watched.algorithm.predictor_tensors(), 10**6)
        return lambda: take(watched, Minibatches(watched.data, watched.run), steps)

    sides = {row: run(row) for row in ("ERM", *(f"ERM+{name}" for name in AVERAGES))}
    times: dict[str, list[float]] = {row: [] for row in sides}
    for turn in range(rounds + 1):
        for row, side in sides.items():
            start = time.perf_counter()
            side()
            if turn:
                times[row].append(time.perf_counter() - start)
    print(f"{steps} steps of ERM: {statistics.median(times['ERM']):.3f} s (median of {rounds})")
    for name in AVERAGES:
        ratios = sorted(with_it / without for with_it, without in zip(times[f"ERM+{name}"], times["ERM"], strict=True))
        low, middle, high = (100 * (ratio - 1) for ratio in (ratios[0], statistics.median(ratios), ratios[-1]))
        print(f"  {name:<8} {middle:+.1f} % ({low:+.1f} to {high:+.1f})")


def take(run: Training, minibatches: Minibatches, steps: int) -> None:
    """So many steps on, to the last of what they do on the device."""
    run.algorithm.train()
    start = run.loop.step
    for step in range(start, start + steps):
        run._step(step, minibatches[step])
    run.loop.sums["loss"].item()


def resnet18() -> Weights:
    """A network's tensors."""
    network = build_network((3, 224, 224), 7, setting(backbone="resnet18", pretrained=False))
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def watch(average: Average, weights: Weights) -> None:
    """A run's steps and evaluations without its training; the losses fall for ten evaluations, then rise."""
    average.begin(weights, 200)
    for step in range(200):
        average.observe(weights)
        if step % 10 == 9:
            loss = abs(step - 100) / 100 + 0.1
            average.validate(step, {"a": loss, "b": loss}, {"a": 0.5, "b": 0.5})
    average.weights()


def merge(model: Weights, size: int, members: int) -> None:
    """Merge files of random weights around the model, by each merger that streams."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.safetensors" for i in range(members)]
        for i, path in enumerate(paths):
            generator = torch.Generator().manual_seed(i)
            save_file({name: near(tensor, generator) for name, tensor in model.items()}, path)
        found = [_member(SavedModel(path, 0, 0.5)) for path in paths]
        reading = seconds(lambda: all(tensor.clone() is not None for m in found for tensor in m.load().values()))
        print(f"reading {members} of them: {reading:.2f} s")
        scores = iter(range(10**6))
        tools = Tools(lambda weights: float(next(scores)), lambda: model, no_fisher, 1000, frozenset(), tuple)
        for cls in (DiWA, DiWARestricted, GreedySoup, ModelStock):
            merger: Merger = cls(cls.Hparams())
            took: list[float] = []

            def work(merger: Merger = merger, took: list[float] = took) -> None:
                took.append(seconds(lambda: [None for _ in merger.candidates(found, tools)]))

            peak = highest(work)
            print(f"  {cls.__name__:<16} {peak / size:.2f} copies, {took[0]:.2f} s, {took[0] / reading:.1f} x reading")


def _member(saved: SavedModel) -> Member:
    cpu = torch.device("cpu")
    return Member(saved.path.stem, saved.accuracy, lambda: saved.load(cpu), lambda name: saved.tensor(name, cpu))


def near(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The tensor with a little noise; integers as they are."""
    if not tensor.is_floating_point():
        return tensor.clone()
    return tensor + 0.01 * torch.randn(tensor.shape, generator=generator)


def no_fisher(weights: Weights, examples: int) -> Weights:
    """Asked by no merger here."""
    raise NotImplementedError


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def highest(work: Callable[[], Any]) -> int:
    """The most bytes that the process holds meanwhile beyond those before; looked at every millisecond."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before, peak, over = resident(), 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(0.001):
            peak = max(peak, resident() - before)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return peak


def resident() -> int:
    """Bytes of anonymous memory of this process that are in memory now: files that are only mapped don't count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon: this benchmark needs Linux")


if __name__ == "__main__":
    main()
