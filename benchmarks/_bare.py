"""The runs of a sweep as a bare loop: plain PyTorch without dgbench's start, data, folder, records and checkpoints.

    python benchmarks/_bare.py RUNS.json

`small_runs.py` starts it beside the sweep. For each run the same network, optimizer, number of steps and size of
minibatches, and after the same steps the accuracy and loss on the same views, from tensors in memory. Printed is a line
of JSON: the CPU seconds of the imports, and those of each run.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

View = tuple[Tensor, Tensor]
"""Inputs (n, 1, 8, 8) in [0, 1] and labels (n,)."""


def network() -> nn.Module:
    """Build dgbench's network for images of 8 x 8."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.GroupNorm(8, 16),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.GroupNorm(8, 32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


@torch.no_grad()
def evaluate(model: nn.Module, views: list[View]) -> list[tuple[float, float]]:
    """Return accuracy and loss on each view."""
    model.eval()
    logits = [(model(x), y) for x, y in views]
    model.train()
    return [((z.argmax(1) == y).double().mean().item(), F.cross_entropy(z.double(), y).item()) for z, y in logits]


def train(run: dict[str, Any], domains: list[View], views: list[View]) -> list[list[tuple[float, float]]]:
    """Train one run; return its evaluations."""
    torch.manual_seed(0)
    model, size, found = network(), run["batch_size"], []
    optimizer = torch.optim.Adam(model.parameters(), lr=run["lr"], weight_decay=run["weight_decay"], fused=True)
    for step in range(run["steps"]):
        drawn = [(x, y, torch.randint(len(y), (size,))) for x, y in domains]
        logits = model(torch.cat([x[positions] for x, _, positions in drawn]))
        loss = F.cross_entropy(logits, torch.cat([y[positions] for _, y, positions in drawn]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step in run["evaluated"]:
            found.append(evaluate(model, views))
    return found


def main() -> None:
    """Train all runs of a file, and print the CPU seconds of each as JSON."""
    torch.set_num_threads(1)
    with open(sys.argv[1]) as file:
        runs = json.load(file)
    imports = time.process_time()
    pool = torch.load(runs["data"])
    seconds = []
    for run in runs["runs"]:
        domains, views = ([pool[name] for name in run[which]] for which in ("domains", "views"))
        start = time.process_time()
        train(run, domains, views)
        seconds.append(time.process_time() - start)
    print(json.dumps({"imports": imports, "runs": seconds}))


if __name__ == "__main__":
    main()
