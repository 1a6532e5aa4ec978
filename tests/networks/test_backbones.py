from __future__ import annotations

import pytest
import timm
import torch

from dgbench.core.errors import UserError
from dgbench.networks.backbones import (
    ALIASES,
    check_backbone,
    check_inputs,
    check_weights,
    inspect_timm_model,
    interpolation_of,
    lacking,
    resolve_backbone,
    timm_model,
)


@pytest.mark.parametrize(
    ("kind", "shape", "small"),
    [
        ("vectors", (7,), "MLP"),
        ("graphs", (40, 10), "GIN"),
        ("images", (1, 28, 28), "MNIST_CNN"),
        ("images", (2, 28, 28), "MNIST_CNN"),
        ("images", (1, 8, 8), "SmallCNN"),
        ("images", (3, 28, 32), "SmallCNN"),
        ("images", (3, 111, 224), "SmallCNN"),
    ],
)
@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_the_small_network_that_fits(alias: str, kind: str, shape: tuple[int, ...], small: str) -> None:
    assert resolve_backbone(alias, kind, shape) == small


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_stands_for_no_language_model(alias: str) -> None:
    with pytest.raises(UserError, match=f"backbone '{alias}' stands for no network of texts: say 'MLP', or a language"):
        resolve_backbone(alias, "texts", (2, 300))


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("auto", "resnet50.tv_in1k"),
        ("domainbed-2020", "resnet50.tv_in1k"),
        ("domainbed-2024", "resnet50.ram_in1k"),
    ],
)
def test_an_alias_on_large_images_is_its_resnet(alias: str, name: str) -> None:
    assert resolve_backbone(alias, "images", (3, 224, 224)) == resolve_backbone(alias, "images", (3, 112, 112)) == name


def test_a_name_stands_for_itself() -> None:
    assert resolve_backbone("resnet18", "vectors", (7,)) == "resnet18"
    assert resolve_backbone("SmallCNN", "images", (1, 28, 28)) == "SmallCNN"


@pytest.mark.parametrize(
    "name", ["auto", "MLP", "resnet50.tv_in1k", "resnet18", "resnet50.tv2_in1k", "vit_base_patch14_dinov2.lvd142m"]
)
def test_networks_that_there_are(name: str) -> None:
    check_backbone(name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet50.tv3_in1k", "unknown weights of a backbone 'resnet50.tv3_in1k': did you mean 'resnet50.tv_in1k'?"),
        ("resnet5O", "unknown backbone 'resnet5O': did you mean 'resnet50'?"),
    ],
)
def test_what_nobody_has_heard_of_is_told_with_the_nearest(name: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        check_backbone(name)
    assert caught.value.problems == (told,)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("MLP", (7,)),
        ("MLP", (3, 8, 8)),
        ("Linear", (7,)),
        ("Linear", (3, 8, 8)),
        ("SmallCNN", (1, 9, 8)),
        ("resnet50.tv_in1k", (3, 8, 8)),
        ("vit_tiny_patch16_224", (3, 64, 64)),
        ("vit_small_patch14_dinov2.lvd142m", (3, 224, 224)),
        ("swin_tiny_patch4_window7_224", (3, 96, 96)),
        ("convnext_atto", (2, 32, 32)),
    ],
)
def test_inputs_that_a_network_can_take(name: str, shape: tuple[int, ...]) -> None:
    check_inputs(name, shape)


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("resnet18", (7,), "'resnet18' takes images, and these inputs are vectors (7): leave it out, or say 'MLP'"),
        ("SmallCNN", (7,), "backbone 'SmallCNN' takes images"),
        ("Linear", (2, 300), "'Linear' takes vectors or images, and these inputs are texts (2 x 300): leave it out"),
        (
            "GIN",
            (3, 64, 64),
            "backbone 'GIN' takes graphs, and these inputs are images (3 x 64 x 64): leave it out, or",
        ),
        ("vit_tiny_patch16_224", (3, 8, 8), "can't take images of 3 x 8 x 8"),
        ("crossvit_9_240", (3, 224, 224), "it was made for 240 x 240: say --set image_size=240"),
        ("mobilenetv5_300m_enc", (3, 224, 224), "numbers an image, not a vector"),
    ],
)
def test_inputs_that_it_can_not_take_are_told_before_work_starts(name: str, shape: tuple[int, ...], told: str) -> None:
    with pytest.raises(UserError) as caught:
        check_inputs(name, shape)
    assert told in "\n".join(caught.value.problems)


def test_asking_what_a_network_can_take_uses_up_no_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    inspect_timm_model.cache_clear()
    assert inspect_timm_model("mobilenetv3_small_050", (3, 32, 32)).width == 1024, (
        "not the 288 that timm calls num_features"
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50.tv_in1k", "bilinear"),
        ("resnet50.tv2_in1k", "bilinear"),
        ("resnet50.ram_in1k", "bicubic"),
        ("resnet18", "bicubic"),
        ("vit_small_patch14_dinov2.lvd142m", "bicubic"),
        ("vit_base_patch16_clip_224.openai", "bicubic"),
        ("tf_efficientnet_lite0", "bicubic"),
    ],
)
def test_images_are_resized_as_timm_says_for_the_weights(name: str, expected: str) -> None:
    assert interpolation_of(name) == timm.get_pretrained_cfg(name).interpolation == expected


@pytest.mark.parametrize("name", ["SmallCNN", "MLP", "GIN", "distilbert-base-uncased"])
def test_what_timm_does_not_know_is_bilinear(name: str) -> None:
    assert interpolation_of(name) == "bilinear"


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("vit_small_patch14_dinov2.lvd142m", 1 + 16 * 16), ("vit_base_patch16_224.dino", 1 + 14 * 14)],
)
def test_what_was_made_for_images_of_another_size_is_made_for_those_of_the_data(name: str, tokens: int) -> None:
    """DINOv2's weights are for 518 x 518; timm resamples their positions to 16 x 16 patches of 14 x 14."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = timm_model(name, (3, 224, 224))
    assert network.pos_embed.shape[1] == tokens
    assert network.patch_embed.img_size == (224, 224)


@pytest.mark.parametrize("name", ["resnet50.tv_in1k", "resnet50.ram_in1k"])
def test_nothing_lacks_the_networks_of_the_aliases(name: str) -> None:
    """So that planning knows it without timm."""
    assert lacking(name, (3, 224, 224)) == inspect_timm_model(name, (3, 224, 224)).lacking == frozenset()


def test_what_has_pretrained_weights() -> None:
    check_weights("resnet50.ram_in1k")
    check_weights("vit_base_patch16_clip_224.openai")
    check_weights("SmallCNN")  # which needs none
    with pytest.raises(UserError, match="there are no pretrained weights for backbone 'darknet17'"):
        check_weights("darknet17")
