"""Normalisation layers are found whoever wrote them, by all that look for them, and planning refuses where none is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm import layers
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms.mixstyle import MixStyle
from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.execute.batch_norm import measure_statistics
from dgbench.methods.batch import Task
from dgbench.networks.backbones import lacking
from dgbench.networks.network import Network, build_network
from dgbench.networks.norms import batch_norms, frozen_batch_norm_statistics, norms, use_batch_statistics
from tests.conftest import MakePlan

OF_BATCHES = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm]
OF_BATCHES += [
    layers.BatchNormAct2d,
    layers.SyncBatchNormAct,
    layers.EvoNorm2dB0,
    layers.EvoNorm2dB1,
    layers.EvoNorm2dB2,
]
OTHERS = [nn.LayerNorm, nn.RMSNorm, layers.GroupNorm1, layers.GroupNormAct, layers.LayerNorm2d, layers.RmsNorm]
OTHERS += [layers.RmsNorm2d, layers.RmsNormAct2d, layers.SimpleNorm, layers.SimpleNorm2d]
OTHERS += [layers.EvoNorm2dS0, layers.EvoNorm2dS1, layers.FilterResponseNormTlu2d]
OTHERS += [layers.FilterResponseNormAct2d]


class LlamaRMSNorm(nn.Module):
    """As transformers writes it, anew in each model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


@pytest.mark.parametrize("kind", [*OF_BATCHES, *OTHERS, LlamaRMSNorm], ids=lambda kind: str(kind.__name__))
def test_every_kind_is_known(kind: Any) -> None:
    norm = kind(32)
    holder = nn.Sequential(nn.Linear(3, 32), norm)
    assert norms(holder) == [norm]
    assert batch_norms(holder) == ([norm] if kind in OF_BATCHES else [])


def test_what_is_none_or_has_nothing_to_learn_is_left_out() -> None:
    others = [nn.Linear(4, 4), layers.LayerScale(4), layers.grn.GlobalResponseNorm(4), nn.BatchNorm1d(4, affine=False)]
    head = layers.NormMlpClassifierHead(4, 2)
    assert norms(nn.Sequential(*others)) == []
    assert norms(head) == [head.norm]
    assert batch_norms(nn.Sequential(*others)) == others[3:]
    assert batch_norms(layers.FrozenBatchNormAct2d(4)) == [], "its statistics never move"


