"""Draws of one method trained together, by one vmapped pass a step, against the same runs one after the other.

    python benchmarks/stacked.py [--network stored] [--algorithms ERM SAM] [--draws 20] [--steps 600] [--device cpu]

Both sides execute the same runs from their claim to `done`, evaluations, records and checkpoints included, on rotated
digits in one process; they differ in learning rate, weight decay and the weights of penalties. Together, weights are
stacked: the runs' minibatches are read by one gather a domain, `torch.func.vmap` passes all runs through the method's
`loss`, one backward pass gives all gradients, and one Adam with a learning rate a run steps them. A step rule of two
passes displaces each run's weights by its own `displacement`. Times are the processor's. Aim: 3 times as fast.

This measures whether it would pay; `launch` trains each run by itself.
"""

from __future__ import annotations

import argparse
import logging
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from _measure import machine
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.run import Run
from dgbench.core.site import Site
from dgbench.data.views import Minibatches
from dgbench.execute.context import open_context
from dgbench.execute.job import run_job, write_times
from dgbench.execute.training import Training
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from dgbench.methods.rule import Rule
from dgbench.plan.asking import declare, open_facts
from dgbench.store.folder import Store

FROZEN = {"freeze": "featurizer", "augmentation": False, "stored_features": True}
NETWORKS: dict[str, dict[str, Any]] = {
    "linear": {"backbone": "Linear"},
    "stored": {"backbone": "resnet18", "pretrained": False, **FROZEN},
    "mlp": {"backbone": "MLP"},
    "cnn": {},
}
"""Settings by `--network`: a linear classifier on 64 pixels or on 512 stored features, an MLP, and a small CNN."""
OWN = ("lr", "weight_decay", "batch_size", "resnet_dropout")
"""Hyperparameters that no loss reads."""


class Sweep:
    """A folder with the runs of one method, of which the first is executed: it computes what all share."""

    def __init__(self, algorithm: str, args: argparse.Namespace) -> None:
        self.catalogue = Catalogue([])
        setting = {**NETWORKS[args.network], "steps": args.steps, "checkpoint_freq": args.evaluate_every}
        hparams = {"batch_size": args.batch, "resnet_dropout": 0.0}
        if algorithm == "VREx":  # `if` on a value that differs can't be mapped
            hparams["vrex_penalty_anneal_iters"] = 0
        asked = {"algorithms": [algorithm], "datasets": ["RotatedDigits"], "setting": setting, "hparams": hparams}
        fold = {"test_envs": ["75"], "single_test_envs": True}
        draws = {"n_hparams_from": 1, "n_hparams": args.draws + 2, "n_trials": 1}
        declaration, paths = declare({**asked, **fold, **draws}, self.catalogue)
        self.site = Site(paths=paths, device=args.device)
        self.runs = declaration.plan(open_facts(declaration, self.site, self.catalogue), self.catalogue).runs
        self.store = Store(Path(tempfile.mkdtemp(prefix="dgbench-benchmark-")))
        for run in self.runs:
            self.store.folder(run.id).create(run)
        self.alone(self.runs[0])

    def alone(self, run: Run) -> None:
        """Execute one run as a launch would."""
        job = {"root": str(self.store.root), "id": run.id, "site": self.site.to_json(), "keep": {}, "threads": 1}
        assert run_job(job, self.catalogue) == 0, run.name

    def together(self, runs: Sequence[Run]) -> float:
        """Execute runs as a group, and return the seconds of its steps."""
        group = Group([self.training(run) for run in runs])
        start = time.process_time()
        for step in range(runs[0].setting.steps):
            group.step(step)
            group.after_step(step)
        seconds = time.process_time() - start - group.evaluating
        for training in group.trainings:
            write_times(training.folder, time.time(), training.device)
            training.lease.confirm()
            training.folder.finish({})
            training.folder.remove_checkpoint()
            training.lease.release()
        return seconds

    def training(self, run: Run) -> Training:
        """A run that is ready for its first step, with its lease."""
        lease = self.store.folder(run.id).claim()
        assert lease
        context = open_context(run, self.store, self.site, self.catalogue, lease=lease.__enter__())
        training = Training(context, context.algorithm(begin=True, train=True))
        training._resume()
        training.algorithm.train()
        return training

    def records(self, runs: Sequence[Run]) -> list[float]:
        """Return all losses and accuracies that runs have recorded, and the scalars that their steps logged."""
        lines = [line for run in runs for line in self.store.folder(run.id).recorded()]
        scores = [value for line in lines for view in line["views"].values() for value in view.values()]
        return scores + [value for line in lines for value in line["train"].values()]


