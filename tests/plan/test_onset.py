"""Parts of methods that begin after the last step, or little before it, are warned of when a sweep is planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dgbench.core.errors import UserError
from dgbench.core.space import hparam
from dgbench.plan.onset import late_onsets
from tests.support.in_process import sweep_of


def warnings(root: Path, *rows: str, steps: int, **asked: Any) -> list[str]:
    sweep = sweep_of(root, *rows, setting={"steps": steps}, **asked)
    found = list(late_onsets(sweep.plan, sweep.catalogue))
    assert [line for line in sweep.remarks() if line.startswith("WARNING")] == found
    return found


@pytest.mark.parametrize(("steps", "late"), [(61, True), (111, True), (112, False), (500, False)])
def test_an_average_that_begins_late_is_warned_of(steps: int, late: bool, tmp_path: Path) -> None:
    told = [f"WARNING: runs on RotatedDigits have {steps} steps, and SMA.start is 100: it acts in few of them, or none"]
    assert warnings(tmp_path, "ERM+SMA", steps=steps) == (told if late else [])


def test_shares_and_epochs_are_counted_in_steps(tmp_path: Path) -> None:
    (told,) = warnings(tmp_path / "share", "ERM+WAKD", steps=200, hparams={"WAKD": {"start": 0.95}})
    assert "WAKD.start is 0.95, about step 190: " in told
    assert warnings(tmp_path / "early", "ERM+WAKD", steps=200) == []
    (told,) = warnings(tmp_path / "epoch", "SAF", steps=90)
    assert "SAF.start_epoch is 5, about step 93: " in told, "299 examples by 16 a step, 5 times"
    assert warnings(tmp_path / "long", "SAF", steps=200) == []


def test_draws_are_warned_of_where_most_of_the_runs_are_late(tmp_path: Path) -> None:
    """VREx draws its onset log-uniformly from 1 to 10,000."""
    some: dict[str, Any] = {"n_hparams_from": 1, "n_hparams": 13}
    (told,) = warnings(tmp_path / "short", "VREx", steps=30, **some)
    assert "VREx.vrex_penalty_anneal_iters is " in told
    assert " of 12 runs: it acts" in told
    assert warnings(tmp_path / "long", "VREx", steps=8000, **some) == []


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(UserError, match="unknown unit 'steps': did you mean 'step'"):
        hparam(5, begins="steps")
