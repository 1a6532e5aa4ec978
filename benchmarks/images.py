"""Training images from the cache against DomainBed's pipeline of Pillow and torchvision, on one core.

    python benchmarks/images.py [--rounds 9]

Photographs are cropped from the two that scikit-learn brings along and written as JPEGs, of 227 x 227 (like PACS) and
of 1024 x 747 (like TerraIncognita). Rates are by processor time and measured in turn, so that a busy machine matters
little. dgbench hands on bytes, which a device normalizes: the second ratio is with normalization on the same core. Aim:
9 times as fast at 227 x 227 and 22 times at 1024 x 747; 4 workers hold at most 1 GB beyond the cache.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from _measure import machine, training
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision import transforms

from dgbench.data.cache import CachedImages, open_images
from dgbench.data.views import Minibatches
from dgbench.datasets.folder import folder
from dgbench.networks.network import IMAGENET_MEAN, IMAGENET_STD

SIZES = {(227, 227): 900, (1024, 747): 240}
"""Width and height -> images."""
BATCH, SIDE = 32, 224
WORKERS = 4
REFERENCE = transforms.Compose(
    [
        transforms.RandomResizedCrop(SIDE, scale=(0.7, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(0.3, 0.3, 0.3, 0.3),
        transforms.RandomGrayscale(),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
)
"""DomainBed's transform of training images."""


def write_photos(root: Path, width: int, height: int, count: int) -> None:
    """So many different photographs of that size, in 3 domains of 2 classes."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for i in range(count):
        crop_width = int(rng.integers(250, 500))
        crop_height = min(420, crop_width * height // width)
        left, upper = int(rng.integers(640 - crop_width)), int(rng.integers(427 - crop_height))
        box = (left, upper, left + crop_width, upper + crop_height)
        pixels = np.asarray(photos[i % 2].resize((width, height), Image.Resampling.BICUBIC, box))
        grainy = pixels + rng.normal(0, 3, (height, width, 1))  # enlarged, it has lost the detail of a photograph
        path = root / "abc"[i % 3] / "xy"[i // 3 % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(path, quality=95)


def reference(paths: Iterable[Path]) -> Tensor:
    """A minibatch as DomainBed makes it."""
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(REFERENCE(image.convert("RGB")))
    return torch.stack(images)


def normalised(x: Tensor) -> Tensor:
    """Bytes as a network takes them."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (x.float().div_(255) - mean).div_(std)


def seconds_of(thing: Callable[[], object]) -> float:
    """Processor time."""
    start = time.process_time()
    thing()
    return time.process_time() - start


def compare(images: CachedImages, paths: list[Path], rounds: int) -> None:
    """Time minibatches of the three in turn, and print medians."""
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {"dgbench": [], "normalised": [], "reference": []}
    for i in range(rounds + 1):
        rows = rng.integers(len(paths), size=BATCH)
        many = np.tile(rows, 8)
        found = {
            "dgbench": seconds_of(lambda rows=many: images.batch(rows, SIDE, SIDE, rng)) / 8,
            "normalised": seconds_of(
                lambda rows=many: [
                    normalised(torch.from_numpy(images.batch(part, SIDE, SIDE, rng))) for part in np.split(rows, 8)
                ]
            )
            / 8,
            "reference": seconds_of(lambda rows=rows: reference(paths[row] for row in rows)),
        }
        for name, seconds in found.items():
            times[name] += [seconds] * (i > 0)  # the first warms up
    middle = {name: statistics.median(of_one) for name, of_one in times.items()}
    for name, seconds in middle.items():
        spread = f"{BATCH / max(times[name]):,.0f} to {BATCH / min(times[name]):,.0f}"
        print(f"  {name:<11}{BATCH / seconds:8,.0f} images/s (median of {rounds}; {spread})")
    print(
        f"  reference / dgbench: {middle['reference'] / middle['dgbench']:.1f}, "
        f"normalised too: {middle['reference'] / middle['normalised']:.1f}"
    )


def measure(root: Path, size: tuple[int, int], rounds: int) -> None:
    """Build a cache, and read it."""
    write_photos(root, *size, SIZES[size])
    cache = folder(path=root, image_size=SIDE).image_cache()
    start, used = time.perf_counter(), time.process_time()
    images = open_images(cache)
    wall, used = time.perf_counter() - start, time.process_time() - used
    print(
        f"{size[0]} x {size[1]}: cache of {images.index.size / SIZES[size] / 1e3:,.0f} kB an image, built in "
        f"{wall:.1f} s ({used:.1f} s of processor time) for {SIZES[size]:,} images, {SIZES[size] / used:,.0f} a second"
    )
    compare(images, list(cache.paths()), rounds)


def memory_of(pid: int, file: str) -> int:
    """Bytes that a process holds, its share of what it shares included, but not what it has mapped of a file."""
    total, counts = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line.startswith("Pss:"):
            total += int(line.split()[1]) * 1024 * counts
        elif not line.split(maxsplit=1)[0].endswith(":"):
            counts = not line.endswith(file)
    return total


def workers(root: Path) -> None:
    """Print what loader processes hold in the middle of a run."""
    how = {"backbone": "resnet18", "pretrained": False, "steps": 10**4}
    ours = training(algorithms=["ERM"], datasets=[f"folder:{root}"], test_envs=["c"], setting=how)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # 4 is what is to be measured
        minibatches = Minibatches(ours.data, ours.run).between(0, 10**4, WORKERS)
        for _ in range(30):
            next(minibatches)
    pids = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    held = [memory_of(pid, "/pixels") for pid in pids]
    print(f"{len(pids)} loader processes hold {sum(held) / 1e6:,.0f} MB beyond the cache (proportional set size)")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory(prefix="dgbench-benchmark-") as place:
        for width, height in SIZES:
            measure(Path(place) / f"{width}", (width, height), args.rounds)
        workers(Path(place) / "227")


if __name__ == "__main__":
    main()
