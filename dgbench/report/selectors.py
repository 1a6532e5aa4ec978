"""List the selectors by name, and pick those that a sweep's tables have by default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dgbench.core.errors import Problems
from dgbench.core.protocol import FixedSplit
from dgbench.core.wording import unknown_name
from dgbench.report.predictions.metrics import BY_CLASS, METRICS
from dgbench.report.predictions.selector import KeptMetric
from dgbench.report.results import Results
from dgbench.report.select import LeaveOneDomainOutSelection, Oracle, Selector, TrainingDomain, ValidationDomain

SELECTORS: Mapping[str, Selector] = {
    selector.name: selector
    for selector in (TrainingDomain(), ValidationDomain(), LeaveOneDomainOutSelection(), Oracle())
}
"""Selector by name, in the order of the tables."""


METRIC_SELECTORS: Mapping[str, Selector] = {
    selector.name: selector for selector in (KeptMetric(metric) for name, metric in METRICS.items() if name != BY_CLASS)
}
"""Selector by a metric of kept predictions -> itself; no table has them unless they are asked for."""
ALL_SELECTORS: Mapping[str, Selector] = {**SELECTORS, **METRIC_SELECTORS}
"""Every selector by name."""


def selectors(names: Iterable[str]) -> tuple[Selector, ...]:
    """Return the selectors of these names, each once, in the order given.

    Raises:
        UserError: Names without a selector, each with the nearest name.
    """
    problems = Problems()
    for name in names:
        if name not in ALL_SELECTORS:
            problems.add(unknown_name("selector", name, ALL_SELECTORS))
    problems.raise_if_any()
    return tuple(ALL_SELECTORS[name] for name in dict.fromkeys(names))


def default_selectors(results: Results) -> tuple[Selector, ...]:
    """Return the selectors of a sweep's tables when none is named.

    They are DomainBed's three, and validation on further domains where the sweep has such domains. Data sets with
    splits of their own have training-domain and validation-domain selection, as far as there is something to read: the
    others would need folds or labels that they don't have.
    """
    kept = ValidationDomain.name
    if results.protocol == FixedSplit.name:
        own = (SELECTORS[kept], SELECTORS[TrainingDomain.name])
        return tuple(s for s in own if not all(s.unavailable(results, dataset) for dataset in results.datasets))
    more = any(not SELECTORS[kept].unavailable(results, dataset) for dataset in results.datasets)
    return tuple(selector for name, selector in SELECTORS.items() if name != kept or more)
