"""Every algorithm trains what the setting leaves it, low-rank changes or all but the classifier, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dgbench.catalogue.catalogue import Catalogue
from dgbench.conformance.rehearsal import Subject, double_precision
from dgbench.core.cards import needs_of
from dgbench.core.errors import UserError
from tests.support.in_process import CPU, sweep_of

STEPS = 3
"""Steps after which every method has moved its network: adversaries take turns."""
FIXED = {"full_weights": {"lora_rank": 2}, "learning_classifier": {"freeze": "classifier"}}
"""Need -> the setting that does not meet it."""


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with double_precision():
        yield


@pytest.mark.parametrize("need", FIXED)
def test_fixed_parts_stay_and_others_learn(need: str, catalogue: Catalogue) -> None:
    if need == "full_weights":
        pytest.importorskip("peft", reason="extra `lora` is not installed")
    for entry in (entry for entry in catalogue.entries.values() if entry.kind in ("algorithm", "rule")):
        if any(one.what == need and not one.when for one in needs_of(entry.card)):
            continue
        if "text_tower" in entry.card.needs:
            pytest.importorskip("open_clip", reason="extra `clip` is not installed")
        rehearsal = Subject(entry, CPU).rehearse(**FIXED[need])
        before = rehearsal.parameters()
        learning = {name for name, p in rehearsal.algorithm.named_parameters() if p.requires_grad}
        rehearsal.until(STEPS)
        moved = {name for name, now in rehearsal.parameters().items() if not torch.equal(before[name], now)}
        following = {name for name in before if name.partition(".")[0] in entry.card.followers}
        assert moved <= learning | following, entry.name
        own = {name for name in moved if name.startswith("network.")}
        if need == "full_weights":
            frozen = {name for name in before if name.startswith("network.featurizer.") and ".lora_" not in name}
        else:
            frozen = {name for name in before if name.startswith("network.classifier.")}
        assert not own & frozen, entry.name
        assert own or not entry.card.learns or "text_tower" in entry.card.needs, entry.name


@pytest.mark.parametrize(
    ("rows", "how", "message"),
    [
        (["HGP"], {}, "HGP needs a classifier that learns, which it would not have on RotatedDigits"),
        (["Transfer"], {}, "Transfer needs a classifier that learns"),
        (
            ["ERM"],
            {"backbone": "Linear"},
            "'Linear' is a classifier alone, .* freeze can't be 'classifier': nothing would",
        ),
    ],
)
def test_a_classifier_that_must_learn_is_not_frozen(
    rows: list[str], how: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        sweep_of(tmp_path, *rows, setting={"freeze": "classifier", **how})
