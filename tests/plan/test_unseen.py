"""No run stands on runs that have seen what it is evaluated on, whatever kind of run it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from dgbench.core.data_cards import GENERATED, DatasetCard
from dgbench.core.errors import UserError
from dgbench.core.protocol import AllDomains, Explicit, FixedSplit, LeaveOneDomainOut, Protocol, SingleSource, View
from dgbench.core.run import Input, ResolvedEntry, Run, evaluated_views
from dgbench.core.seeding import numpy_stream
from dgbench.core.setting import setting
from dgbench.data.dataset import ArrayExamples, Dataset, Examples
from dgbench.data.views import ViewData
from dgbench.plan.request import Overrides
from dgbench.plan.unseen import examples_of, may_share, seen_before
from tests.conftest import MakeFacts, MakePlan

DRAWN = {"traits": (GENERATED,)}
ONE_DOMAIN_OUT = LeaveOneDomainOut(pairs=False)


def problems(make: MakePlan, *args: object, **kwargs: object) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        make(*args, **kwargs)
    return caught.value.problems


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["domainbed-2020", "domainbed-2024"])
@pytest.mark.parametrize("teacher", ["ERM+SWAD", "ERM", "SAM+EoA"])
def test_a_teacher_that_was_dealt_other_digits_is_refused_with_the_way_out(
    preset: str, teacher: str, make_plan: MakePlan
) -> None:
    asked = {"how": setting(preset), "overrides": Overrides(parts={"KD": {"teacher": teacher}}), **DRAWN}
    why = "Toy is drawn anew for each run, so runs that it stands on have trained on what it is evaluated on."
    told = tuple(f'{row}: {why} Add --hparams \'{{"generated_data": "trial"}}\'' for row in ("KD", "KD+SWAD", "KD+T3A"))
    assert problems(make_plan, "ERM", "KD", "KD+SWAD", "KD+T3A", **asked) == told
    asked["how"] = setting(preset, generated_data="trial")
    assert make_plan("ERM", "KD", "KD+SWAD", "KD+T3A", **asked).runs


def test_a_model_of_all_trials_is_refused_where_the_tested_domain_trains(make_plan: MakePlan) -> None:
    asked = {"protocol": AllDomains(), "how": setting(init="sweep"), "trials": 3}
    assert problems(make_plan, "ERM", "ERM+DiWADagger", "DiWA", "ERM+DiWADagger+T3A", **asked) == tuple(
        f"{row}: each trial divides Toy anew, so runs of other trials, on which it stands, have trained on what it is "
        "evaluated on (a/out). Leave it out, or let no tested domain train"
        for row in ("ERM+DiWADagger", "ERM+DiWADagger+T3A")
    )


def test_a_model_of_all_trials_is_refused_where_domains_share_their_identities(make_plan: MakePlan) -> None:
    assert problems(make_plan, "DiWADagger", how=setting(init="sweep"), shared_identities=True) == (
        "DiWADagger: each trial divides Toy anew, so runs of other trials, on which it stands, have trained on what it "
        "is evaluated on (a/new). Leave it out",
    )


def test_runs_of_all_trials_on_data_that_each_draws_are_refused(make_plan: MakePlan) -> None:
    (problem,) = problems(make_plan, "DiWADagger", how=setting(init="sweep"), trials=2, **DRAWN)
    assert problem.endswith('for each trial, so runs that it stands on have trained on what it is evaluated on. '
                            'Add --hparams \'{"generated_data": "sweep"}\'')  # fmt: skip


PROBED = {"init": "sweep", "classifier_init": "linear_probe", "pretrained": True}


def test_a_probe_that_all_trials_share_is_refused_where_it_has_seen_what_a_trial_is_tested_on(
    make_plan: MakePlan,
) -> None:
    asked = {"protocol": AllDomains(), "trials": 2}
    assert problems(make_plan, "ERM", how=setting(**PROBED), **asked) == (
        "ERM: each trial divides Toy anew, so the linear probe that all trials share has trained on what it is "
        'evaluated on (a/out). Add --hparams \'{"init": "trial"}\'',
    )
    assert make_plan("ERM", how=setting(**PROBED | {"init": "trial"}), **asked).runs
    assert make_plan("ERM", how=setting(**PROBED), trials=2).runs, "trials validate on some of its examples"


def test_a_probe_that_was_dealt_other_examples_than_a_trial_is_refused(make_plan: MakePlan) -> None:
    assert problems(make_plan, "ERM", how=setting(**PROBED, generated_data="trial"), trials=2, **DRAWN) == (
        "ERM: Toy is drawn anew for each trial, so the linear probe that all trials share has trained on what it is "
        'evaluated on. Add --hparams \'{"generated_data": "sweep"}\'',
    )


def test_it_is_told_with_all_that_is_wrong_besides(make_plan: MakePlan) -> None:
    told = problems(make_plan, "DiWA", "EoA", how=setting("domainbed-2020"), **DRAWN)
    assert [problem[:22] for problem in told] == [
        "DiWA averages weights ",
        "DiWA: Toy is drawn ane",
        "EoA: Toy is drawn anew",
    ]


CLEAN = ("ERM", "SAM+SWAD", "DiWA", "EoA", "WiSEFT", "T3A", "DiWA+T3A", "KD", "KD+SWAD", "KD+DiWA", "KD+T3A")


@pytest.mark.parametrize("protocol", [ONE_DOMAIN_OUT, SingleSource(), AllDomains(), Explicit((), ("a",), ("b",))])
@pytest.mark.parametrize("facts", [{}, DRAWN, {"shared_identities": True}], ids=["files", "drawn", "identities"])
def test_what_is_clean_is_accepted(protocol: Protocol, facts: dict[str, object], make_plan: MakePlan) -> None:
    assert make_plan(*CLEAN, protocol=protocol, trials=2, **facts).runs
    alone = setting("domainbed-2020")
    assert make_plan("ERM", "T3A", "SAM+SWAD+T3A", "WiSEFT", protocol=protocol, how=alone, **facts).runs
    if not facts:
        assert make_plan("KD", "KD+SWAD", "EoA", protocol=protocol, how=alone).runs
    if protocol != AllDomains() and "shared_identities" not in facts:
        alike = setting(init="sweep", generated_data="sweep")
        assert make_plan("DiWADagger", "DiWADagger+T3A", protocol=protocol, how=alike, trials=2, **facts).runs


def test_splits_of_the_data_sets_own_are_the_same_in_all_trials(make_plan: MakePlan) -> None:
    parts = dict.fromkeys((f"a/{part}" for part in ("train", "id_val", "val", "test")), 50)
    asked = {"domains": 1, "parts": parts, "pools": {"a": 4}, "protocol": FixedSplit(), "trials": 2}
    assert make_plan("DiWADagger", "KD", "T3A", how=setting(init="sweep"), **asked).runs


def test_a_kind_of_run_that_nobody_has_thought_of_is_asked_too(make_plan: MakePlan) -> None:
    """A training run that stands on runs of another trial: no method of ours makes it."""
    found = make_plan("ERM", trials=2, hparams=1, protocol=ONE_DOMAIN_OUT)
    first, other = (next(run for run in found.runs if run.trial == trial) for trial in (0, 1))
    new = dataclasses.replace(first, method=ResolvedEntry("New", first.method.hparams), inputs=(Input(other.id),))
    above = dataclasses.replace(new, kind="adapt", method=ResolvedEntry("Above"), inputs=(Input(new.id),))
    told = list(seen_before((*found.runs, new, above), [("New", new), ("New+Above", above)], found.datasets))
    assert [problem.partition(":")[0] for problem in told] == ["New", "New+Above"]
    assert all("(b/out)" in problem for problem in told)
    assert list(seen_before((*found.runs, new, above), [("ERM", first)], found.datasets)) == []


# -- the answer is that of the splits -----------------------------------------------------------------------------


class Numbers(Dataset):
    """Six hundred things, each its own number: dealt to the domains by lot, or shown alike by all of them."""

    card = DatasetCard(
        source="",
        licence="",
        input_kind="vectors",
        input_shape=(1,),
        domains=("a", "b", "c"),
        classes=("even", "odd"),
        counts=dict.fromkeys("abc", 200),
    )

    def examples(self, domain: str, seed: int) -> Examples:
        order = np.arange(600)
        if GENERATED in self.card.traits:
            order = numpy_stream(seed, "deal").permutation(600)
        dealt = np.arange(600) if self.card.shared_identities else order["abc".index(domain) :: 3]
        groups = dealt if self.card.shared_identities else None
        return ArrayExamples(dealt[:, None].astype(np.float32), dealt % 2, groups)


def held(data: ViewData, view: View) -> NDArray[np.float32]:
    found: NDArray[np.float32] = data.inputs(view, np.arange(data.size(view))).numpy()[:, 0]
    return found


def pairs(protocol: Protocol, facts: object, how: str) -> Iterator[tuple[Run, Run]]:
    (fold, *_) = facts.folds(protocol)  # type: ignore[attr-defined]
    made = [
        Run("train", ResolvedEntry("ERM"), "Numbers", fold, seed, trial, setting(generated_data=how))
        for trial, seed in product((0, 1), (0, 1))
    ]
    yield from product(made, made)


@pytest.mark.parametrize("protocol", [ONE_DOMAIN_OUT, AllDomains(), SingleSource()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("drawn", ["run", "trial", "sweep"])
@pytest.mark.parametrize("kind", ["files", "drawn", "identities"])
def test_two_views_may_share_an_example_exactly_where_they_do(
    kind: str, drawn: str, protocol: Protocol, make_facts: MakeFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    traits, shared = (GENERATED,) if kind == "drawn" else (), kind == "identities"
    monkeypatch.setattr(Numbers, "card", dataclasses.replace(Numbers.card, traits=traits, shared_identities=shared))
    facts = make_facts("abc", "Numbers", traits=traits, shared_identities=shared)
    for one, other in pairs(protocol, facts, drawn):
        data, others = ViewData(Numbers(), one), ViewData(Numbers(), other)
        for view, trained in product(evaluated_views(one.fold, one.trial), other.fold.train):
            overlap = bool(set(held(data, view)) & set(held(others, trained)))
            found = may_share(facts, (view, examples_of(one, facts)), (trained, examples_of(other, facts)))
            assert found == overlap, (view, trained, one.name, other.name)
