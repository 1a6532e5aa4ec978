"""How long a run is, and how often it is evaluated, where its request says neither."""

from __future__ import annotations

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.setting import setting
from dgbench.data.facts import DatasetFacts, resolve_setting

OURS = Catalogue().of_kind("dataset")
EVERY = {
    **dict.fromkeys(("ColoredMNIST", "RotatedMNIST", "WILDSCamelyon", "WILDSFMoW"), 100),
    **{f"Spawrious{kind}_{level}": 100 for kind in ("O2O", "M2M") for level in ("easy", "medium", "hard")},
    **dict.fromkeys(("VLCS", "PACS", "OfficeHome", "TerraIncognita", "SVIRO"), 300),
    "DomainNet": 1000,
}
"""DomainBed's data sets -> their CHECKPOINT_FREQ there; all have N_STEPS = 5001."""


def length(dataset: str, preset: str, **asked: int) -> tuple[int, int]:
    card = OURS[dataset].card
    facts = DatasetFacts(
        name=dataset,
        domains=card.domains,
        counts=(100,) * len(card.domains),
        num_classes=2,
        input_shape=card.input_shape,
        traits=card.traits,
        steps=card.steps,
        checkpoint_freq=card.checkpoint_freq,
        fingerprint="",
        of_domainbed=card.of_domainbed,
    )
    found = resolve_setting(setting(preset, **asked), facts)
    return found.steps, found.checkpoint_freq


@pytest.mark.parametrize("preset", ["domainbed-2020", "domainbed-2024"])
@pytest.mark.parametrize("dataset", EVERY)
def test_domainbeds_presets_train_and_evaluate_as_domainbed(dataset: str, preset: str) -> None:
    assert length(dataset, preset) == (5001, EVERY[dataset])


@pytest.mark.parametrize("dataset", EVERY)
def test_by_default_runs_are_as_long_as_the_papers(dataset: str) -> None:
    """Papers on DomainNet train three times as long as DomainBed does, and choose among more than six models."""
    assert length(dataset, "dgbench") == ((15_001, 500) if dataset == "DomainNet" else (5001, EVERY[dataset]))


@pytest.mark.parametrize("preset", ["dgbench", "domainbed-2020"])
def test_what_is_asked_for_comes_before_both(preset: str) -> None:
    assert length("DomainNet", preset, steps=7) == (7, 500 if preset == "dgbench" else 1000)
    assert length("DomainNet", preset, steps=7, checkpoint_freq=3) == (7, 3)
