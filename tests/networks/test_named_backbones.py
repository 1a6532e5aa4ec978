"""The networks that papers on domain generalization start from: each is made by its name of timm, and trains.

They are made without memory, so that what is tested takes seconds: shapes, derivatives and optimizer steps are real,
numbers are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.methods.batch import Batch, Task
from dgbench.networks.backbones import check_backbone, check_inputs, check_weights, lacking
from dgbench.networks.network import build_network
from tests.conftest import MakePlan

SHAPE, CLASSES, META = (3, 224, 224), 7, torch.device("meta")
WIDTHS = {
    "resnet18.tv_in1k": 512,
    "resnet50.tv_in1k": 2048,
    "resnet50.tv2_in1k": 2048,
    "resnet50.ram_in1k": 2048,
    "vit_small_patch16_224.augreg_in21k_ft_in1k": 384,
    "vit_base_patch16_224.augreg_in21k_ft_in1k": 768,
    "vit_small_patch14_dinov2.lvd142m": 384,
    "vit_base_patch14_dinov2.lvd142m": 768,
    "vit_base_patch16_clip_224.openai": 768,
    "resnet50_clip.openai": 2048,
    "tf_efficientnet_lite0": 1280,
    "tf_efficientnet_lite1": 1280,
    "tf_efficientnet_lite2": 1280,
}
"""Name -> features. `tv_in1k` is torchvision's V1, `tv2_in1k` its V2, `ram_in1k` AugMix."""
TOKENS = [name for name in WIDTHS if name.startswith("vit")]


@pytest.fixture(autouse=True)
def unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch has no fused optimizer for tensors without memory."""
    made = torch.optim.Adam.__init__
    monkeypatch.setattr(
        torch.optim.Adam, "__init__", lambda self, *args, **how: made(self, *args, **how | {"fused": None})
    )


@pytest.mark.parametrize("name", WIDTHS)
def test_it_has_weights_and_is_fed_as_they_were_made(name: str) -> None:
    check_backbone(name)
    check_inputs(name, SHAPE)
    check_weights(name)
    with META:
        made = build_network(SHAPE, CLASSES, setting(backbone=name, pretrained=False))
    facts: Any = timm.get_pretrained_cfg(name)
    assert made.num_features == WIDTHS[name]
    assert made.normalizes
    assert (len(facts.mean), len(facts.std), facts.interpolation in ("bilinear", "bicubic")) == (3, 3, True)


def step(catalogue: Catalogue, method: str, name: str, **how: Any) -> tuple[Mapping[str, Tensor], int]:
    """What a step on four images of each of two domains logs, and how many tensors got a gradient."""
    entry = catalogue.get("algorithm", method)
    cls: Any = entry.load()
    values = entry.resolve("Toy", traits=(), hparams_seed=0, trial=0, fixed={"batch_size": 4}, draws={})
    hparams, chosen = cls.Hparams(**values), setting(backbone=name, pretrained=False, steps=5, **how)
    with META:
        network = cls.make_network(SHAPE, CLASSES, hparams, chosen)
        network.freeze(chosen.freeze)
        algorithm = cls(network, hparams, Task(SHAPE, CLASSES, ((1,) * CLASSES,) * 2), chosen).train()
    labels, places = torch.zeros(4, dtype=torch.int64, device=META), torch.zeros(4, dtype=torch.int64)
    x = network.prepare(torch.zeros(4, *SHAPE, dtype=torch.uint8, device=META))
    logged = algorithm.update([Batch(x, labels, places, domain) for domain in range(2)])
    return logged, sum(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", WIDTHS)
def test_it_trains_on_images_of_224(name: str, catalogue: Catalogue) -> None:
    logged, moved = step(catalogue, "ERM", name)
    assert logged["loss"].shape == ()
    with META:
        whole = len(list(build_network(SHAPE, CLASSES, setting(backbone=name, pretrained=False)).parameters()))
    assert moved == whole
    assert 0 < step(catalogue, "ERM", name, freeze="embedding")[1] < whole


@pytest.mark.parametrize("name", WIDTHS)
def test_miro_reads_its_stages(name: str, catalogue: Catalogue) -> None:
    assert "stages" not in lacking(name, SHAPE)
    assert step(catalogue, "MIRO", name)[0]["penalty"].shape == ()


@pytest.mark.parametrize("method", ["ASA", "DSU", "QTDoG"])
@pytest.mark.parametrize("name", ["resnet50.tv_in1k", "resnet50_clip.openai", "tf_efficientnet_lite0"])
def test_what_changes_feature_maps_trains_on_convolutions(name: str, method: str, catalogue: Catalogue) -> None:
    assert "feature_maps" not in lacking(name, SHAPE)
    assert step(catalogue, method, name)[0]["loss"].shape == ()


@pytest.mark.parametrize("name", TOKENS)
def test_what_changes_feature_maps_is_refused_on_tokens(name: str, make_plan: MakePlan) -> None:
    maps = "convolutional backbone"
    needs = {
        **dict.fromkeys(("ASA", "DSU"), maps),
        "MixStyle": f"{maps} with maps of several positions before its last stage",
        **dict.fromkeys(("QTDoG", "GAQAT"), "backbone with convolutions"),
    }
    with pytest.raises(UserError) as caught:
        make_plan(*needs, "ERM", "MIRO", how=setting(backbone=name))
    assert caught.value.problems == tuple(
        f"{row} needs images and a {needed}, which it would not have on Toy" for row, needed in needs.items()
    )


def test_a_small_transformer_and_a_small_cnn_learn_for_real(catalogue: Catalogue) -> None:
    """Numbers too: DINOv2's kind on 28 x 28, ResNet-18 on 32 x 32, ten steps on two colours."""
    torch.set_num_threads(1)
    for name, side in (("vit_small_patch14_dinov2.lvd142m", 28), ("resnet18.tv_in1k", 32)):
        torch.manual_seed(0)
        made = build_network((3, side, side), 2, setting(backbone=name, pretrained=False, batch_norm="live")).train()
        y = torch.arange(16) % 2
        x = torch.randint(0, 100, (16, 3, side, side), dtype=torch.uint8) + (100 * y[:, None, None, None]).byte()
        optimizer, losses = torch.optim.AdamW(made.parameters(), lr=1e-3), list[float]()
        for _ in range(10):
            loss = torch.nn.functional.cross_entropy(made(made.prepare(x)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 2, (name, losses)
