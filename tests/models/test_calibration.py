"""The temperature that makes probabilities right on average."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from dgbench.models.calibration import fit_temperature


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_logits_that_are_too_large_are_divided(true: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    labels = np.array([rng.choice(4, p=p) for p in softmax(logits, axis=1)])
    assert fit_temperature(logits * true, labels) == pytest.approx(true, rel=0.05)


def test_nothing_is_fitted_to_right_answers_alone_or_to_what_is_no_number() -> None:
    logits = np.eye(3)
    assert fit_temperature(logits, np.arange(3)) is None
    assert fit_temperature(np.full((3, 3), np.nan), np.arange(3)) is None
    assert fit_temperature(logits, np.array([0, 1, 0])) is not None
