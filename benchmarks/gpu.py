"""One table of what matters on a GPU: parity with the CPU, step time, images a second, runs at once, memory.

    bash benchmarks/gpu.sh                         # meant for eight minutes of one GPU, without a network
    bash benchmarks/gpu.sh --device cpu --quick    # the same script in small, to see that it works

* parity: every algorithm takes three steps in fp32 on the CPU and on the device, without dropout; the largest relative
  distance of a weight. Methods that draw on the device are named apart: its generator gives other numbers.
* step: a training step of ERM on ResNet-50, 3 x 32 images of 224 x 224, in the variants of the setting, beside a bare
  loop, and beside a loop that reads the loss in each step as DomainBed does; peak memory.
* loader: augmented images a second by the loader processes that a run of this machine has, and what the step takes.
* runs: steps a second of 1, 2 and 4 processes that share the device.

Each part prints as it ends, so that a run that is cut off has shown something.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from _measure import machine, training
from images import write_photos
from torch import Tensor
from torch.nn import functional as F

from dgbench.catalogue.catalogue import Catalogue
from dgbench.conformance.rehearsal import Subject
from dgbench.core.machine import choose_kernels, usable_cores
from dgbench.core.setting import setting
from dgbench.data.views import Minibatches
from dgbench.execute.loading import loader_processes
from dgbench.methods.batch import Batch, Task
from dgbench.networks.network import build_network

DOMAINS, CLASSES = 3, 7
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "fp32, deterministic (the default)": {},
    "fp32, channels_last": {"channels_last": True},
    "TF32, fastest kernels": {"deterministic": False},
    "TF32, channels_last": {"deterministic": False, "channels_last": True},
    "bf16": {"precision": "bf16", "deterministic": False},
    "bf16, channels_last": {"precision": "bf16", "deterministic": False, "channels_last": True},
    "bf16, channels_last, compile": {
        "precision": "bf16",
        "deterministic": False,
        "channels_last": True,
        "compile": True,
    },
}
"""Name -> fields of the setting of a step."""


class Sizes:
    """Sizes of networks, images and repetitions: those of the table, or small ones to try the script."""

    def __init__(self, quick: bool) -> None:
        self.backbone = "SmallCNN" if quick else "resnet50"
        self.side = 32 if quick else 224
        self.batch = 4 if quick else 32
        self.steps = 1 if quick else 20
        self.warm = 1 if quick else 10
        self.photos = 60 if quick else 1800
        self.processes = (1, 2) if quick else (1, 2, 4)
        self.algorithms = ("ERM", "CORAL", "SAM") if quick else tuple(sorted(Catalogue().algorithms))
        self.variants = dict(list(VARIANTS.items())[:2]) if quick else VARIANTS


def main() -> None:
    """Measure each part and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    args = parser.parse_args()
    device, sizes = torch.device(args.device), Sizes(args.quick)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    print(f"{machine()}, {name}", flush=True)
    for part in args.parts:
        started = time.perf_counter()
        print(f"\n{part}", flush=True)
        PARTS[part](device, sizes)
        print(f"  ({part} took {time.perf_counter() - started:.0f} s)", flush=True)


def parity(device: torch.device, sizes: Sizes) -> None:
    """Compare three steps of each algorithm on the device with the same on the CPU."""
    catalogue, drawing, worst = Catalogue(), [], list[tuple[float, str]]()
    choose_kernels(setting())
    for name in sizes.algorithms:
        entry = catalogue.get("algorithm", name)
        if {"text_tower", "clip"} & {str(getattr(need, "what", need)) for need in entry.card.needs}:
            continue  # no weights of CLIP without a network
        weights = []
        for place in (torch.device("cpu"), device):
            rehearsal = Subject(entry, place).rehearse(3, 0, {"resnet_dropout": 0.0})
            rehearsal.until(3)
            weights.append({key: value.cpu() for key, value in rehearsal.parameters().items()})
        distance = max(relative(one, weights[1][key]) for key, one in weights[0].items())
        (drawing if entry.card.draws else worst).append((distance, name))
    for found, title in ((worst, "furthest"), (drawing, "methods that draw")):
        text = ", ".join(f"{name} {distance:.1e}" for distance, name in sorted(found, reverse=True)[:6])
        print(f"  {len(found)} algorithms, {title}: {text}")


def relative(one: Tensor, other: Tensor) -> float:
    """The largest distance of two tensors by the largest number in the first."""
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-12)) if one.numel() else 0.0


def step(device: torch.device, sizes: Sizes) -> None:
    """Time a training step in each variant, a bare loop, and one that waits for the loss."""
    bare = milliseconds(device, sizes, *plain_step(device, sizes, waits=False))
    waiting = milliseconds(device, sizes, *plain_step(device, sizes, waits=True))
    loops = {"bare loop, fp32": bare, "the same, reading the loss each step": waiting}
    for name, (took, memory) in loops.items():
        print(f"  {name:38} {took:8.1f} ms  {bare[0] / took:5.2f}   {memory:6.2f} GB")
    for name, changes in sizes.variants.items():
        took, memory = milliseconds(device, sizes, *our_step(device, sizes, changes))
        print(f"  {name:38} {took:8.1f} ms  {bare[0] / took:5.2f}   {memory:6.2f} GB", flush=True)


