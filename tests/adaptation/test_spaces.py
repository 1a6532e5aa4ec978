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
    "LAME": {"affinity": ("knn", ()), "k": (5, (1, 3, 5)), "symmetric": (False, ())},
    "EATA": {
        "lr": (2.5e-4, (2.5e-4, 1e-3, 5e-3)),
        "margin": (0.4, ()),
        "d_margin": (0.4, (0.05, 0.2, 0.4)),
        "fisher_alpha": (2000.0, (1.0, 2000.0)),
        "fisher_size": (2000, ()),
    },
    "CoTTA": {
        "lr": (1e-3, (1e-5, 1e-4, 1e-3)),
        "momentum": (0.999, ()),
        "restore": (0.01, (0.001, 0.01, 0.1)),
        "threshold": (0.92, ()),
        "copies": (32, ()),
    },
    "MEMO": {"lr": (2.5e-4, (2.5e-5, 2.5e-4, 2.5e-3)), "steps": (1, ()), "copies": (32, ()), "prior": (16.0, ())},
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