def turned(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a linear layer in a form whose stacked gradients take half the time of those of `F.linear`."""
    return (weight @ x.mT).mT + bias


class Loss(nn.Module):
    """An algorithm's objective as a module's `forward`, as `functional_call` needs it."""

    def __init__(self, algorithm: Algorithm) -> None:
        super().__init__()
        self.algorithm = algorithm

    def forward(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return name -> scalar."""
        return self.algorithm.objective(batches)


class Group:
    """Training runs of one method that take their steps together; their parameters are views of stacked tensors."""

    def __init__(self, trainings: list[Training]) -> None:
        self.trainings = trainings
        self.leader = trainings[0].algorithm
        self.loss = Loss(self.leader)
        hparams = [training.algorithm.hparams for training in trainings]
        device = trainings[0].device
        mapped = [name for name in asdict(hparams[0]) if len({getattr(h, name) for h in hparams}) > 1]
        self.given = SimpleNamespace(**asdict(hparams[0]))
        self.hparams = {
            name: torch.tensor([getattr(h, name) for h in hparams], device=device) for name in mapped if name not in OWN
        }
        self.lr, self.decay = (
            torch.tensor([getattr(h, name) for h in hparams], device=device) for name in ("lr", "weight_decay")
        )
        own = [dict(training.algorithm.named_parameters()) for training in trainings]
        learns = [name for name, parameter in own[0].items() if parameter.requires_grad and parameter.numel()]
        self.weights = {
            name: torch.stack([parameters[name].detach() for parameters in own]).requires_grad_() for name in learns
        }
        for i, parameters in enumerate(own):
            for name, stacked in self.weights.items():
                parameters[name].data = stacked.data[i]
        self.moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in self.weights.items()}
        self.minibatches = [Minibatches(training.data, training.run) for training in trainings]
        self.inputs, self.labels = [], []
        for view in self.minibatches[0].views:
            data = trainings[0].data
            everything = np.arange(len(data.examples[view.domain].labels))
            self.inputs.append(data.read(view.domain, everything, None).to(device))
            self.labels.append(torch.from_numpy(data.examples[view.domain].labels).to(device))
        self.evaluating = 0.0
        self.sums: dict[str, Tensor] = {}
        self.summed = 0

    def batches(self, step: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Inputs (K, B, ...), labels (K, B) and positions (K, B) of each domain."""
        found = ([], [], [])
        for domain, view in enumerate(self.minibatches[0].views):
            positions = np.stack([each._sampler(domain)[step] for each in self.minibatches])
            chosen = np.stack([each.data.indices[view][p] for each, p in zip(self.minibatches, positions, strict=True)])
            index = torch.from_numpy(chosen).to(self.lr.device)
            x = self.inputs[domain].index_select(0, index.flatten())
            for into, value in zip(
                found,
                (x.view(*index.shape, *x.shape[1:]), self.labels[domain][index], torch.from_numpy(positions)),
                strict=True,
            ):
                into.append(value)
        return found

    def gradients(self, batches: tuple[list[Tensor], ...]) -> dict[str, Tensor]:
        """Compute the gradients of all runs into `.grad` of the stacked weights; return name -> (K,) scalars."""

        def objective(weights: dict[str, Tensor], hparams: dict[str, Tensor], *tensors: list[Tensor]) -> Any:
            self.leader.hparams = SimpleNamespace(**{**vars(self.given), **hparams})
            rows = enumerate(zip(*tensors, strict=True))
            domains = [Batch(self.leader.network.prepare(x), y, positions, i) for i, (x, y, positions) in rows]
            return functional_call(self.loss, {f"algorithm.{n}": w for n, w in weights.items()}, (domains,))

        for weight in self.weights.values():
            weight.grad = None
        own = self.leader.hparams
        with patch.object(F, "linear", turned):
            parts = vmap(objective)(self.weights, self.hparams, *batches)
        self.leader.hparams = own
        parts["loss"].sum().backward()
        return {name: part.detach() for name, part in parts.items()}

    def step(self, step: int) -> None:
        """Make one step of all runs."""
        batches = self.batches(step)
        self.leader.step = step
        parts = self.gradients(batches)
        if isinstance(self.leader, Rule):
            with torch.no_grad():
                before = [weight.clone() for weight in self.weights.values()]
                for i, training in enumerate(self.trainings):
                    weights = [weight[i] for weight in self.weights.values()]
                    uphill = [weight.grad[i] for weight in self.weights.values() if weight.grad is not None]
                    torch._foreach_add_(weights, training.algorithm.displacement(weights, uphill))
            there = self.gradients(batches)["loss"]
            parts["sharpness"] = there - parts["loss"]
            with torch.no_grad():
                torch._foreach_copy_(list(self.weights.values()), before)
        self.adam(step + 1)
        self.sums = {name: self.sums.get(name, 0) + value for name, value in parts.items()}
        self.summed += 1

    @torch.no_grad()
    def adam(self, t: int) -> None:
        """Take Adam's step `t`, from 1, of all runs, each at its own rate and decay."""
        for name, weight in self.weights.items():
            shape = (-1,) + (1,) * (weight.dim() - 1)
            first, second = self.moments[name]
            assert weight.grad is not None
            gradient = torch.addcmul(weight.grad, self.decay.view(shape), weight)
            first.lerp_(gradient, 0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            length = second.sqrt().div_(math.sqrt(1 - 0.999**t)).add_(1e-8)
            weight.sub_((self.lr.view(shape) / (1 - 0.9**t)) * first / length)

    def after_step(self, step: int) -> None:
        """Report progress, and let each run evaluate itself where it is due."""
        for training in self.trainings:
            training.loop.step = step + 1
            training.lease.beat(step + 1, training.run.setting.steps)
        if step in self.trainings[0].evaluation_steps:
            start = time.process_time()
            for i, training in enumerate(self.trainings):
                training.loop.sums = {name: value[i] for name, value in self.sums.items()}
                training.loop.summed = dict.fromkeys(self.sums, self.summed)
                training.loop.due = True
                training._after_step()
            self.sums, self.summed = {}, 0
            self.evaluating += time.process_time() - start


def measure(algorithm: str, args: argparse.Namespace) -> None:
    """Measure one method and print its row: medians of rounds that execute each side in turn."""
    ratios, times, far = [], [], 0.0
    for _ in range(args.rounds):
        alone, together = Sweep(algorithm, args), Sweep(algorithm, args)
        runs = alone.runs[1:]
        start = time.process_time()
        for run in runs:
            alone.alone(run)
        theirs, start = time.process_time() - start, time.process_time()
        steps = together.together(runs)
        ours = time.process_time() - start
        ratios.append(theirs / ours)
        times.append([1e3 * seconds / len(runs) for seconds in (theirs, ours, steps)])
        pairs = zip(alone.records(runs), together.records(runs), strict=True)
        far = max(far, *(abs(a - b) / max(1.0, abs(a)) for a, b in pairs))
        for sweep in (alone, together):
            shutil.rmtree(sweep.store.root)
    theirs, ours, steps = map(statistics.median, zip(*times, strict=True))
    print(
        f"{algorithm:8} alone {theirs:5.0f} ms a run, together {ours:5.0f} ms, of them steps {steps:.0f} ms: "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times as fast; "
        f"records differ by {far:.0e}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, default="stored")
    parser.add_argument("--algorithms", nargs="+", default=["ERM", "VREx", "SAM"])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--evaluate_every", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)  # before the first run does, whose log has lines a run
    print(machine())
    print(f"{args.draws} draws, {args.network}, 5 x {args.batch} examples, {args.steps} steps")
    for algorithm in args.algorithms:
        measure(algorithm, args)


if __name__ == "__main__":
    main()
