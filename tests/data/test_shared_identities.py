"""Data that show the same identities in every domain: what trains in one must not be tested in another."""

from __future__ import annotations

import numpy as np
import pytest

from dgbench.core.data_cards import DatasetCard
from dgbench.core.protocol import AllDomains, Explicit, LeaveOneDomainOut, Protocol, SingleSource, View
from dgbench.core.run import ResolvedEntry, Run
from dgbench.core.setting import setting
from dgbench.data.dataset import ArrayExamples, Dataset, Examples
from dgbench.data.facts import DatasetFacts
from dgbench.data.views import ViewData
from dgbench.plan.work import view_size
from tests.conftest import MakeFacts

DOMAINS = ("a", "b", "c")


class Same(Dataset):
    """Forty identities in two pictures each, in the same order in every domain."""

    card = DatasetCard(
        source="",
        licence="",
        input_kind="vectors",
        input_shape=(1,),
        domains=DOMAINS,
        classes=("even", "odd"),
        counts=dict.fromkeys(DOMAINS, 80),
        shared_identities=True,
    )

    def examples(self, domain: str, seed: int) -> Examples:
        identities = np.repeat(np.arange(40), 2)
        return ArrayExamples(identities[:, None].astype(np.float32), identities % 2, identities)


def identities(data: ViewData, views: tuple[View, ...]) -> set[int]:
    return {int(data.inputs(view, np.array([i]))[0, 0]) for view in views for i in range(data.size(view))}


@pytest.mark.parametrize(
    "protocol",
    [LeaveOneDomainOut(), SingleSource(), AllDomains(), Explicit(("a",), ("b",), ("c",))],
    ids=lambda protocol: type(protocol).__name__,
)
@pytest.mark.parametrize("trial", [0, 1])
def test_nobody_is_tested_on_identities_that_trained_or_validated(
    protocol: Protocol, trial: int, make_facts: MakeFacts
) -> None:
    facts = make_facts(DOMAINS, counts=(80,) * 3, shared_identities=True)
    for fold in facts.folds(protocol):
        run = Run("train", ResolvedEntry("ERM"), "Same", fold, 0, trial, setting())
        data = ViewData(Same(), run)
        known = identities(data, (*fold.train, *fold.source_val, *fold.target_val))
        tested = identities(data, fold.test)
        assert len(tested) == 10
        assert not known & tested
        assert not identities(data, fold.train) & identities(data, (*fold.source_val, *fold.target_val, *fold.oracle))
        assert all(view_size(facts, view, 0.2) == data.size(view) for view in fold.test)


def test_elsewhere_the_held_out_domain_is_tested_as_a_whole_but_for_the_oracles_part(make_facts: MakeFacts) -> None:
    for fold in make_facts(DOMAINS).folds(LeaveOneDomainOut(pairs=False)):
        assert fold.test == (View(fold.held_out[0], "in"),)


def test_all_domains_is_leave_one_domain_out_with_the_tested_domain_trained_on(make_facts: MakeFacts) -> None:
    facts: DatasetFacts = make_facts(DOMAINS)
    for known, left_out in zip(facts.folds(AllDomains()), facts.folds(LeaveOneDomainOut(pairs=False)), strict=True):
        assert known.held_out == left_out.held_out
        assert set(known.train) == {*left_out.train, View(known.held_out[0], "in")}
        assert known.source_val == left_out.source_val
        assert known.test == (View(known.held_out[0], "out"),)
        assert not known.oracle
    assert [fold.held_out for fold in facts.folds(AllDomains(only=("b",)))] == [("b",)]
