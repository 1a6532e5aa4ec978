"""Estimate the cost of a plan before it is launched, and refuse plans whose data are too small or outputs too large."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import Problems
from dgbench.core.protocol import IN, OUT, View
from dgbench.core.run import CHOSEN_BY, MODEL, Run
from dgbench.core.site import saved_models
from dgbench.core.wording import format_bytes
from dgbench.plan.plan import Plan
from dgbench.plan.work import Workload, evaluated_examples, view_size

_BESIDE = 16
"""Bytes of label and position that are kept beside the logits of an example."""
_MOST_SAVED = 2**34
"""Most bytes of logits that a run may save; it holds them in memory until they are written."""


@dataclass
class Cost:
    """Sums over all runs of a plan, less the part that its search will drop."""

    runs: Counter[tuple[str, str]]
    """(kind, method) -> number of runs."""
    steps: float = 0.0
    """Optimizer steps."""
    passes: float = 0.0
    """Examples trained on, weighted by the passes of their method so that ERM's count 1. A forward pass counts 1/3 and
    a backward pass 2/3.
    """
    evaluated: float = 0.0
    """Examples predicted, over all predictors and evaluations. A model that is both best and last counts twice."""
    analyzed: float = 0.0
    """Examples that analyses pass through models, by what their cards say; a backward pass counts as two."""
    models: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(data set, backbone) -> number of models whose weights stay on disk."""
    predictions: float = 0.0
    """Bytes of kept predictions, at most: one model may be that of several selectors, or come after a better one."""

    @property
    def kept(self) -> int:
        """Return the number of models whose weights stay on disk."""
        return self.models.total()

    def lines(self, weights: float = 0.0) -> Iterator[str]:
        """Yield the sums as lines for people.

        Args:
            weights: Bytes of the weights of all kept models, about; 0: unknown.
        """
        total = sum(self.runs.values())
        yield f"{total:,} runs"
        for (kind, method), count in sorted(self.runs.items(), key=lambda item: (-item[1], item[0])):
            yield f"  {count:>9,}  {kind:<6} {method}"
        yield f"{self.steps:,.0f} optimizer steps"
        yield f"{_amount(self.passes)} examples passed forward and backward in training"
        yield f"{_amount(self.evaluated)} examples evaluated"
        if self.analyzed:
            yield f"{_amount(self.analyzed)} examples passed through models by analyses, about"
        if self.kept:
            yield f"{self.kept:,} models kept on disk" + (f", about {format_bytes(weights)}" if weights else "")
        if self.predictions:
            yield f"{format_bytes(self.predictions)} of predictions kept on disk, at most"


def _amount(number: float) -> str:
    """Format a large number, in millions from 1e6."""
    return f"{number / 1e6:,.1f} million" if number >= 1e6 else f"{number:,.0f}"


def cost_of(plan: Plan, catalogue: Catalogue, *, save_models: str = "", save_predictions: str = "") -> Cost:
    """Return the cost of all runs of a plan.

    Args:
        plan: The plan.
        catalogue: Holds the methods' cards.
        save_models: The site's: whose weights are kept besides those that other runs read.
        save_predictions: The site's: whose predictions are kept.
    """
    cost, workload = Cost(Counter()), Workload(plan, catalogue)
    for run in plan.runs:
        cost.runs[run.kind, run.method.name] += 1
        read = plan.read_by_others.get(run.id, {})
        if kept := _models_kept(run, catalogue, read, save_models):
            cost.models[run.dataset, run.setting.backbone] += kept
        if save_predictions:
            bytes_each = 4 * plan.datasets[run.dataset].outputs + _BESIDE
            kept = _predictions_kept(run, catalogue, save_predictions)
            cost.predictions += workload.examples(run) * bytes_each * kept
        work = workload.of(run)
        cost.steps += work.steps
        cost.passes += work.passes
        cost.evaluated += work.evaluated
        cost.analyzed += work.analyzed
    return cost


def _predictions(run: Run, catalogue: Catalogue) -> int:
    """Return how many predictors are evaluated along a training run, over all its evaluations."""
    evaluations = run.setting.evaluations
    always = [catalogue.get("average", part.name).card.when == "always" for part in run.averages]
    return evaluations + sum(evaluations if each else 1 for each in always)


def _predictions_kept(run: Run, catalogue: Catalogue, which: str) -> int:
    """Return how many models of a run have their predictions kept: one a selector and the last, of each predictor."""
    named = 1 + sum(bool(getattr(run.fold, part)) for part in CHOSEN_BY.values())
    predictors = 1 + len(run.averages) if run.kind == "train" else 1
    each = _predictions(run, catalogue) if run.kind == "train" else 2
    return named * predictors + (each if which == "all" else 0)