def plain_step(device: torch.device, sizes: Sizes, *, waits: bool) -> tuple[Callable[[], object], object]:
    """Return a function that makes a step of ERM in a bare loop, and the network, to be kept in memory."""
    choose_kernels(setting())
    network = build_network((3, sizes.side, sizes.side), CLASSES, of_network(sizes, {})).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-5, fused=True)
    x, y = inputs(device, sizes)
    x, y = torch.cat(x).float().div_(255), torch.cat(y)

    def made() -> object:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        return loss.item() if waits else None

    return made, network


def our_step(device: torch.device, sizes: Sizes, changes: Mapping[str, Any]) -> tuple[Callable[[], object], object]:
    """Return a function that makes a step of ERM as the engine does, and the algorithm, to be kept in memory."""
    resolved = of_network(sizes, changes)
    choose_kernels(resolved)
    cls = Catalogue().get("algorithm", "ERM").load()
    shape = (3, sizes.side, sizes.side)
    hparams = cls.Hparams(
        **Catalogue().get("algorithm", "ERM").resolve("PACS", traits=(), hparams_seed=0, trial=0, fixed={}, draws={})
    )
    network = cls.make_network(shape, CLASSES, hparams, resolved).to(device)
    algorithm = cls(network, hparams, Task(shape, CLASSES, ((1,) * CLASSES,) * DOMAINS), resolved).to(device).train()
    x, y = inputs(device, sizes)

    def made() -> object:
        batches = [
            Batch(network.prepare(one), labels, torch.arange(len(labels), device=device), i)
            for i, (one, labels) in enumerate(zip(x, y, strict=True))
        ]
        return algorithm.logged_update(batches)

    return made, algorithm


def of_network(sizes: Sizes, changes: Mapping[str, Any]) -> Any:
    """The setting of a network with random weights."""
    return setting(backbone=sizes.backbone, pretrained=False, **{"channels_last": False, **changes})


def inputs(device: torch.device, sizes: Sizes) -> tuple[list[Tensor], list[Tensor]]:
    """Images as bytes and labels of each domain, on the device."""
    shape = (sizes.batch, 3, sizes.side, sizes.side)
    images = [torch.randint(0, 256, shape, dtype=torch.uint8, device=device) for _ in range(DOMAINS)]
    return images, [torch.arange(sizes.batch, device=device) % CLASSES for _ in range(DOMAINS)]


def milliseconds(device: torch.device, sizes: Sizes, made: Callable[[], object], kept: object) -> tuple[float, float]:
    """The median time of a step, over five groups of steps, and the peak memory in GB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(sizes.warm):
        made()
    times = []
    for _ in range(5):
        finish(device)
        start = time.perf_counter()
        for _ in range(sizes.steps):
            made()
        finish(device)
        times.append(1000 * (time.perf_counter() - start) / sizes.steps)
    return statistics.median(times), torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0


def finish(device: torch.device) -> None:
    """Wait until the device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def loader(device: torch.device, sizes: Sizes) -> None:
    """Count augmented images a second by the loader processes of a run that has this machine's cores."""
    with tempfile.TemporaryDirectory() as place:
        write_photos(Path(place), 227, 227, sizes.photos)
        of_run = {"steps": 10**6, "image_size": sizes.side, "backbone": sizes.backbone, "pretrained": False}
        ours = training(
            algorithms=["ERM"],
            datasets=[f"folder:{place}"],
            test_envs=["c"],
            setting=of_run,
            hparams={"batch_size": sizes.batch},
        )
        minibatches = Minibatches(ours.data, ours.run)
        workers = loader_processes(None, minibatches, device, usable_cores())
        batches, count = minibatches.between(0, 10**6, workers), 4 * sizes.steps
        for _ in range(sizes.warm):
            next(batches)
        start, seen = time.perf_counter(), 0
        for _ in range(count):
            seen += sum(len(x) for x, *_ in next(batches))
        rate = seen / (time.perf_counter() - start)
        print(f"  {workers} processes: {rate:,.0f} images a second")
        del batches


def runs(device: torch.device, sizes: Sizes) -> None:
    """Count the steps a second of several processes that share the device."""
    context = multiprocessing.get_context("spawn")
    for count in sizes.processes:
        with context.Pool(count) as pool:
            rates = pool.map(_rate, [(device.type, sizes)] * count, chunksize=1)
        print(f"  {count} at once: {sum(rates):.1f} steps a second", flush=True)


def _rate(given: tuple[str, Sizes]) -> float:
    """Steps a second of one process."""
    device, sizes = torch.device(given[0]), given[1]
    changes = {} if device.type == "cpu" else {"precision": "bf16", "channels_last": True, "deterministic": False}
    took, _ = milliseconds(device, sizes, *our_step(device, sizes, changes))
    return 1000 / took


PARTS: Mapping[str, Callable[[torch.device, Sizes], None]] = {
    "parity": parity,
    "step": step,
    "loader": loader,
    "runs": runs,
}
"""Name -> a part of the table."""


if __name__ == "__main__":
    main()
