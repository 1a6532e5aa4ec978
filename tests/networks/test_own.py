"""Networks of the user's own: classes of included files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.networks.backbones import (
    BUILTIN_BACKBONES,
    check_backbone,
    check_inputs,
    interpolation_of,
    is_timms,
    lacking,
    normalization_of,
    takes,
)
from dgbench.networks.network import build_network
from dgbench.networks.own import add_source, classes_of, full_name, inspect_own, make_own
from dgbench.networks.pretraining import starts_pretrained
from dgbench.networks.start import check_start, ensure_weights, weight_bytes
from dgbench.networks.weights import load

SHAPE = (1, 8, 8)
TEXT = """
import torch
from torch import nn

class Maps(nn.Module):
    def __init__(self, in_channels=3, width=6):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))

class Lazy(nn.Module):
    def __init__(self, input_shape):
        super().__init__()
        self.shape = input_shape
        self.body = nn.Sequential(nn.Flatten(), nn.LazyLinear(5), nn.Dropout())

    def forward(self, x):
        return self.body(x)

class Loaded(Maps):
    def __init__(self):
        super().__init__(1)
        made = torch.Generator().manual_seed(0)
        self.load_state_dict({name: torch.rand(p.shape, generator=made) for name, p in self.state_dict().items()})

class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()

class Pair(nn.Flatten):
    def forward(self, x):
        return super().forward(x), x

class Tokens(nn.Flatten):
    def forward(self, x):
        return super().forward(x)[:, None]

class Breaks(nn.Linear):
    def __init__(self):
        super().__init__(3, 4)

    def forward(self, x):
        return super().forward(x.flatten(1))

class Stops(nn.Module):
    def __init__(self):
        raise ValueError("no file of weights")

class Thing:
    pass

class MLP(nn.Module):
    pass
"""


@pytest.fixture
def digest(tmp_path: Path) -> str:
    return add_source(written(tmp_path))


def written(folder: Path, text: str = TEXT) -> Path:
    path = folder / "nets.py"
    path.write_text(text)
    return path


def test_the_content_of_the_file_is_part_of_the_name(tmp_path: Path, digest: str) -> None:
    assert full_name("Maps", [digest], BUILTIN_BACKBONES) == f"Maps@{digest}"
    assert full_name("resnet18", [digest], BUILTIN_BACKBONES) == "resnet18"
    other = add_source(written(tmp_path, TEXT.replace("width=6", "width=7")))
    assert other != digest
    assert inspect_own(f"Maps@{other}", SHAPE).width == 7, "the edited file is imported anew"
    with pytest.raises(UserError, match=r"nets\.py has changed since: put it back"):
        make_own(f"Maps@{digest}", SHAPE)
    with pytest.raises(UserError, match=rf"several files define the network 'Maps': .*Maps@{digest}\) and "):
        full_name("Maps", [digest, other], BUILTIN_BACKBONES)
    assert set(classes_of([digest])) >= {f"Maps@{digest}", f"Thing@{digest}"}


def test_a_name_of_ours_is_never_theirs_in_silence(digest: str) -> None:
    with pytest.raises(UserError, match=rf"'MLP' is one of dgbench's own, and a class of .*, or say MLP@{digest} "):
        full_name("MLP", [digest], BUILTIN_BACKBONES)


def test_its_facts_are_found_by_building_it(digest: str) -> None:
    before = torch.get_rng_state()
    facts = {name: inspect_own(f"{name}@{digest}", SHAPE) for name in ("Maps", "Lazy", "Loaded")}
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: (own.width, own.trained) for name, own in facts.items()} == {
        "Maps": (6, False),
        "Lazy": (5, False),
        "Loaded": (6, True),
    }
    assert facts["Maps"].has == {"learning_features", "convolutions", "norm", "batch_norm"}
    assert facts["Lazy"].has == {"learning_features"}
    name = f"Maps@{digest}"
    assert lacking(name, SHAPE) >= {"stages", "stage_modules", "embedding", "feature_maps", "inner_maps"}
    assert lacking(name, SHAPE).isdisjoint(facts["Maps"].has)
    assert takes(name) == ("images", "vectors")
    assert not is_timms(name)
    assert interpolation_of(name) == "bilinear"
    assert normalization_of(name, 1) is None
    assert normalization_of(name, 3) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert not starts_pretrained(setting(backbone=name))


def test_it_is_a_featurizer_with_a_classifier_on_top(digest: str) -> None:
    made = setting(backbone=f"Maps@{digest}", batch_norm="live")
    check_backbone(made.backbone)
    check_start(made, SHAPE, "")
    ensure_weights(made, SHAPE)
    torch.manual_seed(1)
    network = build_network(SHAPE, 3, made).eval()
    x = torch.rand(4, *SHAPE)
    conv: Any = network.featurizer
    assert torch.equal(network.features(x), torch.relu(conv.norm(conv.conv(x))).mean((2, 3)))
    assert network(x).shape == (4, 3)
    assert network.started_from == ""
    torch.manual_seed(1)
    again = build_network(SHAPE, 3, made)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert weight_bytes(made.backbone, SHAPE, 3) == sum(t.nbytes for t in network.state_dict().values())
    load(network.featurizer, make_own(made.backbone, SHAPE).state_dict(), "a file", 1)


def test_weights_of_its_own_are_known_as_such(digest: str) -> None:
    made = setting(backbone=f"Loaded@{digest}")
    assert build_network(SHAPE, 3, made).started_from
    with pytest.raises(UserError, match=r"pretrained is false, and backbone 'Loaded@.*' brings weights of its own"):
        check_start(setting(backbone=made.backbone, pretrained=False), SHAPE, "")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Wide", "'Wide@.*' needs width to be built: give defaults to all that __init__ takes but in_channels and"),
        ("Pair", "returns tuple, not a tensor of features"),
        ("Tokens", r"returns 2 x 1 x 64 of 2 inputs, not features \(2, D\), or maps"),
        ("Breaks", r"can't take inputs of 1 x 8 x 8: .*nets\.py:\d+: RuntimeError: .*mat1 and mat2 shapes"),
        ("Stops", r"can't be built: .*nets\.py:\d+: ValueError: no file of weights"),
        ("Thing", r"Thing of .*nets\.py is no torch\.nn\.Module"),
        ("Gone", r"nets\.py defines no class Gone"),
    ],
)
def test_what_is_no_network_for_these_inputs_is_refused_with_the_line(name: str, why: str, digest: str) -> None:
    with pytest.raises(UserError, match=why) as refusal:
        check_inputs(f"{name}@{digest}", SHAPE)
    if line := re.search(r"nets\.py:(\d+)", str(refusal.value)):
        assert re.search("raise|super", TEXT.splitlines()[int(line[1]) - 1])


def test_a_file_that_is_not_included_is_asked_for(digest: str) -> None:
    with pytest.raises(UserError, match=r"or that has changed: .*nets\.py now has Maps@"):
        check_backbone("Maps@000000000000")
    with pytest.raises(UserError, match=r"or that has changed: give it by --include FILE\.py"):
        check_backbone("Nowhere@000000000000")
