"""Warn of parts of methods that begin after the last step of the runs, or little before it.

A hyperparameter declares that it is the first step of such a part (`hparam(..., begins="step")`), so no method is
known by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.run import ResolvedEntry, Run
from dgbench.core.space import HparamSpec
from dgbench.core.wording import count_nouns
from dgbench.plan.plan import Plan

LEAST_SHARE = 0.1
"""Share of a run's steps, below which a part of a method has too few of them to matter."""


class _Onset(NamedTuple):
    """The first step of a part of a method in one run."""

    value: float
    """The hyperparameter that decides it."""
    step: float


def late_onsets(plan: Plan, catalogue: Catalogue) -> Iterator[str]:
    """Yield a warning for each part of a method that most of its runs on a data set hardly reach.

    Fewer are left out: random search draws some, and the draws are those of the method's authors.

    Args:
        plan: The plan of a sweep.
        catalogue: Holds the entries of its runs.
    """
    found: dict[tuple[str, int, str], list[_Onset]] = {}
    for run in plan.runs:
        for entry, kind in ((run.method, "algorithm"), *((average, "average") for average in run.averages)):
            if run.kind == "train":
                for spec in (spec for spec in catalogue.get(kind, entry.name).space if spec.begins):
                    key = run.dataset, run.setting.steps, f"{entry.name}.{spec.name}"
                    found.setdefault(key, []).append(_onset(spec, entry, run, plan))
    for (dataset, steps, name), onsets in found.items():
        late = [onset for onset in onsets if steps - onset.step < LEAST_SHARE * steps]
        if 2 * len(late) > len(onsets):
            yield f"WARNING: runs on {dataset} have {count_nouns(steps, 'step')}, and {name} {_described(late, onsets)}"


def _onset(spec: HparamSpec, entry: ResolvedEntry, run: Run, plan: Plan) -> _Onset:
    """Convert a hyperparameter to steps."""
    value = float(entry.hparams[spec.name])
    if spec.begins == "share":
        return _Onset(value, value * run.setting.steps)
    if spec.begins == "epoch":
        return _Onset(value, value * _steps_of_epoch(run, plan))
    return _Onset(value, value)


def _steps_of_epoch(run: Run, plan: Plan) -> float:
    """Return the steps in which the smallest training domain is seen once; validation parts are counted in."""
    facts = plan.datasets[run.dataset]
    sizes = dict(zip(facts.domains, facts.counts, strict=True))
    size = min(facts.parts.get(str(view)) or sizes.get(view.domain, 0) for view in run.fold.train)
    shown = facts.domains_per_step / len(run.fold.train) if facts.domains_per_step else 1.0
    return size / (float(run.method.hparams["batch_size"]) * min(1.0, shown))


def _described(late: list[_Onset], onsets: list[_Onset]) -> str:
    """Describe late onsets, `is 100: it acts in none of them`, with their number unless all are late."""
    values, steps = sorted({onset.value for onset in late}), [round(onset.step) for onset in late]
    shown = f"{values[0]:,g}" if len(values) == 1 else f"{values[0]:,g} to {values[-1]:,g}"
    share = "" if len(late) == len(onsets) else f" in {len(late):,} of {count_nouns(len(onsets), 'run')}"
    place = "" if len(values) > 1 or values[0] == steps[0] else f", about step {steps[0]:,}"
    return f"is {shown}{place}{share}: it acts in few of them, or none"
