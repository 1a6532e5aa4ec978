"""A network's tensors in checkpoints as other projects nest and name them."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.networks.checkpoints import parse_tensors, select_network
from dgbench.networks.network import build_network
from dgbench.networks.weights import hash_weights_file, with_weights_file
from tests.cases.make_cases import BACKBONE
from tests.conftest import Cases

OWN = ("conv.weight", "bn.weight", "bn.num_batches_tracked")


def started_from(path: Path) -> dict[str, Tensor]:
    """The featurizer of a network that starts from a file."""
    how = setting(backbone=BACKBONE, weights=hash_weights_file(path))
    return build_network((3, 32, 32), 5, with_weights_file(how, str(path))).featurizer.state_dict()


def plain(cases: Cases) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(cases("weights") / "plain.pth", weights_only=True)
    return found


@pytest.mark.parametrize("name", ["plain", "teacher_backbone", "encoder_q", "algorithm", "model_dict"])
def test_a_checkpoint_of_any_project_is_read(cases: Cases, name: str) -> None:
    found, expected = started_from(cases("weights") / f"{name}.pth"), plain(cases)
    assert found
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("name", ["with_namespace", "whole_module"])
def test_pickled_objects_are_refused_and_the_command_makes_a_safe_file(cases: Cases, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name} of ours.pth"
    path.write_bytes((cases("weights") / f"{name}.pth").read_bytes())
    with pytest.raises(UserError) as caught:
        started_from(path)
    (problem,) = caught.value.problems
    assert problem.isprintable()
    assert ("argparse.Namespace" if name == "with_namespace" else "timm.models.resnet.ResNet") in problem
    words = shlex.split(problem.partition("give that one: ")[2])
    assert words[0] == "python"
    subprocess.run([sys.executable, *words[1:]], check=True, env={"PYTHONWARNINGS": "ignore"})
    found, expected = started_from(tmp_path / f"{name} of ours-tensors.pth"), plain(cases)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def network(value: float, place: str = "") -> dict[str, Tensor]:
    return {place + name: torch.tensor(value) for name in OWN}


@pytest.mark.parametrize(
    "tensors",
    [
        network(1.0),
        network(1.0, "state_dict.module.encoder_q.") | network(2.0, "state_dict.module.encoder_k."),
        network(1.0, "teacher.backbone.") | network(2.0, "student.backbone."),
        network(1.0, "featurizer.network.") | network(1.0, "network.0.network."),
        network(1.0, "model.") | network(2.0, "model_ema.") | {"optimizer.state.0.exp_avg": torch.zeros(1)},
        network(1.0, "student."),
        network(1.0, "model.") | {"queue": torch.zeros(1), "head.weight": torch.zeros(1)},
    ],
)
def test_the_network_that_is_meant_is_found_by_its_names(tensors: dict[str, Tensor]) -> None:
    found = select_network(tensors, OWN, "it")
    assert {name: float(found[name]) for name in OWN} == dict.fromkeys(OWN, 1.0)


def test_networks_that_differ_are_refused_with_their_places() -> None:
    with pytest.raises(UserError, match=r"it holds several networks, below 'a\.', 'b\.': save one of them alone"):
        select_network(network(1.0, "a.") | network(2.0, "b."), OWN, "it")


def test_what_is_below_the_same_place_stays_there_to_be_told() -> None:
    found = select_network({**network(1.0, "model."), "model.extra": torch.zeros(1)}, OWN, "it")
    assert found.keys() == {*OWN, "extra"}


def test_names_of_others_are_unpacked_for_their_converter() -> None:
    assert select_network({"state_dict.module.stem": torch.zeros(1)}, OWN, "it").keys() == {"stem"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 3, "hparams": {"lr": 1.0}}, "holds no named tensors: it has the keys 'epoch', 'hparams'"),
        ([1, 2], "holds no named tensors: it is <class 'list'>"),
    ],
)
def test_a_file_without_tensors_says_its_keys(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=said):
        parse_tensors((tmp_path / "w.pth").read_bytes(), tmp_path / "w.pth")


def test_a_checkpoint_of_another_network_says_what_it_holds(tmp_path: Path) -> None:
    other = timm.create_model("test_vit.r160_in1k", pretrained=False).state_dict()
    torch.save({"student": {f"visual.{name}": tensor for name, tensor in other.items()}}, tmp_path / "w.pth")
    with pytest.raises(UserError) as caught:
        started_from(tmp_path / "w.pth")
    assert f"the file of --backbone_weights holds 'student' ({len(other)} tensors)" in caught.value.problems


def test_a_namespace_alone_holds_no_tensors(tmp_path: Path) -> None:
    torch.save(argparse.Namespace(lr=1), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"holds Python objects \('argparse.Namespace'\)"):
        started_from(tmp_path / "w.pth")
