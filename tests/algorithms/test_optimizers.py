"""Methods that step in ways of their own, under optimizers beside Adam and SGD."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dgbench.algorithms.dann import DANN
from dgbench.algorithms.dca import DCA
from dgbench.algorithms.eqrm import EQRM
from dgbench.algorithms.fish import Fish
from dgbench.algorithms.miro import MIRO
from dgbench.algorithms.mldg import MLDG


@pytest.mark.parametrize(
    ("cls", "optimizer", "options"),
    [
        (Fish, "adan", {}),  # several steps in one
        (MLDG, "muon", {}),  # an inner optimizer that remembers nothing
        (DANN, "lion", {"beta1": 0.5}),  # two optimizers, and betas of the method's
        (DCA, "nadamw", {}),  # parameters without a gradient in some steps
        (EQRM, "madgrad", {"eqrm_burnin_iters": 2}),  # a fresh optimizer on the way
        (MIRO, "lamb", {}),  # groups with rates of their own
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_run_resumes_exactly(cls: Any, optimizer: str, options: dict[str, Any], toy: SimpleNamespace) -> None:
    toy.resumes(cls, optimizer=optimizer, dropout=0.3, **options)
