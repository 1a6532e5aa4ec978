"""What precision, memory order and compilation make of a training step, against float32 as PyTorch does it.

    python benchmarks/precision.py [--backbones SmallCNN resnet18 tf_efficientnet_lite0] [--side 64] [--batch 32]

A step is forward, backward and Adam on random images. Variants are timed in turn, round by round, so that what else the
machine does hits all of them; the ratio is the median over the rounds of float32's time by the variant's, above 1 where
the variant is faster. The first step, in which `compile` compiles, is told apart. Nothing is claimed of accuracy here:
tests/networks/test_precision.py compares it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from _measure import machine
from torch.nn import functional as F

from dgbench.core.machine import pick_device
from dgbench.core.setting import setting
from dgbench.networks.network import build_network

VARIANTS: dict[str, dict[str, object]] = {
    "fp32": {},
    "channels_last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    "bf16 + channels_last": {"precision": "bf16", "channels_last": True},
    "compile": {"compile": True},
    "compile + channels_last": {"compile": True, "channels_last": True},
    "compile + bf16": {"compile": True, "precision": "bf16"},
}


def step_of(
    backbone: str, side: int, batch: int, device: torch.device, variant: dict[str, object]
) -> Callable[[], None]:
    """A training step that waits until the device has made it."""
    torch.manual_seed(0)
    how = setting(backbone=backbone, pretrained=False, **variant)
    network = build_network((3, side, side), 10, how).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    x = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    y = torch.arange(batch, device=device) % 10

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(network(network.prepare(x)), y)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def seconds(step: Callable[[], None]) -> float:
    """One step's."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbones", nargs="+", default=["SmallCNN", "resnet18", "tf_efficientnet_lite0"])
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels (64)")
    parser.add_argument("--batch", type=int, default=32, help="images in a step (32)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    args = parser.parse_args()
    device = pick_device(args.device)
    print(f"{machine()}, {torch.get_num_threads()} threads, {device.type}")
    for backbone in args.backbones:
        print(f"{backbone}, {args.batch} images of {args.side} x {args.side}")
        names = dict.fromkeys(["fp32", *args.variants])
        steps = {name: step_of(backbone, args.side, args.batch, device, VARIANTS[name]) for name in names}
        first = {name: seconds(step) for name, step in steps.items()}
        for step in steps.values():
            step()
        rounds = [{name: seconds(step) for name, step in steps.items()} for _ in range(args.rounds)]
        for name in names:
            median = statistics.median(times[name] for times in rounds)
            ratio = statistics.median(times["fp32"] / times[name] for times in rounds)
            print(f"  {name:<24} {1000 * median:8.1f} ms   ratio {ratio:5.2f}   first step {first[name]:6.1f} s")


if __name__ == "__main__":
    main()
