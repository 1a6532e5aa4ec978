"""One table of what matters on a GPU: parity with the CPU, step time, images a second, runs at once, memory.

    bash benchmarks/gpu.sh                         # meant for eight minutes of one GPU, without a network
    bash benchmarks/gpu.sh --device cpu --quick    # the same script in small, to see that it works

* parity: every algorithm takes three steps in fp32 on the CPU and on the device, without dropout; the largest relative
  distance of a weight, and how often a step waits for the device. Methods that draw on the device are marked: its
  generator gives other numbers.
* step: a training step of ERM on ResNet-50, 3 x 32 images of 224 x 224, in the variants of the setting, beside a bare
  loop, the same in a CUDA graph, and a loop that reads the loss in each step as DomainBed does; peak memory; the price
  of `deterministic`.
* loader: augmented images a second that the loader processes of a run on this machine bring to the device, and a step
  on them beside one on the same minibatch again and again.
* augment: images a second of DomainBed's augmentation by PyTorch on the device, beside the CPU path's on one core, and
  how far apart the same draws lie (`device_augmentation.py`).
* runs: steps a second of 1, 2 and 4 processes that share the device, and what each holds of its memory.

Each part prints as it ends, so that a run that is cut off has shown something; parts that are due after `--minutes` are
left out, and named.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from _measure import machine, training
from device_augmentation import compare
from images import write_photos
from torch import Tensor
from torch.nn import functional as F

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.conformance.questions import Reads
from dgbench.conformance.rehearsal import Subject
from dgbench.core.machine import choose_kernels, usable_cores
from dgbench.core.setting import setting
from dgbench.data.views import Minibatch, Minibatches
from dgbench.execute.loading import load, loader_processes, numbers_of
from dgbench.methods.batch import Batch, Task
from dgbench.networks.network import build_network

DOMAINS, CLASSES = 3, 7
FASTEST, REPEATABLE = "bf16, channels_last", "bf16, channels_last, deterministic"
"""Variants that differ in `deterministic` alone."""
ALIKE = 1e-3
"""Largest relative distance of weights after three steps that rounding explains."""
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "fp32, deterministic (the default)": {},
    "fp32, channels_last": {"channels_last": True},
    "TF32, fastest kernels": {"deterministic": False},
    "TF32, channels_last": {"deterministic": False, "channels_last": True},
    REPEATABLE: {"precision": "bf16", "channels_last": True},
    "bf16": {"precision": "bf16", "deterministic": False},
    FASTEST: {"precision": "bf16", "deterministic": False, "channels_last": True},
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
        self.variants = {name: VARIANTS[name] for name in (FASTEST, REPEATABLE)} if quick else VARIANTS
        self.until = float("inf")
        """When to begin nothing more, by `time.perf_counter`."""


def main() -> None:
    """Measure each part and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing after so many minutes")
    args = parser.parse_args()
    device, sizes = torch.device(args.device), Sizes(args.quick)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    print(f"{machine()}, {name}", flush=True)
    sizes.until = time.perf_counter() + 60 * args.minutes
    for part in args.parts:
        started = time.perf_counter()
        print(f"\n{part}", flush=True)
        if started > sizes.until:
            print(f"  left out: {args.minutes:g} minutes are over")
            continue
        PARTS[part](device, sizes)
        print(f"  ({part} took {time.perf_counter() - started:.0f} s)", flush=True)


def parity(device: torch.device, sizes: Sizes) -> None:
    """Print for each algorithm how far its weights after three steps lie from the CPU's, and its waits in a step."""
    catalogue, found, left = Catalogue(), list[tuple[float, float, str]](), list[str]()
    choose_kernels(setting())
    for name in sizes.algorithms:
        entry = catalogue.get("algorithm", name)
        if {"text_tower", "clip"} & {str(getattr(need, "what", need)) for need in entry.card.needs}:
            continue  # no weights of CLIP without a network
        if time.perf_counter() > sizes.until:
            left.append(name)
            continue
        expected, _ = three_steps(entry, torch.device("cpu"))
        weights, waits = three_steps(entry, device)
        distance = max(relative(one, weights[key]) for key, one in expected.items())
        found.append((distance, waits, name + " (draws)" * bool(entry.card.draws)))
    alike = sum(distance < ALIKE for distance, _, name in found if not name.endswith(")"))
    drawing = sum(name.endswith(")") for *_, name in found)
    print(f"  {len(found)} algorithms, {drawing} of which draw; of the others {alike} within {ALIKE:g}")
    print(f"  {'algorithm':24} {'distance':>9} {'waits a step':>13}")
    for distance, waits, name in sorted(found, reverse=True):
        print(f"  {name:24} {distance:9.1e} {waits:13.1f}")
    if left:
        print(f"  left out for lack of time: {', '.join(left)}")


def three_steps(entry: CatalogueEntry, device: torch.device) -> tuple[dict[str, Tensor], float]:
    """Take three steps; return the weights, on the CPU, and how often a step waited for the device on average."""
    rehearsal = Subject(entry, device).rehearse(3, 0, {"resnet_dropout": 0.0})
    waits, update = list[object](), rehearsal.algorithm.logged_update

    def counted(batches: Any) -> dict[str, Tensor]:
        with waiting(device, waits):
            return update(batches)

    vars(rehearsal.algorithm)["logged_update"] = counted
    rehearsal.until(3)
    return {key: value.cpu() for key, value in rehearsal.parameters().items()}, len(waits) / 3


@contextmanager
def waiting(device: torch.device, found: list[object]) -> Iterator[None]:
    """Record the operations of a block at which the host waits for the GPU.

    Args:
        device: Where the block computes; on a CPU, those at which a GPU would be waited for.
        found: Receives them.
    """
    if device.type != "cuda":
        with Reads() as reads:
            yield
        found += reads.found
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found += [warning for warning in caught if "synchronizing" in str(warning.message)]


