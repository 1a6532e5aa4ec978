"""Each preset: its values exist and are sourced, and it plans on each data set that it names."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import parse_rows
from dgbench.core.errors import UserError
from dgbench.core.presets import DEFAULT, preset_names, read_preset
from dgbench.core.setting import PRESETS
from dgbench.core.space import check_fixed
from dgbench.data.facts import DatasetFacts
from dgbench.plan.asking import declare
from dgbench.plan.layers import EVERYWHERE, layer_of_preset
from dgbench.plan.sweep_file import KEYS
from tests.conftest import MakeFacts

PAPERS = [name for name in preset_names() if name != DEFAULT and not name.startswith("domainbed-")]
EXAMPLE = {"algorithms": ["ERM"], "datasets": ["PACS"], "n_hparams": 2, "n_trials": 1}


def named(preset: str, catalogue: Catalogue) -> list[str]:
    return [name for name in layer_of_preset(preset, catalogue) if name != EVERYWHERE]


def facts_by_card(name: str, catalogue: Catalogue, make_facts: MakeFacts) -> DatasetFacts:
    """The facts of a data set as its card has them, with a hundred examples a domain or part."""
    card = catalogue.get("dataset", name).card
    same = ("input_shape", "input_kind", "traits", "steps", "checkpoint_freq", "task", "metric", "backbone", "tested")
    values: dict[str, Any] = {field: getattr(card, field) for field in (*same, "domains_per_step")}
    if card.parts:
        views = {f"{domain}/{part}": 100 for domain in card.domains for part in card.parts}
        values |= {"parts": views, "pools": dict.fromkeys(card.domains, 20)}
    return dataclasses.replace(make_facts(len(card.domains), name=name, **values), domains=card.domains)


@pytest.mark.parametrize("preset", PAPERS)
def test_each_value_of_a_preset_has_a_source(preset: str) -> None:
    found = read_preset(preset)
    places = [place for place, _ in found.values()]
    assert [place for place in places if not found.source_of(place)] == []
    assert [s for s in found.source if not any(p == s or p.startswith(f"{s}.") for p in places)] == []
    assert found.asked.keys() <= KEYS.keys()


@pytest.mark.parametrize("preset", PAPERS)
def test_the_hyperparameters_of_a_preset_exist(preset: str, catalogue: Catalogue) -> None:
    every = {spec.name for entry in catalogue.of_kind("algorithm").values() for spec in entry.space}
    for changes in layer_of_preset(preset, catalogue).values():
        assert {*changes.overrides.fixed, *changes.overrides.draws} <= every
        for name, own in changes.overrides.parts.items():
            check_fixed(catalogue.entries[name].space, own, name)


@pytest.mark.parametrize("preset", PAPERS)
def test_a_preset_plans_on_each_data_set_that_it_names(
    preset: str, catalogue: Catalogue, make_facts: MakeFacts
) -> None:
    of_own = named(preset, catalogue)
    rows = {} if read_preset(preset).asked.get("algorithms") else {"algorithms": ["ERM"]}
    for name in of_own or ["PACS"]:
        declaration, _ = declare({"datasets": [name], "preset": preset, **rows}, catalogue)
        facts = {name: facts_by_card(name, catalogue, make_facts)}
        found = declaration.plan(facts, catalogue)
        assert found.runs
        assert list(declaration.changes(found, catalogue)) == [], "all that a preset says is the preset"
        assert declaration.setting_on(name).departures(name) == {}
        own = read_preset(preset).setting_on(name)
        trained = next(run for run in found.runs if run.kind == "train")
        assert {field: getattr(trained.setting, field) for field in own} == own


def test_a_preset_says_how_often_unless_it_is_asked_otherwise(catalogue: Catalogue) -> None:
    def request(**asked: Any) -> Any:
        return declare({"datasets": ["PACS"], "preset": "diwa", **asked}, catalogue)[0].requests[0]

    found = request()
    assert (len(found.hparams_seeds), len(found.trials), found.protocol.pairs) == (20, 3, False)
    assert found.rows == parse_rows(read_preset("diwa").asked["algorithms"], catalogue)
    assert len(request(n_hparams=4).trials) == 3
    assert len(request(quick=True, algorithms=["ERM"]).trials) == 1
    assert request(single_source=True, algorithms=["ERM"]).protocol.name == "single-source"
    fixed = declare({"datasets": ["Camelyon17"], "preset": "swad"}, catalogue)[0].requests[0]
    assert fixed.protocol.name == "fixed-split"


def test_values_of_a_preset_give_way_to_those_asked_for(catalogue: Catalogue) -> None:
    def on(dataset: str, **asked: Any) -> Any:
        changes = {"algorithms": ["ERM+SWAD"], "datasets": ["PACS", "VLCS"], "preset": "swad", **asked}
        found = declare(changes, catalogue)[0]
        return found.setting_on(dataset).checkpoint_freq, found.overrides_on(dataset)

    assert [on(name)[0] for name in ("PACS", "VLCS", "DomainNet")] == [100, 50, 500]
    assert [on(name, setting={"checkpoint_freq": 10})[0] for name in ("PACS", "VLCS")] == [10, 10]
    assert on("VLCS")[1].parts["SWAD"]["tolerance_ratio"] == 0.2
    asked = {"hparams": {"SWAD": {"tolerance_ratio": 0.4}, "lr": 1e-3}}
    for name in ("PACS", "VLCS"):
        overrides = on(name, **asked)[1]
        assert overrides.parts["SWAD"] == {"n_converge": 3, "n_tolerance": 6, "tolerance_ratio": 0.4}
        assert (overrides.fixed, "lr" in overrides.draws) == ({"lr": 1e-3}, False)


def test_presets_are_read_by_name() -> None:
    assert preset_names()[:3] == (DEFAULT, "domainbed-2020", "domainbed-2024")
    with pytest.raises(KeyError):
        PRESETS["swadd"]
    with pytest.raises(UserError, match="unknown preset 'swadd': did you mean 'swad'"):
        declare({**EXAMPLE, "preset": "swadd"}, Catalogue())
