from __future__ import annotations

import pytest
import torch

from dgbench.core.errors import UserError
from dgbench.merging.wise_ft import WiSEFT
from dgbench.methods.average import Weights
from tests.merging.toys import near, of, tools

INITIAL: Weights = {"w": torch.tensor([0.1, 0.3]), "count": torch.tensor(0)}
TUNED: Weights = {"w": torch.tensor([0.7, -0.2]), "count": torch.tensor(9)}


def candidates(**hparams: float) -> dict[float, Weights]:
    merger = WiSEFT(WiSEFT.Hparams(**hparams))  # type: ignore[arg-type]
    found = list(merger.candidates(of(TUNED), tools(initial=INITIAL)))
    assert len(found) == merger.choices
    assert all([member.run for member in merged.members] == ["run0"] for merged in found)
    return {merged.by["alpha"]: merged.weights for merged in found}


def test_the_grid_is_the_papers_and_the_recommended_comes_last() -> None:
    assert list(candidates()) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1, 0.5], abs=1e-15)


def test_the_ends_are_the_initial_and_the_tuned_model_to_the_bit() -> None:
    found = candidates()
    assert torch.equal(found[0.0]["w"], INITIAL["w"])
    assert torch.equal(found[1.0]["w"], TUNED["w"])


def test_between_them_every_tensor_is_interpolated_and_whole_numbers_are_the_tuned_models() -> None:
    for alpha, weights in candidates().items():
        near(weights["w"], (1 - alpha) * INITIAL["w"] + alpha * TUNED["w"], 1e-7)
        assert weights["count"].item() == 9


@pytest.mark.parametrize(
    ("hparams", "alphas"),
    [
        ({"points": 3, "recommended": 0.8}, [0, 0.5, 1, 0.8]),
        ({"points": 2, "recommended": 0.0}, [1, 0]),
        ({"points": 4, "recommended": 1 / 3}, [0, 2 / 3, 1, 1 / 3]),
    ],
)
def test_other_grids(hparams: dict[str, float], alphas: list[float]) -> None:
    assert list(candidates(**hparams)) == pytest.approx(alphas, abs=1e-15)


def test_impossible_values_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        WiSEFT.Hparams(points=1, recommended=1.5)
    assert len(caught.value.problems) == 2


def test_card_says_what_the_engine_must_do() -> None:
    card = WiSEFT.card
    assert (card.each, card.min_members, card.shared_init, card.ensemble) == (True, 1, False, False)
