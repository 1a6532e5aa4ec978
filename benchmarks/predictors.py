"""What merging and adapting cost, by a step and an evaluation of ERM on the same network, beside what cards let expect.

    OMP_NUM_THREADS=1 python benchmarks/predictors.py [NAME ...] [--members 5] [--rounds 3]

All on a ResNet-18 with 28 x 28 images of ten classes. Times are CPU seconds, in turn with those of ERM.

Mergers: the merge of members without the computations that the engine does for it, which are counted: validation
passes and Fisher information, by its examples. Each model that a merger yields is evaluated, like a step of training.

Adapters: batches of 32 inputs, by ERM's evaluation of the same inputs. Expected are the passes on the card, a backward
pass being as long as two forward passes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from _measure import machine

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.conformance.finished import Fleet, baseline, fleet_in, resolved
from dgbench.conformance.worlds import World
from dgbench.core.setting import setting
from dgbench.methods.average import Weights
from dgbench.methods.merger import Tools

BATCH, BATCHES = 32, 2
CPU = torch.device("cpu")
WORLD = World(
    *("images", "classification", (1, 28, 28), 10),
    setting(steps=60, backbone="resnet18", pretrained=False, batch_norm="live"),
)


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds that it takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def against(work: Callable[[], Any], reference: Callable[[], Any], rounds: int) -> float:
    """The median ratio of two timings, in turn."""
    return statistics.median(seconds(work) / seconds(reference) for _ in range(rounds))


def merging(entry: CatalogueEntry, of: Fleet, step: Callable[[], Any], rounds: int) -> tuple[str, ...]:
    """A row of the table of mergers."""
    cls, card = entry.load(), entry.card
    members = of.members()[: 1 if card.each else None]
    own, scores, fishers, models = of.tools(), list[int](), list[int](), list[int]()
    ones = {name: torch.ones_like(p) for name, p in of.rehearsal.algorithm.named_parameters()}

    def score(weights: Weights) -> float:
        scores.append(1)
        return float(len(scores))

    def fisher(weights: Weights, examples: int) -> Weights:
        fishers.append(examples)
        return {name: tensor.clone() for name, tensor in ones.items()}

    tools = Tools(score, own.initial, fisher, 10_000, own.statistics, own.symmetries)

    def work() -> None:
        scores.clear(), fishers.clear(), models.clear()
        torch.manual_seed(0)
        merger = cls(cls.Hparams(**resolved(entry, 0)))
        if card.ensemble:
            models.extend(1 for _ in merger.ensemble(members))
        else:
            models.extend(1 for _ in merger.candidates(members, tools))

    ratio = against(work, step, rounds)
    return entry.name, str(len(models)), str(len(scores)), f"{sum(fishers):,}" if fishers else "0", f"{ratio:.2f}"


def adapting(entry: CatalogueEntry, of: Fleet, x: torch.Tensor, rounds: int) -> tuple[str, ...]:
    """A row of the table of adapters."""
    cls, algorithm = entry.load(), of.rehearsal.algorithm.eval()
    batches = torch.split(x, BATCH)

    @torch.no_grad()
    def evaluate() -> None:
        for batch in batches:
            algorithm(batch)

    adapter = cls(copy.deepcopy(algorithm.network), cls.Hparams(**resolved(entry, 0)))
    if entry.card.needs_source:
        adapter.begin((algorithm.network.prepare(seen), y) for seen, y in of.rehearsal.seen)
    ratio = against(lambda: [adapter.predict(batch) for batch in batches], evaluate, rounds)
    expected = entry.card.forwards + 2 * entry.card.backwards
    passes = f"{entry.card.forwards:g} + {entry.card.backwards:g}"
    return entry.name, passes, f"{expected:.2f}", f"{ratio:.2f}", f"{ratio / expected:.2f}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table in Markdown."""
    print("| " + " | ".join(head) + " |\n|---|" + "---:|" * (len(head) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    catalogue = Catalogue()
    of = fleet_in(WORLD, CPU, args.members)
    rehearsal = of.rehearsal
    rehearsal.sizes = [BATCH, BATCH]
    # The first step makes the optimizer's state.
    rehearsal.algorithm.train().update(rehearsal.batches(0))

    def step() -> None:
        rehearsal.algorithm.train().update(rehearsal.batches(1))

    chosen = {
        kind: [entry for name, entry in catalogue.of_kind(kind).items() if not args.names or name in args.names]
        for kind in ("merger", "adapter")
    }
    if chosen["merger"]:
        rows = [merging(entry, of, step, args.rounds) for entry in chosen["merger"]]
        table(("merger", "models", "validation passes", "Fisher examples", "merge, in steps of ERM"), rows)
    if chosen["adapter"]:
        x = rehearsal.algorithm.network.prepare(torch.randn(BATCH * BATCHES, 1, 28, 28))
        rows = [adapting(entry, of, x, args.rounds) for entry in chosen["adapter"]]
        table(("adapter", "passes", "expected", "measured", "measured / expected"), rows)
    print(f"{machine()}; {args.members} members of a ResNet-18, {baseline(CPU).entry.name}'s step of 2 x {BATCH}:")
    print(f"{1000 * statistics.median(seconds(step) for _ in range(args.rounds)):.0f} ms of CPU time")


if __name__ == "__main__":
    main()
