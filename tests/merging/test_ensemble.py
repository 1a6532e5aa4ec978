from __future__ import annotations

from dgbench.merging.ensemble import Ensemble
from tests.merging.toys import made


def test_every_member_votes() -> None:
    members = [made(f"run{i}", 0.5, dict) for i in range(3)]
    assert list(Ensemble(Ensemble.Hparams()).ensemble(members)) == members


def test_card_says_what_the_engine_must_do() -> None:
    card = Ensemble.card
    assert (card.ensemble, card.average, card.shared_init, card.min_members) == (True, "", False, 2)
