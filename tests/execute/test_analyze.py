"""What an analysis may find, and what is kept of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dgbench.core.cards import SeriesCard
from dgbench.execute.analyze import _extend

CARD = SeriesCard(title="T", drawing="lines", labels={"x": "x", "name": "name"}, x="x", values=("x",), by=("name",))


def test_a_series_grows_by_parts_that_have_its_columns() -> None:
    kept: dict[str, list[Any]] = {}
    for numbers, names in (([1, 2.5], ["a", "b"]), (np.array([np.nan]), ["c"])):
        _extend(kept, {"x": numbers, "name": names}, "s", CARD)
    assert kept["x"][:2] == [1, 2.5]
    assert kept["name"] == ["a", "b", "c"]
    with pytest.raises(RuntimeError, match="s has columns x, and on its card stand x, name"):
        _extend(kept, {"x": [1]}, "s", CARD)
    with pytest.raises(RuntimeError, match="columns of s have different lengths: 1, 2"):
        _extend(kept, {"x": [1], "name": ["a", "b"]}, "s", CARD)
