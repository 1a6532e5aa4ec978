"""Name the data that pretrained weights were trained on, by the name of the weights.

timm names weights by an architecture and a tag, `vit_base_patch16_224.augreg_in21k_ft_in1k`. The words of a tag name
the data sets, in the order of training; those of a recipe without a data set (`dino`, `mae`) stand for the one that it
is used with. A tag with no known word has no card: what such weights saw is then not known, and tables say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dgbench.core.setting import Setting
from dgbench.networks.backbones import SMALL
from dgbench.networks.own import is_own
from dgbench.networks.wheels import WHEELS


@dataclass(frozen=True)
class WeightsCard:
    """The data that pretrained weights were trained on."""

    trained_on: str
    """Names of the data sets, in the order of training."""
    saw: tuple[str, ...]
    """Keys of `data_cards.CORPORA` that the data sets belong to or contain; empty if that isn't known."""


class _Source(NamedTuple):
    name: str
    saw: tuple[str, ...]


_IN1K = _Source("ImageNet-1k", ("ImageNet-1k",))
_IN21K = ("ImageNet-21k", "ImageNet-1k")
_WEB = ("web",)
_SOURCES: Mapping[str, _Source] = {
    "in1k": _IN1K,
    "in12k": _Source("ImageNet-12k", _IN21K),
    "in21k|in22k|inw21k": _Source("ImageNet-21k", _IN21K),
    "openai": _Source("OpenAI's WIT-400M", _WEB),
    "laion400m": _Source("LAION-400M", _WEB),
    "laion2b": _Source("LAION-2B", _WEB),
    "laiona": _Source("LAION-Aesthetics", _WEB),
    "datacomp.*": _Source("DataComp", _WEB),
    "dfn.*": _Source("DFN", _WEB),
    "metaclip.*": _Source("MetaCLIP's pairs", _WEB),
    "webli": _Source("WebLI", _WEB),
    "merged2b": _Source("LAION-2B and COYO", _WEB),
    "m30m|m38m": _Source("ImageNet-21k, CC12M and further sets", (*_IN21K, "web")),
    "yfcc.*": _Source("YFCC", _WEB),
    "cc12m": _Source("CC12M", _WEB),
    "ig1b|swsl|wsl|swag|seer": _Source("images of Instagram", _WEB),
    "jft": _Source("JFT-300M", _WEB),
    "lvd142m": _Source("LVD-142M", ("LVD-142M", *_IN21K, "web")),
    "lvd1689m": _Source("LVD-1689M", _WEB),
    "sat493m": _Source("SAT-493M, satellite images", ()),
}
"""Pattern of a word in timm's tags -> the data set that it names."""
_RECIPES: Mapping[str, _Source] = {"dino|mae|ijepa|fcmae": _IN1K}
"""Pattern of a word that names a recipe -> the data set that it is used with, where no other word names one."""
_NAMED: Mapping[str, WeightsCard] = {
    **{name: WeightsCard("ImageNet-1k", _IN1K.saw) for name in WHEELS},
    "bert-base-uncased": WeightsCard("BookCorpus and English Wikipedia", ("text",)),
    "distilbert-base-uncased": WeightsCard("BookCorpus and English Wikipedia", ("text",)),
    "roberta-base": WeightsCard("BookCorpus, Wikipedia, news and pages of the web", ("text",)),
    "gpt2": WeightsCard("WebText", ("text",)),
    "microsoft/CodeGPT-small-py": WeightsCard("CodeSearchNet's functions in Python", ("code",)),
}
"""Name of a network without a tag -> the card of its weights."""


def weights_card(name: str, tag: str = "") -> WeightsCard | None:
    """Return the card of a network's pretrained weights; None if their training data are not known to dgbench.

    Args:
        name: The network's name, with or without the tag of its weights.
        tag: The tag, where the name has none and it is known nevertheless.
    """
    if name in _NAMED and not tag:
        return _NAMED[name]
    words = (tag or name.partition(".")[2]).split("_")
    named = _find_sources(words, _SOURCES) or _find_sources(words, _RECIPES)
    if not named:
        return None
    return WeightsCard(
        ", then ".join(dict.fromkeys(source.name for source in named)),
        tuple(dict.fromkeys(corpus for source in named for corpus in source.saw)),
    )


def _find_sources(words: Sequence[str], known: Mapping[str, _Source]) -> list[_Source]:
    """Return the data sets of words that match a pattern, in the order of the words."""
    return [source for word in words for pattern, source in known.items() if re.fullmatch(pattern, word)]


def starts_pretrained(setting: Setting) -> bool:
    """Return whether a network of a resolved setting starts from the published weights of its name."""
    published = setting.backbone not in SMALL and not is_own(setting.backbone)
    return setting.pretrained and not setting.weights and published
