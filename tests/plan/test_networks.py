"""Names of the user's own networks in what a launch asks for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.networks.own import add_source
from dgbench.plan.asking import declare
from dgbench.plan.networks import seeming_classifiers, with_full_names

TEXT = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(TEXT)
    return path


def test_names_become_full_wherever_networks_are_named(file: Path) -> None:
    catalogue, full = Catalogue([file]), f"Net@{add_source(file)}"
    asked = {
        "algorithms": ["Net"],
        "setting": {"backbone": "Net", "optimizer": "Net", "PACS": {"backbone": "resnet18"}},
        "hparams": {"KD": {"teacher_backbone": "Net"}},
        "set": {"PACS.backbone": "Net", "lr": "Net"},
    }
    assert with_full_names(asked, catalogue) == {
        "algorithms": ["Net"],
        "setting": {"backbone": full, "optimizer": "Net", "PACS": {"backbone": "resnet18"}},
        "hparams": {"KD": {"teacher_backbone": full}},
        "set": {"PACS.backbone": full, "lr": "Net"},
    }
    assert with_full_names(with_full_names(asked, catalogue), catalogue) == with_full_names(asked, catalogue)


def test_a_declaration_has_the_full_name(file: Path) -> None:
    asked = {"algorithms": ["ERM"], "datasets": ["RotatedDigits"], "set": {"backbone": "Net"}}
    assert declare(asked, Catalogue([file]))[0].setting.backbone == f"Net@{add_source(file)}"
    with pytest.raises(UserError, match=r"unknown backbone 'Net'.*(did you mean|a class of yours needs --include)"):
        declare(asked, Catalogue())


def test_a_network_that_seems_to_classify_is_remarked_on(file: Path) -> None:
    def plan(outputs: int) -> Any:
        run = SimpleNamespace(dataset="D", setting=SimpleNamespace(backbone=f"Net@{add_source(file)}"))
        return SimpleNamespace(runs=[run], datasets={"D": SimpleNamespace(outputs=outputs, input_shape=(1, 8, 8))})

    (line,) = seeming_classifiers(plan(10))
    assert line.startswith("WARNING: Net@")
    assert "gives 10 features, as many as D has classes" in line
    assert list(seeming_classifiers(plan(9))) == []
