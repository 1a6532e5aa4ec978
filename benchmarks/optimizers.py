"""Milliseconds of an optimizer's step, fused against PyTorch's other two forms, and how far their weights lie apart.

    python benchmarks/optimizers.py [--backbone resnet18] [--rounds 15]

`fused`, one kernel for a whole step, is what dgbench takes where PyTorch has it on every device. `foreach` has one for
each operation, `loop` one for each operation and parameter. Timed in turn on the same gradients. Apart: the largest
difference of a weight from that of `loop`, by the largest weight of its tensor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping

import torch
from _measure import machine
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from dgbench.core.setting import setting
from dgbench.methods.optimizers import make_optimizer
from dgbench.networks.network import build_network

FORMS: Mapping[str, Mapping[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
}
KINDS = {"adam": Adam, "adamw": AdamW, "sgd": SGD}


def steppers(name: str, start: list[Tensor]) -> dict[str, Optimizer]:
    """Optimizers of one kind over copies of the same weights, by form."""
    found = {}
    for form, options in FORMS.items():
        parameters = [torch.nn.Parameter(tensor.clone()) for tensor in start]
        if form == "fused":
            found[form] = make_optimizer(setting(optimizer=name), parameters, 1e-3, 1e-4, None)
            assert found[form].defaults["fused"], "what is measured is what runs take"
        else:
            more = {"momentum": 0.9} if name == "sgd" else {}
            found[form] = KINDS[name](parameters, lr=1e-3, weight_decay=1e-4, **more, **options)
    return found


def measure(name: str, start: list[Tensor], rounds: int, device: torch.device) -> str:
    """Step all forms in turn; returns a row."""
    optimizers = steppers(name, start)
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for number in range(rounds + 2):
        torch.manual_seed(number)
        gradients = [torch.randn_like(tensor) for tensor in start]
        for form, optimizer in optimizers.items():
            for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
                parameter.grad = gradient
            begin = time.perf_counter()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number > 1:  # the first makes the state
                times[form].append(time.perf_counter() - begin)
    weights = {form: optimizer.param_groups[0]["params"] for form, optimizer in optimizers.items()}
    ms = {form: 1000 * statistics.median(found) for form, found in times.items()}
    apart = {form: max(_apart(a, b) for a, b in zip(weights[form], weights["loop"], strict=True)) for form in FORMS}
    slower = {
        form: statistics.median(b / a for a, b in zip(times["fused"], times[form], strict=True)) for form in FORMS
    }
    ratios = (f"{slower[form]:.1f}" for form in ("foreach", "loop"))
    cells = (name, *(f"{ms[form]:.1f}" for form in FORMS), *ratios, f"{apart['fused']:.0e}", f"{apart['foreach']:.0e}")
    return " | ".join(cells)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max() / other.detach().abs().max().clamp(min=1e-12))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build_network((3, 224, 224), 7, setting(backbone=args.backbone, pretrained=False), 0.0).to(device)
    start = [parameter.detach() for parameter in network.parameters()]
    print(f"{machine()}, {torch.get_num_threads()} threads, {device}")
    print(f"{args.backbone}: {len(start)} tensors, {sum(tensor.numel() for tensor in start):,} numbers")
    print("optimizer | ms fused | foreach | loop | foreach / fused | loop / fused | apart: fused | foreach")
    for name in KINDS:
        print(measure(name, start, args.rounds, device), flush=True)


if __name__ == "__main__":
    main()
