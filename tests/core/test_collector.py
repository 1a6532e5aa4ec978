from __future__ import annotations

import gc

import pytest

from dgbench.core.collector import without_collector


@without_collector()
def fail() -> None:
    assert not gc.isenabled()
    raise KeyError


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_before_afterwards_whatever_happens(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyError):
            fail()
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
