"""Defaults and draws of the adapters, pinned: what a published row was drawn from must not change unseen."""

from __future__ import annotations

from typing import Any

import pytest
from numpy.random import RandomState

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.seeding import seed_hash
from dgbench.core.space import resolve

SPACES: dict[str, dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "T3A": {"filter_K": (100, (1, 5, 20, 50, 100, -1)), "compat": (False, ())},
    "TENT": {
        "lr": (1e-3, (1e-4, 1e-3, 1e-2)),
        "steps": (1, (1, 3)),
        "episodic": (False, ()),
        "optimizer": ("adam", ()),
        "adapts": ("batch_norm", ()),
    },
    "SAR": {
        "lr": (2.5e-4, (2.5e-5, 2.5e-4, 2.5e-3)),
        "rho": (0.05, ()),
        "margin": (0.4, ()),
        "recovery": (0.2, ()),
        "top": (0.25, ()),
    },
}
"""Adapter -> hyperparameter -> its default and what it is drawn from, each as likely; nothing where it is not drawn."""


@pytest.mark.parametrize("name", SPACES)
def test_defaults_and_draws(name: str, catalogue: Catalogue) -> None:
    space, table = catalogue.get("adapter", name).space, SPACES[name]
    assert [spec.name for spec in space] == list(table)
    for seed, trial in ((s, t) for s in range(20) for t in (0, 1)):
        stream = seed_hash(seed, trial)
        expected = {
            key: RandomState(seed_hash(stream, key)).choice(options).item() if seed and options else default
            for key, (default, options) in table.items()
        }
        assert resolve(space, traits=(), hparams_seed=seed, trial=trial) == expected
