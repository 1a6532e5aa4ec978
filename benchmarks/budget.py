"""What a whole PACS sweep by the book asks of one GPU and its machine, and what of it is measured on this one.

    python benchmarks/budget.py [--hours 12] [--rounds 5]

The sweep: ERM, 4 domains held out in turn, 20 draws, 3 trials, ResNet-50, 5,001 steps of 3 x 32 images, evaluated every
300. Counts are those of `launch --dry_run`, on photographs of PACS' counts and size. Rates of loading and evaluating,
the start of a run and its checkpoints are measured in seconds of one core; a GPU's part is left to `benchmarks/gpu.py`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _measure import machine
from images import write_photos
from torch.utils.flop_counter import FlopCounterMode

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.site import Site
from dgbench.data.views import Minibatches
from dgbench.datasets.pacs import PACS
from dgbench.execute.context import open_context
from dgbench.execute.training import Training
from dgbench.plan.asking import declare, open_facts
from dgbench.plan.cost import cost_of
from dgbench.store.folder import Store

SIDE = 227
ASKED = {
    "algorithms": ["ERM"],
    "datasets": ["PACS"],
    "single_test_envs": True,
    "setting": {"backbone": "resnet50", "pretrained": False},
    "hparams": {"batch_size": 32},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=float, default=12.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        write_pacs(Path(place))
        catalogue, site = Catalogue(), Site(data_dir=place, device="cpu")
        declaration, _ = declare(ASKED, catalogue)
        plan = declaration.plan(open_facts(declaration, site, catalogue), catalogue)
        cost, runs = cost_of(plan, catalogue), len(plan.runs)
        print(f"{machine()}\n{runs} runs, {cost.passes / 1e6:.1f} million images to train on, and ", end="")
        print(f"{cost.evaluated / 1e6:.1f} million to evaluate, in {args.hours:g} hours: ", end="")
        seconds, passes, evaluated = 3600 * args.hours / runs, cost.passes / runs, cost.evaluated / runs
        print(f"{seconds:.0f} s a run of {passes:,.0f} and {evaluated:,.0f} images")
        print(f"{cost.passes / 3600 / args.hours:,.0f} images a second if nothing else took time")

        run, store = plan.runs[0], Store(Path(place) / "sweep")
        store.folder(run.id).create(run)
        lease = store.folder(run.id).claim()
        open_context(run, store, site, catalogue, lease=lease)  # decodes all images, once a machine
        made: list[Training] = []

        def start() -> None:
            context = open_context(run, store, site, catalogue, lease=lease)
            made.append(Training(context, context.algorithm(begin=True, train=True)))

        print(f"start: {measured(start, args.rounds):.2f} s a run")
        training = made[-1]
        minibatches = Minibatches(training.data, run)
        steps = iter(range(10**6))
        rate = 96 / measured(lambda: minibatches[next(steps)], 10 * args.rounds)
        print(f"loader: {rate:,.0f} augmented images a second, {passes / rate:.0f} s a run")
        view, data = run.fold.test[0], training.data
        rate = 128 / measured(lambda: data.inputs(view, np.arange(128)), 4 * args.rounds)
        print(f"evaluation: {rate:,.0f} images read a second, {evaluated / rate:.0f} s a run")
        print_checkpoints(training, args.rounds)
        print_operations(training, passes, evaluated, seconds)


def write_pacs(root: Path) -> None:
    """Write photographs in PACS' layout, of its counts and size: a few hundred, linked again and again."""
    write_photos(root / "photos", SIDE, SIDE, 420)
    photos = sorted((root / "photos").rglob("*.jpg")) + sorted((root / "photos").rglob("*.png"))
    for domain, count in PACS.card.counts.items():
        for number in range(count):
            folder = root / "PACS" / domain / PACS.card.classes[number % len(PACS.card.classes)]
            folder.mkdir(parents=True, exist_ok=True)
            photo = photos[number % len(photos)]
            os.link(photo, folder / f"{number:05d}{photo.suffix}")


def measured(thing: Callable[[], object], rounds: int) -> float:
    """Return the median of the processor's seconds that a call takes."""
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        thing()
        times.append(time.process_time() - begun)
    return statistics.median(times)


def print_checkpoints(training: Training, rounds: int) -> None:
    """Print number, size and CPU seconds of the checkpoints that a run writes, one at each evaluation."""
    for parameter in training.algorithm.parameters():
        parameter.grad = torch.zeros_like(parameter)
    training.algorithm.optimizer.step()  # so that there are moments
    number = training.run.setting.evaluations
    each = measured(training._save, rounds)
    size = training.checkpoint.stat().st_size / 1e6
    print(f"checkpoints: {number} of {size:.0f} MB, {each:.2f} s each, {number * each:.0f} s a run")


def print_operations(training: Training, passes: float, evaluated: float, seconds: float) -> None:
    """Print the floating-point operations of a run, and how many a second its time leaves."""
    x, y = torch.randn(1, 3, 224, 224), torch.zeros(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        training.algorithm.network(x)
    with FlopCounterMode(display=False) as both:
        torch.nn.functional.cross_entropy(training.algorithm.network(x), y).backward()
    one, two = forward.get_total_flops(), both.get_total_flops()
    total = two * passes + one * evaluated
    print(f"step: {two / 1e9:.1f} billion operations an image, evaluation {one / 1e9:.1f}; ", end="")
    print(f"{total / 1e15:.1f} million billion a run, {total / seconds / 1e12:.0f} TFLOP/s")


if __name__ == "__main__":
    main()
