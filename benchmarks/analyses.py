"""What Sharpness takes on MNIST_CNN, beside the same searches that share nothing.

    python benchmarks/analyses.py [--images 256] [--rounds 3] [--double]

In the reference each search takes the gradient at the weights by itself, and images lie in PyTorch's default order.
Printed are seconds of the processor, their ratio, how far the numbers differ, and the seconds that 2,000 images take at
this rate. With `--double` both compute in float64, where the numbers agree to rounding.
"""

from __future__ import annotations

import argparse
import time

import torch
from _measure import machine, paired
from torch import nn

from dgbench.analyses.sharpness import Sharpness
from dgbench.core.protocol import View
from dgbench.core.setting import setting
from dgbench.methods.analysis import Batches, FinishedModel, Views, surface_of
from dgbench.methods.sharpness import adaptive_scale, average_sharpness, step_sharpness, worst_sharpness
from dgbench.networks.network import build_network

VIEW = View("noise", "in")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=256, help="of 28 x 28 pixels (256)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--double", action="store_true", help="compute in float64")
    args = parser.parse_args()
    print(machine())
    torch.manual_seed(0)
    network = build_network((2, 28, 28), 10, setting(backbone="MNIST_CNN")).eval()
    x, y = torch.randn(args.images, 2, 28, 28), torch.randint(10, (args.images,))
    if args.double:
        network, x = network.double(), x.double()
    h = Sharpness.Hparams()
    plain = list(zip(x.split(h.m), y.split(h.m), strict=True))
    ordered = [(a.contiguous(memory_format=torch.channels_last), b) for a, b in plain]
    ours, theirs = dict[str, float](), dict[str, float]()
    seconds = list[float]()

    def measure() -> None:
        start = time.process_time()
        ours.update(measured(network, ordered, h))
        seconds.append(time.process_time() - start)

    paired(measure, lambda: theirs.update(apart(network, plain, h)), args.rounds, time.process_time)
    worst = max(abs(ours[name] - value) / abs(value) for name, value in theirs.items())
    print(f"numbers differ by at most {worst:.1e} of their size")
    print(f"2,000 images: {min(seconds) * 2000 / args.images:.0f} s of the processor")


def measured(network: nn.Module, batches: Batches, h: Sharpness.Hparams) -> dict[str, float]:
    """Return the measures of sharpness on one view, by name."""
    model = FinishedModel("", "", 0, 0, lambda: network, dict, dict)
    analysis = Sharpness(h, torch.Generator().manual_seed(0))
    found: dict[str, float] = {}
    for _, numbers in analysis.measure([model], Views((VIEW,), (), lambda *_: batches)):
        found.update(numbers)  # type: ignore[arg-type]
    return found


def apart(network: nn.Module, batches: Batches, h: Sharpness.Hparams) -> dict[str, float]:
    """Return the same numbers, each by a surface of its own."""
    whole = surface_of(network, batches)
    scale, generator = adaptive_scale(whole.origin), torch.Generator().manual_seed(0)
    average = average_sharpness(whole, h.rho_average, scale, "l2", h.steps, generator)
    found = {"average_l2": average.value, "average_l2_error": average.error}
    for batch in batches:
        share = len(batch[1]) / whole.examples

        def add(name: str, value: float, share: float = share) -> None:
            found[name] = found.get(name, 0.0) + share * value

        add("worst_l2", worst_sharpness(whole.part([batch]), h.rho_l2, scale, "l2", h.steps))
        add("worst_linf", worst_sharpness(whole.part([batch]), h.rho_linf, scale, "linf", h.steps))
        add("sam", step_sharpness(whole.part([batch]), h.rho_sam))
        box = worst_sharpness(whole.part([batch]), h.epsilon, whole.origin.abs() + 1, "linf", h.steps)
        add("box", 100 * box / (1 + whole.part([batch]).loss()))
    return found


if __name__ == "__main__":
    main()
