"""What weights were trained on, by their names."""

from __future__ import annotations

import pytest

from dgbench.core.data_cards import CORPORA
from dgbench.core.setting import setting
from dgbench.networks import pretraining
from dgbench.networks.pretraining import starts_pretrained, weights_card


@pytest.mark.parametrize(
    ("name", "trained_on", "saw"),
    [
        ("resnet50.tv_in1k", "ImageNet-1k", ("ImageNet-1k",)),
        (
            "vit_base_patch16_224.augreg_in21k_ft_in1k",
            "ImageNet-21k, then ImageNet-1k",
            ("ImageNet-21k", "ImageNet-1k"),
        ),
        ("vit_base_patch16_clip_224.openai", "OpenAI's WIT-400M", ("web",)),
        ("vit_base_patch16_clip_224.laion2b_ft_in1k", "LAION-2B, then ImageNet-1k", ("web", "ImageNet-1k")),
        ("vit_small_patch14_dinov2.lvd142m", "LVD-142M", ("LVD-142M", "ImageNet-21k", "ImageNet-1k", "web")),
        ("vit_base_patch16_224.dino", "ImageNet-1k", ("ImageNet-1k",)),
        ("convnextv2_base.fcmae_ft_in22k_in1k", "ImageNet-21k, then ImageNet-1k", ("ImageNet-21k", "ImageNet-1k")),
        ("tf_efficientnet_lite0", "ImageNet-1k", ("ImageNet-1k",)),
        ("distilbert-base-uncased", "BookCorpus and English Wikipedia", ("text",)),
    ],
)
def test_the_words_of_a_tag_name_the_data(name: str, trained_on: str, saw: tuple[str, ...]) -> None:
    card = weights_card(name)
    assert card
    assert (card.trained_on, card.saw) == (trained_on, saw)


def test_what_is_not_known_is_not_guessed() -> None:
    assert weights_card("resnet50") is None
    assert weights_card("resnet50.fb_something") is None
    assert weights_card("resnet50", "a1_in1k") == weights_card("resnet50.a1_in1k")


def test_every_corpus_is_one_that_data_sets_can_name() -> None:
    cards = [*pretraining._SOURCES.values(), *pretraining._NAMED.values()]
    assert {corpus for card in cards for corpus in card.saw} <= set(CORPORA)


def test_only_published_weights_of_a_name_have_a_card() -> None:
    assert starts_pretrained(setting(backbone="resnet50.tv_in1k"))
    assert not starts_pretrained(setting(backbone="SmallCNN"))
    assert not starts_pretrained(setting(backbone="resnet50.tv_in1k", pretrained=False))
    assert not starts_pretrained(setting(backbone="resnet50", weights="0" * 64))
