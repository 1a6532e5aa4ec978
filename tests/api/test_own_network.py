"""Networks of a notebook: their classes and their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

import dgbench
from dgbench.api.classes import IncludedClasses
from dgbench.api.own_network import weights_of
from dgbench.core.imports import digest_of
from dgbench.core.run import Run
from dgbench.launchers.prepare import reopen

BRIEF: dict[str, Any] = {"steps": 2, "checkpoint_freq": 2, "hparams": {"batch_size": 8}, "device": "cpu", "quiet": True}
HOW: dict[str, Any] = {"test": 75, "threads": 1, **BRIEF}


class Small(nn.Module):
    """A network of one convolution."""

    def __init__(self, in_channels: int, width: int = 6) -> None:
        super().__init__()
        self.slope = 0.1
        self.conv = nn.Conv2d(in_channels, width, 3)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps."""
        return nn.functional.leaky_relu(self.norm(self.conv(x)), self.slope)


def trained(**how: Any) -> Small:
    network = Small(1, **how)
    network.norm.running_mean = torch.rand(len(network.norm.weight))
    return network


def run_of(found: dgbench.Trained) -> Run:
    (run,) = reopen(found.folder).plan.runs
    return run


def test_a_class_is_a_network_and_its_content_is_part_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = dgbench.train("ERM", "RotatedDigits", backbone=Small, save_models="best", **HOW)
    assert run_of(found).setting.backbone == f"Small@{digest_of(Path(__file__).read_bytes())}"
    assert run_of(found).setting.batch_norm == "live"
    assert found.results.networks.pretrained.tolist() == [False]
    assert list(tmp_path.iterdir()) == [tmp_path / "train_output"]
    assert len(found.predict(np.zeros((1, 1, 8, 8), np.uint8)).predicted) == 1
    network = trained()
    other = dgbench.train("ERM", "RotatedDigits", backbone=network, **HOW)
    assert other.folder != found.folder
    assert other.results.networks.pretrained.tolist() == [True]
    assert run_of(other).setting.batch_norm == "frozen", "it has statistics"
    assert run_of(other).setting.weights


def test_a_module_is_its_class_and_a_file_of_its_weights(tmp_path: Path) -> None:
    network, classes = trained(), IncludedClasses(tmp_path, apart=True)
    options = classes.options({"backbone": network, "steps": 2})
    assert options["include"] == [__file__]
    with classes.written():
        tensors = load(Path(options["backbone_weights"]).read_bytes())
    assert all(torch.equal(tensors[name], tensor) for name, tensor in network.state_dict().items())


def edited(kind: str) -> nn.Module:
    network = trained()
    if kind == "slope":
        network.slope = 0.2
    elif kind == "part":
        network.norm = nn.Identity()  # type: ignore[assignment]
    elif kind == "hook":
        network.conv.register_forward_hook(lambda *_: None)
    elif kind == "frozen":
        network.conv.requires_grad_(False)
    elif kind == "wide":
        network = trained(width=7)
    elif kind == "new":
        network = Small(1)
    return network


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("slope", r"this Small is not what Small\(\) makes: the module itself has another slope; write a class"),
        ("part", "norm is Identity, not BatchNorm2d"),
        ("hook", "conv has hooks"),
        ("frozen", "conv.(weight|bias) does not learn"),
        ("wide", "(conv|norm) has another (out_channels|num_features)"),
        ("new", r"batch norm of this Small has no statistics yet.*: give the class \(backbone=Small\)"),
    ],
)
def test_what_a_class_and_weights_do_not_hold_is_refused(kind: str, why: str) -> None:
    with pytest.raises(dgbench.UserError, match=why):
        weights_of(edited(kind))


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    classes = IncludedClasses(tmp_path, apart=True)
    for wrong in (3, Path, lambda: Small(1)):
        with pytest.raises(dgbench.UserError, match=r"backbone is a name, a class that extends torch\.nn\.Module, or"):
            classes.options({"backbone": wrong})
    with pytest.raises(dgbench.UserError, match="backbone has weights of its own, and backbone_weights gives others"):
        classes.options({"backbone": trained(), "backbone_weights": "file.pth"})
    with pytest.raises(dgbench.UserError, match="Linear needs in_features, out_features to be built: write a class"):
        classes.options({"backbone": nn.Linear(3, 4)})
