from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from itertools import combinations
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbench.core.errors import UserError
from dgbench.core.plain import from_plain
from dgbench.core.protocol import (
    IN,
    OUT,
    AllDomains,
    Explicit,
    FixedSplit,
    Fold,
    LeaveOneDomainOut,
    Protocol,
    SingleSource,
    View,
)

DOMAINS = ("art", "cartoon", "photo", "sketch")
NAMES = st.lists(st.text("abc/0123", min_size=1, max_size=4), min_size=2, max_size=7, unique=True)


def held_out(protocol: Protocol, domains: tuple[str, ...] = DOMAINS) -> list[tuple[str, ...]]:
    return [fold.held_out for fold in protocol.folds(domains)]


@pytest.mark.parametrize("n", range(2, 8))
def test_singles_then_pairs_in_domainbeds_order(n: int) -> None:
    domains = tuple("abcdefg"[:n])
    singles = [(domain,) for domain in domains]
    pairs = [(domains[i], domains[j]) for i in range(n) for j in range(i + 1, n)] if n > 2 else []
    assert held_out(LeaveOneDomainOut(), domains) == singles + pairs
    assert held_out(LeaveOneDomainOut(pairs=False), domains) == singles
    assert len(singles + pairs) == (n + n * (n - 1) // 2 if n > 2 else 2)


def test_only_keeps_the_order_of_the_domains_and_the_pairs_that_hold_one() -> None:
    assert held_out(LeaveOneDomainOut(only=("photo", "0"))) == [
        ("art",),
        ("photo",),
        *(pair for pair in combinations(DOMAINS, 2) if {"art", "photo"} & set(pair)),
    ]
    assert held_out(LeaveOneDomainOut(pairs=False, only=("3", "sketch"))) == [("sketch",)]


def test_a_name_goes_before_a_number() -> None:
    assert held_out(LeaveOneDomainOut(pairs=False, only=("1", "x")), ("1", "0", "x")) == [("1",), ("x",)]


def test_a_fold_of_leave_one_domain_out() -> None:
    fold = next(iter(LeaveOneDomainOut(only=("photo",)).folds(DOMAINS)))
    others = ("art", "cartoon", "sketch")
    assert fold == Fold(
        held_out=("photo",),
        train=tuple(View(domain, IN) for domain in others),
        source_val=tuple(View(domain, OUT) for domain in others),
        test=(View("photo", IN),),
        oracle=(View("photo", OUT),),
    )
    assert fold.training_domains == others


def test_single_source() -> None:
    folds = list(SingleSource(only=("1", "art")).folds(DOMAINS))
    assert [fold.training_domains for fold in folds] == [("art",), ("cartoon",)]
    assert [fold.held_out for fold in folds] == [("cartoon", "photo", "sketch"), ("art", "photo", "sketch")]
    assert len(list(SingleSource().folds(DOMAINS))) == 4


def test_explicit_domains() -> None:
    (fold,) = Explicit(train=("2", "art"), test=("sketch",), val=("cartoon",)).folds(DOMAINS)
    assert fold == Fold(
        held_out=("sketch",),
        train=(View("art", IN), View("photo", IN)),
        source_val=(View("art", OUT), View("photo", OUT)),
        test=(View("sketch", IN),),
        oracle=(View("sketch", OUT),),
        target_val=(View("cartoon", IN), View("cartoon", OUT)),
    )
    (fold,) = Explicit(train=(), test=("sketch",), val=("1",)).folds(DOMAINS)
    assert fold.training_domains == ("art", "photo"), "all others train"


@st.composite
def protocols(draw: st.DrawFn) -> tuple[Protocol, tuple[str, ...]]:
    domains = tuple(draw(NAMES))
    some = tuple(draw(st.lists(st.sampled_from(domains), max_size=3)))
    roles = draw(st.permutations(domains))
    cut = draw(st.integers(1, len(domains) - 1))
    val = draw(st.integers(0, cut - 1))
    protocol = draw(
        st.sampled_from(
            [
                LeaveOneDomainOut(draw(st.booleans()), some),
                SingleSource(some),
                Explicit(tuple(roles[val:cut]), tuple(roles[cut:]), tuple(roles[:val])),
            ]
        )
    )
    return protocol, domains


@given(protocols())
def test_nothing_of_a_held_out_domain_is_trained_on_or_selects_by_itself(
    case: tuple[Protocol, tuple[str, ...]],
) -> None:
    protocol, domains = case
    folds = list(protocol.folds(domains))
    assert folds
    assert len(set(folds)) == len(folds)
    for fold in folds:
        training, tested = set(fold.training_domains), set(fold.held_out)
        kept = {view.domain for view in fold.target_val}
        assert training
        assert tested
        assert training.isdisjoint(tested)
        assert kept.isdisjoint(training | tested)
        assert {view.domain for view in fold.source_val} == training
        assert {view.domain for view in (*fold.test, *fold.oracle)} == tested
        assert set(fold.train).isdisjoint(fold.evaluated), "what trains is not evaluated"
        assert set(fold.test).isdisjoint(fold.oracle)
        assert len(set(fold.evaluated)) == len(fold.evaluated)
        assert set(fold.evaluated) == {*fold.source_val, *fold.target_val, *fold.test, *fold.oracle}
        assert training | tested | kept <= set(domains)
        assert from_plain(Fold, orjson.loads(orjson.dumps(fold))) == fold


@pytest.mark.parametrize("only", [(), ("photo",), ("0", "sketch")])
def test_all_domains_is_tested_on_what_did_not_train(only: tuple[str, ...]) -> None:
    """The tested domain trains, and is reported on the part that does not; selection reads other domains."""
    folds = list(AllDomains(only).folds(DOMAINS))
    assert [fold.held_out for fold in folds] == held_out(LeaveOneDomainOut(pairs=False, only=only))
    for fold in folds:
        assert fold.train == tuple(View(domain, IN) for domain in DOMAINS)
        assert fold.test == (View(fold.held_out[0], OUT),)
        assert set(fold.train).isdisjoint(fold.evaluated), "what trains is not evaluated"
        assert {view.domain for view in fold.source_val} == set(DOMAINS) - set(fold.held_out)
        assert set(fold.test).isdisjoint(fold.validation), "what is reported selects nothing"
        assert fold.evaluated == (*fold.source_val, *fold.test)
        assert (fold.oracle, fold.target_val) == ((), ())


@given(st.text(max_size=6), st.text(st.characters(exclude_characters="/"), max_size=4))
def test_a_view_is_what_its_text_says(domain: str, part: str) -> None:
    view = View(domain, part)
    assert View.parse(str(view)) == view
    assert str(View("a/b", IN)) == "a/b/in"


@pytest.mark.parametrize(
    ("protocol", "domains", "message"),
    [
        (LeaveOneDomainOut(), ("a",), "leave-one-domain-out needs at least 2 domains, there is 1"),
        (SingleSource(), (), "single-source needs at least 2 domains, there is 0"),
        (AllDomains(), ("a",), f"{AllDomains.name} needs at least 2 domains, there is 1"),
        (
            LeaveOneDomainOut(only=("4",)),
            DOMAINS,
            "no domain is called 4, and numbers go from 0 to 3: there are art, cartoon, photo, sketch",
        ),
        (LeaveOneDomainOut(only=("²",)), DOMAINS, "unknown domain '²': there are art, cartoon, photo, sketch"),
        (SingleSource(only=("fotos",)), DOMAINS, "unknown domain 'fotos': did you mean 'photo'?"),
        (Explicit((), ("art",), ("-1",)), DOMAINS, "unknown domain '-1': there are art, cartoon, photo, sketch"),
        (Explicit(("art",), ()), DOMAINS, "name at least one domain that is tested"),
        (Explicit((), DOMAINS), DOMAINS, "no domain is left to train on"),
        (
            Explicit(("art", "photo"), ("0", "sketch"), ("photo",)),
            DOMAINS,
            "a domain trains, validates or is tested, not two of them: art, photo",
        ),
    ],
)
def test_what_cannot_be_is_refused(protocol: Protocol, domains: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as caught:
        list(protocol.folds(domains))
    assert str(caught.value) == message


def test_a_fixed_split_is_a_fold_for_each_way_of_splitting() -> None:
    parts = ("train", "id_val", "val", "test", "id_test")
    folds = list(FixedSplit(only=("B", "0")).folds(("A", "B", "C"), parts=parts))
    assert [fold.held_out for fold in folds] == [("A",), ("B",)]
    assert folds[1] == Fold(
        held_out=("B",),
        train=(View("B", "train"),),
        source_val=(),
        test=(View("B", "test"),),
        target_val=(View("B", "val"),),
    )
    assert folds[1].validation == folds[1].target_val
    (without,) = FixedSplit().folds(("official",), parts=("train", "val", "test"))
    assert without.source_val == ()
    assert without.validation == without.target_val == (View("official", "val"),)


def test_a_fixed_split_is_validated_on_one_part_alone() -> None:
    """What is not asked for is not even evaluated, so that nothing can choose by it."""
    (fold,) = FixedSplit(validation="id").folds(("A",), parts=("train", "id_val", "val", "test"))
    assert fold.validation == fold.source_val == (View("A", "id_val"),)
    assert fold.evaluated == (View("A", "id_val"), View("A", "test"))
    with pytest.raises(UserError, match=r"--validation id: the data set has no such part \(train, val, test\)"):
        list(FixedSplit(validation="id").folds(("A",), parts=("train", "val", "test")))


def test_data_with_and_without_splits_of_their_own_are_told_apart() -> None:
    with pytest.raises(UserError, match="has no fixed splits"):
        list(FixedSplit().folds(DOMAINS))
    for protocol in (LeaveOneDomainOut(), SingleSource(), AllDomains(), Explicit((), ("photo",))):
        words = f"fixed splits (train, val), so protocol {protocol.name} doesn't apply"
        with pytest.raises(UserError, match=re.escape(words)):
            list(protocol.folds(DOMAINS, parts=("train", "val")))


def test_only_domains_that_may_be_tested_are_held_out() -> None:
    tested = ("photo",)
    assert [fold.held_out for fold in LeaveOneDomainOut().folds(DOMAINS, tested=tested)] == [
        ("photo",),
        ("art", "photo"),
        ("cartoon", "photo"),
        ("photo", "sketch"),
    ]
    singles = list(SingleSource().folds(DOMAINS, tested=tested))
    assert [(fold.training_domains, fold.held_out) for fold in singles] == [
        ((source,), ("photo",)) for source in ("art", "cartoon", "sketch")
    ]
    with pytest.raises(UserError, match="photo can only be tested, and no other domain is left to train on"):
        list(SingleSource(only=("photo",)).folds(DOMAINS, tested=tested))
    only = ("art", "photo")
    for protocol in (LeaveOneDomainOut(only=only), AllDomains(only), Explicit((), only)):
        with pytest.raises(UserError, match="art is for training only; only photo can be tested"):
            list(protocol.folds(DOMAINS, tested=tested))
    assert [fold.held_out for fold in Explicit((), ("photo",)).folds(DOMAINS, tested=tested)] == [("photo",)]


@pytest.mark.parametrize(
    ("domains", "asked", "held_out"),
    [
        (("1", "2", "3"), "1", "1"),
        (("1", "2", "3"), "3", "3"),
        (("0", "15", "30"), "2", "30"),
        (("0", "15", "30"), "0", "0"),
        (("2019", "2020", "2021"), "0", "2019"),
        (("a", "b", "c"), "1", "b"),
    ],
)
def test_a_number_is_a_name_or_a_place_and_never_both(domains: tuple[str, ...], asked: str, held_out: str) -> None:
    (fold,) = LeaveOneDomainOut(pairs=False, only=(asked,)).folds(domains)
    assert fold.held_out == (held_out,)


@pytest.mark.parametrize("asked", ["0", "01", "4"])
def test_where_domains_are_called_by_numbers_there_are_no_places(asked: str) -> None:
    with pytest.raises(
        UserError, match=f"no domain is called {asked}, and the domains have numbers for names: .* 1, 2"
    ):
        list(LeaveOneDomainOut(pairs=False, only=(asked,)).folds(("1", "2", "3")))


@pytest.mark.parametrize(
    "make",
    [LeaveOneDomainOut, SingleSource, AllDomains, FixedSplit, lambda: Explicit((), ("a",)), lambda: View("a", IN)],
)
def test_protocols_and_views_are_values(make: Callable[[], Any]) -> None:
    """What is looked up by them must not change, and equal ones are one."""
    one, other = make(), make()
    assert len({one, other}) == 1
    with pytest.raises(FrozenInstanceError):
        setattr(one, dataclasses.fields(one)[0].name, ())


def test_views_sort_by_domain_then_part() -> None:
    views = [View("b", IN), View("a", OUT), View("a", IN)]
    assert sorted(views) == [View("a", IN), View("a", OUT), View("b", IN)]
