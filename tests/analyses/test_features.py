"""Features over a network of one linear layer, whose features are its inputs."""

from __future__ import annotations

import pytest
import torch

from dgbench.analyses.features import Features
from dgbench.core.errors import UserError
from dgbench.core.protocol import View
from dgbench.core.setting import setting
from dgbench.methods.analysis import Batches, FinishedModel, Views
from dgbench.networks.network import build_network

A, B, C, HELD_OUT = (View(name, "in") for name in "abcz")
SHIFT = {A: 0.0, B: 0.0, C: 30.0, HELD_OUT: 30.0}


def found(training: tuple[View, ...], batch_size: int) -> dict[View | None, dict[str, float]]:
    def batches(view: View, most: int, size: int) -> Batches:
        generator = torch.Generator().manual_seed(ord(view.domain))
        y = torch.arange(60) % 4
        x = torch.randn(60, 5, generator=generator) + torch.eye(5)[y] * 6 + SHIFT[view] * torch.eye(5)[4]
        return list(zip(x.split(size), y.split(size), strict=True))

    network = build_network((5,), 4, setting(backbone="Linear")).eval()
    model = FinishedModel("", "ERM", 0, 0, lambda: network, dict, dict)
    analysis = Features(Features.Hparams(batch_size=batch_size, picture="none"), torch.Generator().manual_seed(0))
    numbers = dict[View | None, dict[str, float]]()
    for view, measures in analysis.measure([model], Views(training, (HELD_OUT,), batches)):
        numbers.setdefault(view, {}).update(measures)  # type: ignore[arg-type]
    return numbers


def test_shifted_domains_are_told_apart_and_others_are_not() -> None:
    numbers = found((A, B, C), 60)
    assert numbers[None]["domains_probe"] == pytest.approx(2 / 3, abs=0.1), "the third of them is told for sure"
    assert numbers[HELD_OUT]["domain_probe"] == pytest.approx(1 - 1 / 6, abs=0.1), "but from the third, which is alike"
    assert numbers[C]["domain_probe"] == 1
    assert all(numbers[view]["class_cka"] > 0.9 for view in (A, B, C, HELD_OUT))
    assert numbers[A]["separation"] > 0.7


def test_neither_the_batch_size_nor_more_of_the_same_domains_changes_a_value() -> None:
    two = found((A, B), 60)
    for view, numbers in found((A, B), 7).items():
        assert numbers == pytest.approx(two[view], rel=1e-6)
    more = found((A, B, C), 60)
    assert {view: more[view]["separation"] for view in (A, B)} == {view: two[view]["separation"] for view in (A, B)}


def test_umap_is_refused_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgbench.analyses.features.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'dgbench\[umap\]'"):
        Features.Hparams(picture="umap")
    Features.Hparams(picture="none")
