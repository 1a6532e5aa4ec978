"""The toys of the tests of update rules."""

from __future__ import annotations

from tests.algorithms.conftest import float64, norm, optimizer, toy

__all__ = ["float64", "norm", "optimizer", "toy"]