def evonorm(batch_norm: str) -> Network:
    featurizer = nn.Sequential(layers.EvoNorm2dB0(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(featurizer, 4, 2, setting(batch_norm=batch_norm))


def images(number: int) -> Tensor:
    return torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(number)) * (1 + number)


def test_statistics_of_timms_own_batch_norm_are_frozen_and_live() -> None:
    for mode, moves in (("frozen", False), ("live", True)):
        network = evonorm(mode).train()
        before = network.featurizer[0].running_var.clone()
        network(images(1))
        assert torch.equal(before, network.featurizer[0].running_var) != moves


def test_a_second_pass_leaves_them_alone() -> None:
    network = evonorm("live").train()
    before = network.featurizer[0].running_var.clone()
    with frozen_batch_norm_statistics(network):
        loss = F.cross_entropy(network(images(1)), torch.zeros(6, dtype=torch.int64))
        loss.backward()
    assert torch.equal(before, network.featurizer[0].running_var)


def test_they_are_measured_as_the_mean_over_batches() -> None:
    network = evonorm("live").train()
    found = measure_statistics(network, dict(network.state_dict()), [images(n) for n in range(3)])
    expected = torch.stack([images(n).var(dim=(0, 2, 3)) for n in range(3)]).mean(0)
    torch.testing.assert_close(found["featurizer.0.running_var"], expected)
    assert torch.equal(network.featurizer[0].running_var, torch.ones(4)), "nothing in the network changes"


def test_an_adapter_has_it_normalise_by_the_test_batch() -> None:
    network = evonorm("frozen").eval()
    alone = network(images(1)[:3])
    assert torch.equal(alone, network(images(1))[:3])
    assert use_batch_statistics(network) == [network.featurizer[0]]
    assert not torch.allclose(network(images(1)[:3]), network(images(1))[:3])


# -- planning -----------------------------------------------------------------------------------------------------

WITHOUT = {"vgg11": (3, 32, 32), "dm_nfnet_f0": (3, 32, 32)}
"""Networks of timm's without any normalization layer."""
ON_NORMS, ON_BATCH_NORM = ("SAMON", "SAR"), ("TENT", "BNAdapt")
OWN_NORMS = {
    "convnext_atto_rms": "RmsNorm2d",
    "resnetv2_50d_evos": "EvoNorm2dS0",
    "resnetv2_50d_frn": "FilterResponseNormTlu2d",
}


def problems(make_plan: MakePlan, *rows: str, **how: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        make_plan(*rows, **how)
    return caught.value.problems


@pytest.mark.parametrize("name", WITHOUT)
def test_methods_of_norms_are_refused_where_there_is_none(name: str, make_plan: MakePlan) -> None:
    found = problems(make_plan, *ON_NORMS, *ON_BATCH_NORM, how=setting(backbone=name), input_shape=WITHOUT[name])
    none, no_batch_norm = "normalization layers", "batch norm"
    expected = {"SAMON": none, "SAR": none, "TENT with adapts 'batch_norm'": no_batch_norm, "BNAdapt": no_batch_norm}
    assert sorted(found) == sorted(
        f"{who} needs a network with {what}, which it would not have on Toy" for who, what in expected.items()
    )


def test_sam_on_is_refused_where_no_norm_learns(make_plan: MakePlan) -> None:
    (found,) = problems(make_plan, "SAMON", how=setting(freeze="featurizer"))
    assert found.startswith("SAMON needs a featurizer that learns")
    (found,) = problems(make_plan, "SAMON", input_kind="vectors", input_shape=(9,))
    assert found.startswith("SAMON needs a network with normalization layers")


def test_methods_of_stages_are_refused_where_timm_lists_some_that_the_network_lacks(make_plan: MakePlan) -> None:
    how = setting(backbone="hrnet_w18_small", pretrained=False)
    assert {"stages", "stage_modules"} <= lacking("hrnet_w18_small", (3, 64, 64))
    found = problems(make_plan, "SAR", "MIRO", "MixStyle", "ERM", how=how, input_shape=(3, 64, 64))
    assert found == (
        "SAR needs a backbone whose stages are known modules, which it would not have on Toy",
        "MIRO needs a backbone whose features between stages are known, which it would not have on Toy",
        "MixStyle needs images and a convolutional backbone with maps of several positions before its last stage, "
        "which it would not have on Toy",
    )
    assert make_plan("TENT", "SAMON", how=how, input_shape=(3, 64, 64)).runs


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet10t", "test_vit"])
def test_sar_needs_the_modules_alone(name: str, make_plan: MakePlan) -> None:
    """Of Swin's outputs, (B, H, W, C), methods that read maps or tokens can't make sense."""
    side = 224 if name.startswith("swin") else 64
    how = setting(backbone=name, pretrained=False)
    assert make_plan("SAR", how=how, input_shape=(3, side, side)).runs
    assert ("stages" in lacking(name, (3, side, side))) == name.startswith("swin")


@pytest.mark.parametrize("name", OWN_NORMS)
def test_networks_with_norms_of_timms_own_are_planned(name: str, make_plan: MakePlan) -> None:
    with torch.device("meta"):
        made = build_network((3, 64, 64), 2, setting(backbone=name, pretrained=False))
    assert OWN_NORMS[name] in {type(norm).__name__ for norm in norms(made)}
    plan = make_plan("SAMON", "SAR", how=setting(backbone=name, pretrained=False), input_shape=(3, 64, 64))
    assert plan.runs


def test_quantisation_is_refused_where_only_the_patches_are_convolved(make_plan: MakePlan) -> None:
    for name in ("test_vit", "mixer_s32_224"):
        side = 224 if "224" in name else 64
        found = problems(make_plan, "QTDoG", "GAQAT", how=setting(backbone=name), input_shape=(3, side, side))
        assert found == tuple(
            f"{who} needs images and a backbone with convolutions, which it would not have on Toy"
            for who in ("QTDoG", "GAQAT")
        )


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *(("SmallCNN", side) for side in (2, 4, 5, 8)),
        ("MNIST_CNN", 2),
        ("MNIST_CNN", 3),
        ("MNIST_CNN", 28),
        ("test_resnet", 32),
        ("test_byobnet", 4),
        ("resnet10t", 8),
    ],
)
def test_mixstyle_is_refused_exactly_where_it_finds_no_place(name: str, side: int, make_plan: MakePlan) -> None:
    how, shape = setting(backbone=name, pretrained=False), (3, side, side)
    hparams = MixStyle.Hparams(batch_size=2)
    found = ""
    try:
        MixStyle(build_network(shape, 2, how), hparams, Task(shape, 2, ((1, 1),) * 2), how)
    except UserError as error:
        found = str(error)
    assert ("inner_maps" in lacking(name, shape)) == bool(found)
    if found:
        assert problems(make_plan, "MixStyle", how=how, input_shape=shape) == (
            "MixStyle needs images and a convolutional backbone with maps of several positions before its last stage, "
            "which it would not have on Toy",
        )
