from __future__ import annotations

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.cards import TAGS, AdapterCard, AlgorithmCard, AverageCard, MergerCard, needs_of
from dgbench.core.errors import UserError
from dgbench.core.needs import DECLINED, DOMAINS, Need


def test_needs_are_names_or_whole_and_every_adapter_needs_classes() -> None:
    style = Need("images", when={"perturbation": "style"})
    assert needs_of(AlgorithmCard(paper="p", needs=("stages", style))) == (Need("stages"), style)
    assert needs_of(MergerCard(paper="p", needs=("classes",))) == (Need("classes"),)
    assert needs_of(AdapterCard(paper="p", needs=("norm",))) == (Need("norm"), Need("classes"))
    assert needs_of(AverageCard(paper="p")) == ()


def test_an_unknown_need_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown need on a card 'clases': did you mean 'classes'"):
        needs_of(AlgorithmCard(paper="p", needs=("clases",)))


def test_every_method_has_known_tags_and_every_tag_a_method(catalogue: Catalogue) -> None:
    methods = [entry for entry in catalogue.entries.values() if entry.kind != "dataset"]
    assert [entry.name for entry in methods if not entry.card.tags] == []
    assert {tag for entry in methods for tag in entry.card.tags} == {*TAGS}
    assert all(len({*entry.card.tags}) == len(entry.card.tags) for entry in methods)
    assert [entry.name for entry in methods if "baseline" in entry.card.tags] == [catalogue.baseline]


@pytest.mark.parametrize("card", [AlgorithmCard, AverageCard, MergerCard, AdapterCard])
def test_an_unknown_tag_is_refused_with_the_nearest(card: type) -> None:
    with pytest.raises(UserError, match="unknown tag on a card 'invariant': did you mean 'invariance'"):
        card(paper="p", tags=("invariant",))


def test_conditions_of_needs_are_values_that_the_hyperparameters_may_have(catalogue: Catalogue) -> None:
    conditional = set()
    for entry in catalogue.entries.values():
        options = {spec.name: spec.options for spec in entry.space}
        for need in needs_of(entry.card):
            assert all(value in options[name] for name, value in need.when.items()), entry.name
            assert not isinstance(need.least, str) or need.least in options, entry.name
            assert bool(need.why) == (need.what in DECLINED), entry.name
            assert bool(need.least) == (need.what == DOMAINS), entry.name
            conditional |= {entry.name} if need.when else set()
    named = {"ASAM", "Fish", "GR", "GSAM", "Hutchinson", "MixStyle", "TENT", "UDIM", "UDIMTransductive"}
    assert conditional == named
