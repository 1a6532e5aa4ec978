"""Values of a preset, a sweep file, its data sets and flags: which of them holds on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.core.site import Site
from dgbench.core.space import choice
from dgbench.plan.adding import declare_more
from dgbench.plan.asking import declare
from dgbench.plan.declaration import Declaration, asked_beside_preset, read_declaration, write_declaration
from dgbench.plan.layers import EVERYWHERE, Changes, changes_on, stack
from dgbench.plan.planfile import tabulate
from dgbench.plan.request import Overrides
from dgbench.plan.sweep_file import merge_flags_over_file
from tests.conftest import MakeFacts

FILE = {
    "algorithms": ["SAM+SWAD"],
    "datasets": ["PACS", "VLCS", "OfficeHome"],
    "single_test_envs": True,
    "n_hparams": 2,
    "n_trials": 1,
    "setting": {"steps": 11, "checkpoint_freq": 5, "VLCS": {"steps": 21, "optimizer": "sgd"}},
    "hparams": {"batch_size": 8, "SAM": {"rho": 0.2}, "VLCS": {"lr": 0.1, "SWAD": {"tolerance_ratio": 0.2}}},
    "space": {"lr": "{1e-5, 3e-5}", "PACS": {"lr": "{1e-4}", "batch_size": "{4}"}},
}


def declared(**flags: Any) -> Declaration:
    return declare(merge_flags_over_file(FILE, flags), Catalogue())[0]


def on(declaration: Declaration, dataset: str) -> tuple[int, Overrides]:
    return declaration.setting_on(dataset).steps, declaration.overrides_on(dataset)


def test_a_data_sets_own_values_win_over_those_of_all() -> None:
    found = declared()
    parts = {"SAM": {"rho": 0.2}}
    assert on(found, "OfficeHome") == (11, Overrides({"batch_size": 8}, parts, {"lr": choice(1e-5, 3e-5)}))
    assert on(found, "PACS") == (11, Overrides({}, parts, {"lr": choice(1e-4), "batch_size": choice(4)}))
    parts["SWAD"] = {"tolerance_ratio": 0.2}
    assert on(found, "VLCS") == (21, Overrides({"batch_size": 8, "lr": 0.1}, parts))
    assert found.setting_on("VLCS") == setting(steps=21, checkpoint_freq=5, optimizer="sgd")
    assert found.setting == setting(steps=11, checkpoint_freq=5)


def test_flags_win_wherever_the_file_has_a_value() -> None:
    found = declared(setting={"steps": 31}, hparams={"lr": 1e-3}, set={"rho": "0.3", "VLCS.batch_size": "2"})
    for dataset in ("PACS", "VLCS", "OfficeHome"):
        steps, overrides = on(found, dataset)
        assert (steps, overrides.fixed["lr"], overrides.fixed["rho"]) == (31, 1e-3, 0.3)
        assert "lr" not in overrides.draws
        assert "SAM" not in overrides.parts
    assert found.overrides_on("VLCS").fixed["batch_size"] == 2
    assert found.overrides_on("OfficeHome").fixed["batch_size"] == 8


def test_a_field_of_the_setting_is_said_in_any_table() -> None:
    found = declared(set={"PACS.steps": "7", "VLCS.SWAD.tolerance_ratio": "0.4"})
    assert [found.setting_on(name).steps for name in ("PACS", "VLCS", "OfficeHome")] == [7, 21, 11]
    assert found.overrides_on("VLCS").parts["SWAD"] == {"tolerance_ratio": 0.4}


def test_of_two_layers_the_upper_one_wins_where_it_speaks() -> None:
    below = {
        EVERYWHERE: Changes({"steps": 1}, Overrides({"lr": 1.0}, {"SAM": {"rho": 1.0}})),
        "A": Changes({"steps": 2}, Overrides({"rho": 2.0}, {"SAM": {"rho": 3.0}}, {"lr": choice(1)})),
    }
    above = {
        EVERYWHERE: Changes({}, Overrides({"rho": 5.0}, {}, {"lr": choice(5)})),
        "B": Changes({"steps": 6}),
    }
    found = stack(below, above)
    everywhere = Changes({"steps": 1}, Overrides({"rho": 5.0}, {}, {"lr": choice(5)}))
    assert changes_on(found, "C") == everywhere
    assert changes_on(found, "A") == Changes({"steps": 2}, everywhere.overrides)
    assert changes_on(found, "B") == Changes({"steps": 6}, everywhere.overrides)
    assert stack(found, {}) == found


def test_all_that_is_wrong_on_data_sets_is_told_at_once() -> None:
    wrong = {
        "setting": {"VLCS": {"stepz": 1, "ddof": 0}, "PACS": {"backbone": "resnet5O"}, "VLSC": {"steps": 1}},
        "hparams": {"PACS": {"lr": "fast", "SAMM": {"rho": 1}}},
        "space": {"VLCS": {"lr": "U(1"}},
    }
    with pytest.raises(UserError) as caught:
        declare({**FILE, **wrong}, Catalogue())
    found = [problem.split(":")[0] for problem in caught.value.problems]
    assert found == [
        "on VLCS",
        "on VLCS",
        "on PACS",
        "on PACS",
        "unknown setting 'VLSC'",
        "on VLCS",
        "on PACS",
    ]
    assert caught.value.problems[0] == "on VLCS: ddof has one value for all data sets of a sweep"


def test_a_sweep_keeps_the_values_of_its_data_sets(tmp_path: Path, make_facts: MakeFacts) -> None:
    catalogue, before = Catalogue(), declared()
    write_declaration(tmp_path, before, Site())
    assert read_declaration(tmp_path, catalogue)[0] == before
    facts = {name: make_facts(4, name=name) for name in FILE["datasets"]}
    plan = before.plan(facts, catalogue)
    trained = {run.dataset: run for run in plan.runs if run.kind == "train" and run.hparams_seed == 1}
    assert {name: run.setting.steps for name, run in trained.items()} == {"PACS": 11, "VLCS": 21, "OfficeHome": 11}
    assert {name: run.method.hparams["lr"] for name, run in trained.items()}["VLCS"] == 0.1
    assert trained["PACS"].method.hparams["batch_size"] == 4
    assert trained["OfficeHome"].method.hparams["lr"] in (1e-5, 3e-5)
    table = tabulate(plan, before.setting, "p", before.changes(plan, catalogue), {"VLCS": before.setting_on("VLCS")})
    assert table.setting_on("VLCS").steps == 21
    assert table.provenance.asked == (
        "steps 11",
        "checkpoint_freq 5",
        "batch_size 8 (not drawn)",
        "SAM rho 0.2 (not drawn)",
        "lr ~ {1e-05, 3e-05}",
        "lr ~ {0.0001} on PACS",
        "batch_size ~ {4} on PACS",
        "steps 21 on VLCS",
        "optimizer sgd on VLCS",
        "lr 0.1 (not drawn) on VLCS",
        "SWAD tolerance_ratio 0.2 on VLCS",
    )
    more, _ = declare_more({"algorithms": ["ERM"]}, before, {}, catalogue)
    assert before.extended_with(more, tmp_path).of_datasets == before.of_datasets
    other, _ = declare_more({"setting": {"VLCS": {"steps": 22}}}, before, {}, catalogue)
    with pytest.raises(UserError, match="holds a sweep with other values on VLCS: use another folder"):
        before.extended_with(other, tmp_path)
    assert asked_beside_preset(tmp_path, "VLCS") == before.overrides_on("VLCS")
