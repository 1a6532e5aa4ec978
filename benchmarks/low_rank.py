"""Memory and time of training steps by low-rank changes (LoRA), beside those of all weights and those by peft's layers.

    python benchmarks/low_rank.py [--backbones vit_small_patch16_224] [--rank 8] [--batch 16] [--steps 3]

Each variant is a process of its own, since the peak of a process never falls. Memory is the peak less what the process
held before its first step, the optimizer's included; ratios are to the training of all weights.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time

import torch
from _measure import machine
from memory import peak

from dgbench.core.setting import setting
from dgbench.networks.low_rank import find_targets
from dgbench.networks.network import build_network

VARIANTS = ("all weights", "lora_rank", "layers of peft")


def main() -> None:
    """Measure each variant in a process of its own and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbones", nargs="+", default=["vit_small_patch16_224"])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.backbones[0], args.variant, args.rank, args.batch, args.steps)))
        return
    print(f"{machine()}; a batch of {args.batch} images of 224 x 224, one thread, rank {args.rank}")
    for backbone in args.backbones:
        print(backbone)
        whole = (0.0, 0.0)
        for variant in VARIANTS:
            flags = ["--backbones", backbone, "--rank", args.rank, "--batch", args.batch, "--steps", args.steps]
            words = [sys.executable, __file__, "--variant", variant, *map(str, flags)]
            learning, memory, seconds = json.loads(subprocess.check_output(words, text=True).splitlines()[-1])
            whole = whole if whole[0] else (memory, seconds)
            ratios = f"{memory / whole[0]:.2f} x, {seconds / whole[1]:.2f} x"
            print(f"  {variant:15} {learning:12,} learn {memory:6.2f} GB {seconds:6.2f} s   {ratios}", flush=True)


def measure(backbone: str, variant: str, rank: int, batch: int, steps: int) -> tuple[int, float, float]:
    """Measure the memory and the time of training steps on random images.

    Args:
        backbone: Name of the network.
        variant: One of `VARIANTS`.
        rank: Rank of the changes.
        batch: Images in a step.
        steps: Steps to take.

    Returns:
        Number of parameters that learn; peak memory in GB, less that before the first step; and processor time of the
        fastest step, in seconds.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    low_rank = setting(backbone=backbone, pretrained=False, lora_rank=rank)
    how = low_rank if variant == "lora_rank" else setting(backbone=backbone, pretrained=False)
    network = build_network((3, 224, 224), 7, how).train()
    if variant == "layers of peft":
        import peft

        targets = "|".join(map(re.escape, find_targets(network.featurizer, low_rank)))
        peft.inject_adapter_in_model(
            peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), network.featurizer
        )
    learning = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=1e-4)
    x, y, times = torch.randn(batch, 3, 224, 224), torch.arange(batch) % 7, []
    before = peak()
    for _ in range(steps):
        start = time.process_time()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
        times.append(time.process_time() - start)
    return sum(p.numel() for p in learning), peak() - before, min(times)


if __name__ == "__main__":
    main()
