"""Sites are read as they were written, by this version or an earlier one."""

from __future__ import annotations

import pytest

from dgbench.core.site import Site


def test_a_site_is_read_as_it_was_written() -> None:
    site = Site(data_dir="/data", include=("a.py",), save_predictions="all")
    assert Site.from_json(site.to_json()) == site


@pytest.mark.parametrize(("earlier", "now"), [(True, "chosen"), (False, "")])
def test_predictions_were_once_kept_or_not(earlier: bool, now: str) -> None:
    assert Site.from_json({**Site().to_json(), "save_predictions": earlier}).save_predictions == now


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(TypeError, match="save_predictions: 'some' is none of"):
        Site.from_json({**Site().to_json(), "save_predictions": "some"})
