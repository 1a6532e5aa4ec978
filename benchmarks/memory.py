"""Memory and time of training steps whose activations are computed twice, or whose batch passes in parts.

    python benchmarks/memory.py [--backbones resnet50 vit_small_patch16_224] [--batch 48] [--steps 3]

Each variant is a process of its own, since the peak of a process never falls. Memory is the peak less what the process
held before its first step; ratios are to the plain step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from _measure import machine

from dgbench.core.setting import setting
from dgbench.networks.network import build_network

VARIANTS = {
    "plain": {},
    "checkpoint_activations": {"checkpoint_activations": True},
    "microbatch 8": {"microbatch": 8},
    "both": {"checkpoint_activations": True, "microbatch": 8},
}


def main() -> None:
    """Measure each variant in a process of its own and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "vit_small_patch16_224"])
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.backbones[0], args.variant, args.batch, args.steps)))
        return
    print(f"{machine()}; a batch of {args.batch} images of 224 x 224, one thread")
    for backbone in args.backbones:
        print(backbone)
        plain = (0.0, 0.0)
        for variant in VARIANTS:
            flags = ["--backbones", backbone, "--batch", str(args.batch), "--steps", str(args.steps)]
            said = subprocess.check_output([sys.executable, __file__, "--variant", variant, *flags], text=True)
            memory, seconds = json.loads(said.splitlines()[-1])
            plain = plain if plain[0] else (memory, seconds)
            ratios = f"{memory / plain[0]:.2f} x, {seconds / plain[1]:.2f} x"
            print(f"  {variant:24} {memory:6.2f} GB {seconds:6.2f} s a step   {ratios}", flush=True)


def measure(backbone: str, variant: str, batch: int, steps: int) -> tuple[float, float]:
    """Measure the memory and the time of training steps on random images.

    Args:
        backbone: Name of the network.
        variant: A key of `VARIANTS`.
        batch: Images in a step.
        steps: Steps to take.

    Returns:
        Peak memory in GB, less that before the first step; and processor time of the fastest step, in seconds.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build_network((3, 224, 224), 7, setting(backbone=backbone, pretrained=False, **VARIANTS[variant])).train()
    x, y, times = torch.randn(batch, 3, 224, 224), torch.arange(batch) % 7, []
    before = peak()
    for _ in range(steps):
        start = time.process_time()
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        times.append(time.process_time() - start)
    return peak() - before, min(times)


def peak() -> float:
    """Return the largest resident size of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
