"""Calibrate probabilities by a temperature: one number that divides all logits (Guo et al., ICML 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BOUNDS = (-4.0, 4.0)
"""Logarithms of the least and the largest temperature."""


def fit_temperature(logits: NDArray[Any], labels: NDArray[np.int64]) -> float | None:
    """Return the temperature with the least mean negative log-likelihood, between 0.02 and 55.

    It is None where every prediction is right, as the best temperature is 0 then, or where a logit is no number.

    Args:
        logits: (n, classes).
        labels: (n,), with n at least 1.
    """
    from scipy.optimize import minimize_scalar  # slow to import, like the next
    from scipy.special import logsumexp

    values = np.asarray(logits, np.float64)
    if not np.isfinite(values).all() or (values.argmax(axis=1) == labels).all():
        return None
    right = values[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        factor = np.exp(-log_temperature)
        return float(np.mean(logsumexp(values * factor, axis=1) - right * factor))

    # Convex in 1/T, so there is one minimum.
    return float(np.exp(minimize_scalar(loss, bounds=_BOUNDS, method="bounded", options={"xatol": 1e-6}).x))
