"""dgbench's training step against a bare PyTorch loop with the same model, data, batch and optimizer.

    python benchmarks/step.py [--algorithm ERM] [--dataset RotatedDigits28] [--steps 20] [--rounds 7]

Both draw minibatches and make the method's passes, its arithmetic and Adam's steps; dgbench also seeds the generators,
keeps running means and hands batches to an algorithm. Times are the processor's, of one thread. Aim: reference /
dgbench >= 0.95.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from _measure import machine, paired, training
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.data.views import Minibatches
from dgbench.networks.network import build_network

Domains = list[tuple[Tensor, Tensor]]
"""Inputs and labels of each."""


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """Take one step of the optimizer down a loss; return the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def joint_loss(network: nn.Module, domains: Domains) -> Tensor:
    """Return the mean loss over the examples of all domains, from one pass."""
    return F.cross_entropy(network(torch.cat([x for x, _ in domains])), torch.cat([y for _, y in domains]))


def erm(network: nn.Module, optimizer: torch.optim.Optimizer, domains: Domains) -> Tensor:
    """Take a step of ERM."""
    return descend(optimizer, joint_loss(network, domains))


def vrex(network: nn.Module, optimizer: torch.optim.Optimizer, domains: Domains) -> Tensor:
    """Take a step of VREx before its annealing step."""
    logits = network(torch.cat([x for x, _ in domains])).split([len(y) for _, y in domains])
    losses = torch.stack([F.cross_entropy(z, y) for z, (_, y) in zip(logits, domains, strict=True)])
    return descend(optimizer, losses.mean() + (losses - losses.mean()).square().mean())


def sam(network: nn.Module, optimizer: torch.optim.Optimizer, domains: Domains) -> Tensor:
    """Take a step of SAM of radius 0.05."""
    weights = list(network.parameters())
    loss = joint_loss(network, domains)
    gradients = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        uphill = torch._foreach_mul(gradients, 0.05 / (norm + 1e-12))
        start = [weight.clone() for weight in weights]
        torch._foreach_add_(weights, uphill)
    optimizer.zero_grad(set_to_none=True)
    joint_loss(network, domains).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        torch._foreach_copy_(weights, start)
    optimizer.step()
    return loss.detach()


def fish(network: nn.Module, optimizer: torch.optim.Optimizer, domains: Domains) -> Tensor:
    """Take a step of ERM a domain, and go half of the way."""
    weights = list(network.parameters())
    start = [weight.detach().clone() for weight in weights]
    losses = [descend(optimizer, joint_loss(network, [domain])) for domain in domains]
    with torch.no_grad():
        torch._foreach_lerp_(weights, start, 0.5)
    return torch.stack(losses).mean()


BARE: Mapping[str, Callable[[nn.Module, torch.optim.Optimizer, Domains], Tensor]] = {
    "ERM": erm,
    "VREx": vrex,
    "SAM": sam,
    "Fish": fish,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", default="RotatedDigits28")
    parser.add_argument("--algorithm", default="ERM", choices=BARE)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    include, step = Path(__file__).with_name("digits28.py"), BARE[args.algorithm]
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
            domains = [
                (inputs[view][i].to(device).float().div_(255), labels[view][i].to(device)) for view, i in chosen.items()
            ]
            total += step(network, optimizer, domains)
        total.item()

    def dgbench() -> None:
        start = ours.loop.step
        for number in range(start, start + args.steps):
            ours._step(number, minibatches[number])
        (ours.loop.sums["loss"]).item()

    ours.algorithm.train()
    bare()
    dgbench()
    print(machine())
    print(f"{args.algorithm} on {args.dataset}: {args.steps} steps of {len(views)} x {batch_size} examples")
    paired(dgbench, bare, args.rounds, clock=time.process_time)


if __name__ == "__main__":
    main()
