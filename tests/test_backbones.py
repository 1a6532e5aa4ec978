from __future__ import annotations

import pytest

from dgbench.backbones import ALIASES, resolve_backbone


@pytest.mark.parametrize(
    ("shape", "small"),
    [
        ((7,), "MLP"),
        ((1, 28, 28), "MNIST_CNN"),
        ((2, 28, 28), "MNIST_CNN"),
        ((1, 8, 8), "SmallCNN"),
        ((3, 28, 32), "SmallCNN"),
        ((3, 111, 224), "SmallCNN"),
    ],
)
@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_on_small_inputs_is_a_small_network(alias: str, shape: tuple[int, ...], small: str) -> None:
    assert resolve_backbone(alias, shape) == small


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("auto", "resnet50.tv_in1k"),
        ("domainbed-2020", "resnet50.tv_in1k"),
        ("domainbed-2024", "resnet50.ram_in1k"),
    ],
)
def test_an_alias_on_large_images_is_its_resnet(alias: str, name: str) -> None:
    assert resolve_backbone(alias, (3, 224, 224)) == resolve_backbone(alias, (3, 112, 112)) == name


def test_a_name_stands_for_itself() -> None:
    assert resolve_backbone("resnet18", (7,)) == "resnet18"
    assert resolve_backbone("SmallCNN", (1, 28, 28)) == "SmallCNN"
