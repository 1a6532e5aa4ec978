"""Plans of launches, and launches that begin one sweep at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.core.site import Site
from dgbench.launchers import prepare as preparing
from dgbench.launchers.prepare import prepare
from dgbench.plan.declaration import read_declaration


def _asked(*rows: str) -> dict[str, Any]:
    fold = {"test_envs": ["75"], "single_test_envs": True}
    return {"algorithms": list(rows), "datasets": ["RotatedDigits"], "n_hparams": 1, "n_trials": 1, **fold}


def _prepare(root: Path, *rows: str) -> preparing.Sweep:
    return prepare(root, _asked(*rows), Site(device="cpu"), Catalogue())


@pytest.mark.parametrize("moment", ["declare", "_content"])
def test_a_sweep_that_another_launch_begins_meanwhile_is_extended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    other, original = _prepare(tmp_path / "a", "ERM"), getattr(preparing, moment)

    def late(*args: Any) -> Any:
        if not (tmp_path / "a").exists():
            other.write()
        return original(*args)

    monkeypatch.setattr(preparing, moment, late)
    _prepare(tmp_path / "a", "VREx").write()
    assert _rows(tmp_path / "a") == ["ERM", "VREx"]


def test_a_sweep_that_another_launch_has_changed_is_not_overwritten(tmp_path: Path) -> None:
    first, second = _prepare(tmp_path / "a", "ERM"), _prepare(tmp_path / "a", "VREx")
    first.write()
    with pytest.raises(UserError, match=r"another launch has changed the sweep in .*: give the command again"):
        second.write()
    assert _rows(tmp_path / "a") == ["ERM"]


def test_two_launches_of_the_same_words_write_the_same_sweep(tmp_path: Path) -> None:
    first, second = _prepare(tmp_path / "a", "ERM"), _prepare(tmp_path / "a", "ERM")
    first.write()
    second.write()
    second.write()
    assert _rows(tmp_path / "a") == ["ERM"]


def _rows(root: Path) -> Sequence[str]:
    declaration, _ = read_declaration(root)
    return [row.name for request in declaration.requests for row in request.rows]
