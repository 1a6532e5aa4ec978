"""Compare bf16 with fp32 updates of methods that evaluate gradients or features a small step away.

    python benchmarks/ascent_precision.py [--backbones SmallCNN resnet18] [--methods SAM GAM GR MIRO] [--batches 5]

A method trains some steps in float32; from there it computes one update in each precision, on the same minibatches.
Printed are the cosine between the two updates, and that between what the method adds to ERM's update (its update less
ERM's, each in its precision), with the ratio of their lengths: near 1 and 1 where bf16 sees what float32 sees. Medians
over minibatches. Convolutions multiply bf16's values and sum in float32, as processors that have bf16 do; computed in
float32, as those that don't take minutes for each.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from typing import Any

import torch
from _measure import machine
from torch import Tensor
from torch.nn import functional as F

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.setting import setting
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch, Task
from dgbench.networks.network import Network

_CONVOLVE = F.conv2d


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any) -> Tensor:
    """As autocast does it, of values rounded to bf16, with sums in float32 that are rounded at the end."""
    if not torch.is_autocast_enabled("cpu"):
        return _CONVOLVE(x, weight, bias, *how)
    with torch.autocast("cpu", enabled=False):
        x, weight = (tensor.bfloat16().float() for tensor in (x, weight))
        return _CONVOLVE(x, weight, None if bias is None else bias.bfloat16().float(), *how).bfloat16()


METHODS = ("ERM", "SAM", "GAM", "GR", "MIRO")
CLASSES, DOMAINS = 7, 3


def minibatches(network: Network, side: int, size: int, number: int) -> list[Batch]:
    """Noise in the colour of each class, a shade of its own in each domain."""
    generator = torch.Generator().manual_seed(number)
    colours = torch.randint(60, 190, (CLASSES, 3, 1, 1), generator=torch.Generator().manual_seed(1))
    found = []
    for domain in range(DOMAINS):
        y = torch.randint(CLASSES, (size,), generator=generator)
        noise = torch.randint(-60, 60, (size, 3, side, side), generator=generator)
        x = (colours[y] + noise + 10 * domain).clamp(0, 255).to(torch.uint8)
        found.append(Batch(network.prepare(x), y, torch.arange(size), domain))
    return found


def made(method: str, backbone: str, side: int, size: int) -> Algorithm:
    """A method on a network, with its defaults; of plain SGD, whose update is the gradient that the method leaves."""
    cls: Any = Catalogue().get("algorithm", method).load()
    how = setting(backbone=backbone, optimizer="sgd", batch_norm="live", pretrained=backbone.startswith("tf_"))
    hparams, shape = cls.Hparams(batch_size=size, lr=1e-2), (3, side, side)
    torch.manual_seed(0)
    network = cls.make_network(shape, CLASSES, hparams, how)
    algorithm: Algorithm = cls(network, hparams, Task(shape, CLASSES, ((size,) * CLASSES,) * DOMAINS), how)
    return algorithm.train()


def update(algorithm: Algorithm, batches: list[Batch], precision: str) -> list[Tensor]:
    """Return the update direction of the network's parameters, computed by a copy."""
    other = copy.deepcopy(algorithm)
    for part in other.modules():
        if isinstance(part, Network):
            part.precision = precision
    other.build_optimizers()
    torch.manual_seed(2)
    other.update(batches)
    return [p.grad.double() for p in other.network.parameters() if p.grad is not None]


def erms(algorithm: Algorithm, batches: list[Batch], precision: str) -> list[Tensor]:
    """ERM's update of the same network."""
    other = copy.deepcopy(algorithm)
    other.network.precision = precision
    torch.manual_seed(2)
    other.network.zero_grad()
    other.joint_loss(batches).backward()
    return [p.grad.double() for p in other.network.parameters() if p.grad is not None]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbones", nargs="+", default=["SmallCNN", "resnet18"])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels (64)")
    parser.add_argument("--batch", type=int, default=8, help="images of each domain in a step (8)")
    parser.add_argument("--batches", type=int, default=5, help="minibatches to measure on (5)")
    parser.add_argument("--warmup", type=int, default=5, help="steps before (5)")
    args = parser.parse_args()
    print(machine())
    F.conv2d = convolve
    for backbone in args.backbones:
        for method in args.methods:
            algorithm = made(method, backbone, args.side, args.batch)
            for number in range(args.warmup):
                algorithm.step = number
                algorithm.update(minibatches(algorithm.network, args.side, args.batch, number))
            whole, added, lengths = [], [], []
            for number in range(100, 100 + args.batches):
                batches = minibatches(algorithm.network, args.side, args.batch, number)
                full, half = (flat(update(algorithm, batches, precision)) for precision in ("fp32", "bf16"))
                whole.append(torch.cosine_similarity(full, half, dim=0).item())
                if method != "ERM":
                    more, less = (
                        full - flat(erms(algorithm, batches, "fp32")),
                        half - flat(erms(algorithm, batches, "bf16")),
                    )
                    added.append(torch.cosine_similarity(more, less, dim=0).item())
                    lengths.append((less.norm() / more.norm()).item())
            beside = (
                f", of what it adds {statistics.median(added):.3f}, {statistics.median(lengths):.2f} times as long"
                if added
                else ""
            )
            print(f"{backbone} {method}: cosine of the updates {statistics.median(whole):.4f}{beside}", flush=True)


if __name__ == "__main__":
    main()
