"""Report values on whole test domains, as some papers do: on the part `in`, which tables show otherwise, and `out`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dgbench.core.errors import UserError
from dgbench.core.protocol import IN, OUT, Fold, View
from dgbench.report.results import Candidate, Candidates, Results, Series, Spot

REPORTED = "the whole test domain, its parts in and out"
"""Line of the signature that says so."""


def whole_domains(results: Results) -> Results:
    """Return results whose values on test domains are those on all of their examples; selection is as it was.

    Args:
        results: Of a sweep whose folds test the part `in`, with the part `out` evaluated beside it.

    Raises:
        UserError: A data set's test domains have no such parts, or the numbers of their examples are unknown.
    """
    problems = dict.fromkeys(f"--report full: on {name} {why}" for name, why in _lacking(results))
    if problems:
        raise UserError(*problems)
    repeats = {selector: _rewritten(results, found) for selector, found in results.repeats.items()}
    curves = {
        place: [(spot, _own(results, place[1], spot, candidate)) for spot, candidate in draws]
        for place, draws in results.curves.items()
    }
    candidates = _rewritten(results, results.candidates)
    return replace(results, candidates=candidates, repeats=repeats, curves=curves, reports=REPORTED)


def _lacking(results: Results) -> Iterator[tuple[str, str]]:
    """Yield (data set, reason) for each reason why values on whole domains can't be had."""
    for (_, dataset), spots in results.candidates.items():
        for (position, _), seeds in spots.items():
            if position not in results.reported(dataset):
                continue
            fold = results.folds[position]
            parts = {view.part for view in fold.test}
            if parts != {IN}:
                yield dataset, f"the test is on the part {' and '.join(sorted(parts))}, which has no other beside it"
                continue
            for series in seeds.values():
                if isinstance(series, Series):
                    if not series.sizes:
                        yield dataset, "numbers of examples are unknown, or the metric is no share of them"
                    elif not set(_others(fold)) <= set(series.views):
                        yield dataset, "the parts out of test domains were not evaluated"


def _others(fold: Fold) -> list[View]:
    """Return the part `out` of each test domain."""
    return [View(view.domain, OUT) for view in fold.test]


def _rewritten(results: Results, candidates: Candidates) -> Candidates:
    """Return candidates with values on whole domains in the folds that are columns of tables.

    Folds that hold out two domains serve the selection alone.
    """
    return {
        (row, dataset): {
            spot: {seed: _own(results, dataset, spot, candidate) for seed, candidate in seeds.items()}
            for spot, seeds in spots.items()
        }
        for (row, dataset), spots in candidates.items()
    }


def _own(results: Results, dataset: str, spot: Spot, candidate: Candidate) -> Candidate:
    """Return one candidate with values on whole domains, if its fold is a column of tables."""
    if spot[0] not in results.reported(dataset) or not isinstance(candidate, Series):
        return candidate
    return _whole(candidate, results.folds[spot[0]])


def _whole(series: Series, fold: Fold) -> Series:
    """Return a series whose columns of the test views hold the means over both parts, weighted by their examples."""
    values, sizes = np.array(series.values), list(series.sizes)
    for view, other in zip(fold.test, _others(fold), strict=True):
        one, two = series.views.index(view), series.views.index(other)
        n, m = series.sizes[one], series.sizes[two]
        values[:, one] = (n * series.values[:, one] + m * series.values[:, two]) / (n + m)
        sizes[one] = n + m
    return replace(series, values=values, sizes=tuple(sizes))
