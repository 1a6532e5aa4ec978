from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.core.setting import setting
from dgbench.core.space import Draw
from dgbench.plan.planfile import FILE, read_plan, tabulate, write_plan
from dgbench.plan.request import Overrides
from tests.conftest import MakePlan

ROWS = ("ERM", "SAM+SWAD", "DiWA", "EoA", "SWAD+T3A", "DiWA+T3A", "KD+WAKD")


def test_a_plan_is_read_as_it_was_written(make_plan: MakePlan, tmp_path: Path) -> None:
    table = tabulate(make_plan(*ROWS, trials=2), setting(steps=7, precision="bf16"), LeaveOneDomainOut.name)
    write_plan(tmp_path, table)
    assert read_plan(tmp_path) == table


def test_a_table_says_what_was_asked_for_beside_the_preset(
    make_plan: MakePlan, catalogue: Catalogue, tmp_path: Path
) -> None:
    parts = {"SWAD": {"form": "paper", "tolerance_ratio": 0.2}, "SAM": {"rho": 0.1}}
    overrides = Overrides({"batch_size": 8}, parts, {"lr": Draw.parse("10^U(-3, -2)")})
    entries = [catalogue.entries[name] for name in ("ERM", "SAM", "SWAD")]
    how = setting("domainbed-2020", steps=7, pretrained=False, weights="")
    table = tabulate(make_plan("ERM"), how, LeaveOneDomainOut.name, overrides.describe(entries))
    assert table.provenance.asked == (
        "steps 7",
        "pretrained False",
        "batch_size 8 (not drawn)",
        "SWAD form paper",
        "SWAD tolerance_ratio 0.2",
        "SAM rho 0.1 (not drawn)",
        "lr ~ 10^U(-3, -2)",
    )
    write_plan(tmp_path, table)
    assert read_plan(tmp_path) == table
    assert tabulate(make_plan("ERM"), setting("domainbed-2020"), "p").provenance.asked == ()
    named = tabulate(make_plan("ERM"), setting(weights="0123456789abcdef" * 4), "p")
    assert named.provenance.asked == ("weights 0123456789ab",)


def test_a_table_says_what_the_plan_says(make_plan: MakePlan) -> None:
    plan = make_plan(*ROWS, trials=2)
    table = tabulate(plan, setting(), "p")
    assert len(table.folds) == len(set(table.folds)) == 10
    assert table.rows == plan.rows
    for run, planned in zip(plan.runs, table.runs, strict=True):
        assert (planned.id, planned.kind, planned.method, planned.dataset) == (
            run.id,
            run.kind,
            run.method.name,
            run.dataset,
        )
        assert (planned.hparams_seed, planned.trial) == (run.hparams_seed, run.trial)
        assert table.folds[planned.fold] == run.fold
        assert [table.runs[i].id for i in planned.inputs] == [source.run for source in run.inputs]
        assert table.name(planned) == run.name
    for key, cell in plan.candidates.items():
        assert [(table.runs[i].id, name) for i, name in table.cells[key]] == [(c.run.id, c.predictor) for c in cell]


def test_a_folder_without_a_sweep_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} holds no sweep: there is no plan.json in it"):
        read_plan(tmp_path)


def test_another_format_is_refused(make_plan: MakePlan, tmp_path: Path) -> None:
    write_plan(tmp_path, tabulate(make_plan("ERM"), setting(), "p"))
    data = orjson.loads((tmp_path / FILE).read_bytes())
    (tmp_path / FILE).write_bytes(orjson.dumps({**data, "format": 1}))
    with pytest.raises(UserError, match=r"plan\.json has format 1, this version reads 2"):
        read_plan(tmp_path)
