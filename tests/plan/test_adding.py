"""Launches that add to a sweep: what they leave open is the sweep's, and what contradicts it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.plan.adding import declare_more
from dgbench.plan.asking import declare
from dgbench.plan.declaration import Declaration

BEGUN = {
    "algorithms": ["ERM"],
    "datasets": ["RotatedDigits"],
    "setting": {"steps": 41},
    "hparams": {"batch_size": 16},
    "test_envs": ["75"],
    "single_test_envs": True,
    "n_hparams_from": 1,
    "n_hparams": 3,
    "n_trials": 1,
}


def grown(before: Declaration, **asked: Any) -> Declaration:
    more, _ = declare_more(asked, before, {}, Catalogue())
    return before.extended_with(more, Path("sweep"))


def test_what_a_launch_leaves_open_is_the_sweeps() -> None:
    before, _ = declare(BEGUN, Catalogue())
    (first,) = before.requests
    _, row = grown(before, algorithms=["CORAL"]).requests
    assert [each.name for each in row.rows] == ["CORAL"]
    assert (row.datasets, row.protocol, row.hparams_seeds) == (first.datasets, first.protocol, (1, 2))
    _, trials = grown(before, n_trials=2).requests
    assert (trials.rows, trials.trials) == (first.rows, (0, 1))
    assert grown(before, setting={"steps": 41}) == before


def test_a_request_with_algorithms_and_data_sets_has_the_usual_defaults() -> None:
    before, _ = declare(BEGUN, Catalogue())
    _, request = grown(before, algorithms=["CORAL"], datasets=["RotatedDigits"]).requests
    assert (len(request.hparams_seeds), len(request.trials)) == (20, 3)


@pytest.mark.parametrize("asked", [{"setting": {"steps": 51}}, {"hparams": {"batch_size": 8}}, {"single_source": True}])
def test_what_contradicts_the_sweep_is_refused(asked: dict[str, Any]) -> None:
    before, _ = declare({**BEGUN, "test_envs": []}, Catalogue())
    with pytest.raises(UserError, match="use another folder"):
        grown(before, **asked)


def test_rows_are_compared_in_the_draws_that_all_of_them_have() -> None:
    catalogue = Catalogue()
    name = next(name for name, entry in catalogue.of_kind("analysis").items() if entry.card.takes == "rows")
    before, _ = declare({**BEGUN, "algorithms": ["ERM", "CORAL"]}, catalogue)
    both = grown(before, algorithms=["SAM"], grid={"rho": [0.1, 0.2]})
    *_, of_search = grown(both, algorithms=[f"ERM+{name}", f"CORAL+{name}"]).requests
    assert of_search.hparams_seeds == (1, 2)
    *_, of_grid = grown(both, algorithms=[f"ERM+{name}", f"SAM:rho=0.1+{name}"]).requests
    assert of_grid.hparams_seeds == (0,)
    assert len(grown(both, algorithms=[f"ERM+{name}", f"SAM:rho=0.1+{name}"]).requests) == len(both.requests) + 1


def test_an_analysis_measures_the_draws_that_its_row_has() -> None:
    before, _ = declare(BEGUN, Catalogue())
    both = grown(before, algorithms=["SAM"], grid={"rho": [0.1, 0.2]})
    names = [f"{row}+Alignment" for row in ("ERM", "SAM:rho=0.1", "SAM:rho=0.2")]
    *_, search, grid = grown(both, algorithms=names).requests
    assert [(row.name, search.hparams_seeds) for row in search.rows] == [("ERM+Alignment", (1, 2))]
    assert [(row.name, grid.hparams_seeds) for row in grid.rows] == [(name, (0,)) for name in names[1:]]
