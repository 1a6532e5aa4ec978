"""dgbench's training step against a bare PyTorch loop with the same model, data, batch and optimizer.

    python benchmarks/step.py [--dataset RotatedDigits28] [--steps 20] [--rounds 7]

Both draw minibatches, run forward, backward and Adam; dgbench also seeds the generators, keeps running means and
hands batches to an algorithm. Aim: reference / dgbench >= 0.95.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _measure import machine, paired, training
from torch.nn import functional as F

from dgbench.data.views import Minibatches
from dgbench.networks.network import build_network


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", default="RotatedDigits28")
    parser.add_argument("--algorithm", default="ERM")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    include = Path(__file__).with_name("digits28.py")
    ours = training(include, algorithms=[args.algorithm], datasets=[args.dataset], setting={"steps": 10**6})
    minibatches = Minibatches(ours.data, ours.run)
    device, views, batch_size = ours.device, ours.run.fold.train, int(ours.run.method.hparams["batch_size"])
    network = build_network(ours.data.input_shape, 10, ours.run.setting).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    inputs = {view: torch.from_numpy(ours.data.examples[view.domain].inputs[ours.data.indices[view]]) for view in views}
    labels = {view: torch.from_numpy(ours.data.labels(view)) for view in views}

    def bare() -> None:
        total = torch.zeros((), device=device)
        for _ in range(args.steps):
            chosen = {view: torch.randint(len(labels[view]), (batch_size,)) for view in views}
            x = torch.cat([inputs[view][i] for view, i in chosen.items()]).to(device).float().div_(255)
            y = torch.cat([labels[view][i] for view, i in chosen.items()]).to(device)
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()

    def dgbench() -> None:
        start = ours.loop.step
        for step in range(start, start + args.steps):
            ours._step(step, minibatches[step])
        (ours.loop.sums["loss"]).item()

    ours.algorithm.train()
    bare()
    dgbench()
    print(machine())
    print(f"{args.algorithm} on {args.dataset}: {args.steps} steps of {len(views)} x {batch_size} examples")
    paired(dgbench, bare, args.rounds)


if __name__ == "__main__":
    main()