def relative(one: Tensor, other: Tensor) -> float:
    """The largest distance of two tensors by the largest number in the first."""
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-12)) if one.numel() else 0.0


def step(device: torch.device, sizes: Sizes) -> None:
    """Time a training step in each variant, a bare loop, and one that waits for the loss."""
    bare = milliseconds(device, sizes, *plain_step(device, sizes, waits=False))
    loops = {
        "bare loop, fp32": bare,
        "the same, reading the loss each step": milliseconds(device, sizes, *plain_step(device, sizes, waits=True)),
    }
    if device.type == "cuda":
        loops["bare loop, fp32, in a CUDA graph"] = milliseconds(device, sizes, *captured_step(device, sizes))
    for name, (took, memory) in loops.items():
        print(f"  {name:38} {took:8.1f} ms  {bare[0] / took:5.2f}   {memory:6.2f} GB")
    times = {}
    for name, changes in sizes.variants.items():
        if time.perf_counter() > sizes.until:
            print(f"  {name:38} left out for lack of time")
            continue
        times[name], memory = milliseconds(device, sizes, *our_step(device, sizes, changes))
        print(f"  {name:38} {times[name]:8.1f} ms  {bare[0] / times[name]:5.2f}   {memory:6.2f} GB", flush=True)
    if {FASTEST, REPEATABLE} <= set(times):
        print(f"  deterministic takes {times[REPEATABLE] / times[FASTEST]:.2f} times as long, in {FASTEST}")


def captured_step(device: torch.device, sizes: Sizes) -> tuple[Callable[[], object], object]:
    """Capture a step of the bare loop in a CUDA graph.

    Returns:
        A function that replays the step, and the objects that have to stay alive for it.
    """
    choose_kernels(setting())
    network = build_network((3, sizes.side, sizes.side), CLASSES, of_network(sizes, {})).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-5, fused=True, capturable=True)
    x, y = inputs(device, sizes)
    x, y = torch.cat(x).float().div_(255), torch.cat(y)

    def made() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is allocated at the first steps may not lie in the graph
        for _ in range(3):
            made()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made()
    return graph.replay, (network, optimizer, x, y)


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


def our_step(
    device: torch.device, sizes: Sizes, changes: Mapping[str, Any], source: Iterator[Minibatch] | None = None
) -> tuple[Callable[[], object], object]:
    """Return a function that makes a step of ERM as the engine does, and the algorithm, to be kept in memory.

    Args:
        device: Where it computes.
        sizes: Of network and images.
        changes: Fields of the setting.
        source: Yields minibatches on the device; None: the same again and again.
    """
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
    positions = torch.arange(sizes.batch, device=device)
    minibatch = [(one, labels, positions, number) for number, (one, labels) in enumerate(zip(x, y, strict=True))]
    minibatches = source or repeat(minibatch)

    def made() -> object:
        return algorithm.logged_update([Batch(network.prepare(x), *rest) for x, *rest in next(minibatches)])

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
    """Count images a second of the loader processes of a run that has this machine's cores, alone and under a step."""
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
        minibatches, cores = Minibatches(ours.data, ours.run), usable_cores()
        workers = loader_processes(None, numbers_of(minibatches), device, cores)
        batches, count = load(minibatches, 0, 10**6, asked=None, device=device, threads=cores), 4 * sizes.steps
        for _ in range(sizes.warm):
            next(batches)
        start, seen = time.perf_counter(), 0
        for _ in range(count):
            seen += sum(len(x) for x, *_ in next(batches))
        rate = seen / (time.perf_counter() - start)
        print(f"  {workers} processes: {rate:,.0f} images a second", flush=True)
        fast = fastest(device)
        loaded, _ = milliseconds(device, sizes, *our_step(device, sizes, fast, batches))
        same, _ = milliseconds(device, sizes, *our_step(device, sizes, fast, repeat(next(batches))))
        print(f"  a step on loaded images {loaded:.1f} ms, on one minibatch {same:.1f} ms: {same / loaded:.2f}")
        del batches


def augment(device: torch.device, sizes: Sizes) -> None:
    """Compare the augmentation of a step's images on the device with the CPU path."""
    compare(device, DOMAINS * sizes.batch, sizes.warm)


def fastest(device: torch.device) -> Mapping[str, Any]:
    """The fields of the fastest setting that needs no compilation; a CPU's own where there is no GPU."""
    return VARIANTS[FASTEST] if device.type == "cuda" else {}


def runs(device: torch.device, sizes: Sizes) -> None:
    """Count the steps a second of several processes that share the device."""
    context = multiprocessing.get_context("spawn")
    for count in sizes.processes:
        if time.perf_counter() > sizes.until:
            print(f"  {count} at once: left out for lack of time")
            continue
        with context.Pool(count) as pool:
            found = pool.map(_rate, [(device.type, sizes)] * count, chunksize=1)
        memory = max(held for _, held in found)
        print(
            f"  {count} at once: {sum(rate for rate, _ in found):.1f} steps a second, {memory:.2f} GB each", flush=True
        )


def _rate(given: tuple[str, Sizes]) -> tuple[float, float]:
    """Steps a second of one process, and its peak memory in GB."""
    device, sizes = torch.device(given[0]), given[1]
    took, memory = milliseconds(device, sizes, *our_step(device, sizes, fastest(device)))
    return 1000 / took, memory


PARTS: Mapping[str, Callable[[torch.device, Sizes], None]] = {
    "parity": parity,
    "step": step,
    "loader": loader,
    "augment": augment,
    "runs": runs,
}
"""Name -> a part of the table."""


if __name__ == "__main__":
    main()