def _models_kept(run: Run, catalogue: Catalogue, read: Mapping[str, Collection[str]], save_models: str) -> int:
    """Return how many models of a run have their weights kept, of all its predictors that have weights.

    Args:
        run: The run.
        catalogue: Holds the mergers' cards.
        read: Predictor -> which of its models other runs read.
        save_models: The site's.
    """
    merged = run.kind == "merge" and not catalogue.get("merger", run.method.name).card.ensemble
    own = (MODEL, *(average.name for average in run.averages)) if run.kind == "train" or merged else ()
    saved = saved_models(save_models)
    return sum(len({*read.get(name, ()), *(saved if name in own else ())}) for name in {*own, *read})


def refuse_small_domains(plan: Plan) -> None:
    """Raise UserError for domains too small for the holdout, and for batches larger than a domain's training part.

    Each data set has one problem of a kind, with the change that mends all its domains. Pooled data sets are exempt:
    many of their domains hold fewer examples than a batch.
    """
    batches: dict[tuple[str, int], tuple[Run, int]] = {}
    for run in plan.runs:
        if run.kind == "train" and not plan.datasets[run.dataset].pools:
            place, batch = (run.dataset, id(run.fold)), int(run.method.hparams["batch_size"])
            if batch > batches.get(place, (run, 0))[1]:
                batches[place] = (run, batch)
    problems = Problems()
    for problem in _too_small_to_split(plan):
        problems.add(problem)
    small: dict[str, dict[str, int]] = {}
    largest: dict[str, int] = {}
    for run, batch in batches.values():
        for view in run.fold.train:
            size = view_size(plan.datasets[run.dataset], view, run.setting.holdout_fraction)
            if 0 < size < batch:  # an empty part is the holdout's problem
                of_dataset = small.setdefault(run.dataset, {})
                of_dataset[view.domain] = min(size, of_dataset.get(view.domain, size))
                largest[run.dataset] = max(batch, largest.get(run.dataset, 0))
    for dataset, sizes in small.items():
        in_order = (domain for domain in plan.datasets[dataset].domains if domain in sizes)
        told = ", ".join(f"domain {domain} has {sizes[domain]}" for domain in in_order)
        problems.add(
            f"{dataset}: {told} examples to train on, fewer than a batch of {largest[dataset]}: give a smaller one, "
            f"--set batch_size={min(sizes.values())}"
        )
    problems.raise_if_any()


def _too_small_to_split(plan: Plan) -> Iterator[str]:
    """Yield a problem for each data set with domains whose split would leave a part empty.

    Runs refuse those even if they never read that part.
    """
    domains = {
        (run.dataset, view.domain, run.setting.holdout_fraction): None
        for run in {(run.dataset, id(run.fold)): run for run in plan.runs}.values()
        for view in (*run.fold.train, *run.fold.evaluated)
    }
    lacking: dict[tuple[str, float], dict[str, tuple[int, str]]] = {}
    for dataset, domain, fraction in domains:
        facts = plan.datasets[dataset]
        sizes = {part: view_size(facts, View(domain, part), fraction) for part in (IN, OUT) if not facts.parts}
        if empty := [part for part, size in sizes.items() if not size]:
            count = facts.counts[facts.domains.index(domain)]
            lacking.setdefault((dataset, fraction), {})[domain] = count, empty[0]
    for (dataset, fraction), found in lacking.items():
        told = ", ".join(f"part {part!r} of domain {domain} ({n:,} examples)" for domain, (n, part) in found.items())
        fewest, ways = min(n for n, _ in found.values()), ["give it more" if len(found) == 1 else "give them more"]
        if fewest > 1 and not plan.datasets[dataset].shared_identities:
            # Enough for the smallest domain, and so for all.
            ways.insert(0, f"--holdout_fraction {math.ceil(1000 / fewest) / 1000:g} or more leaves some")
        yield f"{dataset}: a holdout of {fraction:g} leaves nothing in {told}: {', or '.join(ways)}"


def refuse_large_predictions(plan: Plan) -> None:
    """Raise UserError if runs would save more logits than a machine can hold; each data set is listed once."""
    most: dict[str, int] = {}
    for run in {(run.dataset, id(run.fold)): run for run in plan.runs}.values():
        facts = plan.datasets[run.dataset]
        most[run.dataset] = max(most.get(run.dataset, 0), 4 * facts.outputs * evaluated_examples(facts, run))
    problems = Problems()
    for name, size in most.items():
        if size > _MOST_SAVED:
            problems.add(
                f"--save_predictions keeps {plan.datasets[name].outputs:,} logits of each example of {name}, "
                f"{size / 1e9:,.0f} GB a model: leave it out"
            )
    problems.raise_if_any()
