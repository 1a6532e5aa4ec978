"""Resolve names of backbones, and look up which inputs a network takes and which needs it meets, without building it.

`network` builds them. Imports timm, transformers and torch only inside functions, and only for names of their networks:
planning does without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dgbench.core.data_cards import INPUTS
from dgbench.core.errors import UserError
from dgbench.core.needs import Need
from dgbench.core.wording import unknown_name
from dgbench.networks.clip_names import check_clip, check_clip_weights, is_clip, preprocessing
from dgbench.networks.own import check_own, inspect_own, is_own

ALIASES = ("auto", "domainbed-2020", "domainbed-2024")
"""Names that stand for a network which the inputs decide."""
EMBEDDING = "embedding"
"""Fact about a network: it is known which of its layers read the input."""
EMBEDDINGS = ("patch_embed", "norm_pre", "stem", "conv1", "bn1", "conv_stem", "ln_pre")
"""timm's names of those layers, in transformers, ConvNeXts, ResNets and EfficientNets; and open_clip's last."""


class BuiltinBackbone(NamedTuple):
    """Facts about one of dgbench's own networks, all of which start from scratch."""

    takes: tuple[str, ...]
    """Kinds of inputs, keys of `data_cards.INPUTS`."""
    has: frozenset[str]
    """Keys of `needs.NEEDS` that it meets."""
    needs: tuple[Need, ...] = ()
    """Needs that the setting must meet."""
    inner_maps_from: int = 0
    """Least side of images for which it has `inner_maps`; 0: it never has."""


_MAPS = frozenset({"feature_maps", "inner_maps", "convolutions"})
_STAGES = frozenset({"stages", "stage_modules", EMBEDDING})
_ANY = _MAPS | _STAGES | {"learning_features", "norm", "batch_norm", "units"}
_FLAT, _LEARNING = ("vectors", "images"), _STAGES | {"learning_features"}
_CONVOLUTIONAL = BuiltinBackbone(("images",), _LEARNING | {"units", "norm", "feature_maps", "convolutions"})
BUILTIN_BACKBONES: Mapping[str, BuiltinBackbone] = {
    "Linear": BuiltinBackbone(_FLAT, _STAGES | {"units"}),
    "MLP": BuiltinBackbone(_FLAT, _LEARNING | {"units"}),
    "MNIST_CNN": _CONVOLUTIONAL._replace(inner_maps_from=3),
    "SmallCNN": _CONVOLUTIONAL._replace(inner_maps_from=5),
    "GIN": BuiltinBackbone(
        ("graphs",),
        _LEARNING | {"norm", "batch_norm"},
        (Need("eager", why="sees other numbers of atoms in each minibatch, and would be compiled anew for each"),),
    ),
}
"""dgbench's own networks by name. `Linear` is a classifier alone; it and `MLP` take an image as one vector."""
SMALL = tuple(BUILTIN_BACKBONES)
"""Names of dgbench's own networks."""
_LARGE = {
    "auto": "resnet50.tv_in1k",
    "domainbed-2020": "resnet50.tv_in1k",
    "domainbed-2024": "resnet50.ram_in1k",
}
"""Alias -> the network that it stands for on large images."""
_INTERPOLATION = {"resnet50.tv_in1k": "bilinear", "resnet50.ram_in1k": "bicubic"}
"""timm's interpolation for the networks of aliases, repeated so that planning does without timm."""


def check_backbone(name: str) -> None:
    """Raise `UserError`, with the nearest name, if no network has that name or timm no weights of that tag.

    Names of language models are accepted unchecked: only their hub knows them.
    """
    if name in (*ALIASES, *SMALL, *_LARGE.values()):
        return
    if is_own(name):
        check_own(name)
        return
    if is_clip(name):
        check_clip(name)
        return
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        if is_language_model(name):
            return
        hint = "a class of yours needs --include FILE.py"
        raise UserError(unknown_name("backbone", name, [*SMALL, *timm.list_models()], hint))
    if tag and name not in (tagged := timm.list_models(f"{architecture}.*", include_tags=True)):
        raise UserError(unknown_name("weights of a backbone", name, tagged))


def is_language_model(name: str) -> bool:
    """Return whether a name may be a language model's.

    It is if it has a slash (a folder, or `owner/name` on the hub), or begins with a kind that transformers knows
    (`bert-`). CLIP's names are none.
    """
    if is_clip(name):
        return False
    if "/" in name:
        return True
    kind, dash, _ = name.partition("-")
    if not dash or find_spec("transformers") is None:
        return False
    from transformers import CONFIG_MAPPING

    return kind in CONFIG_MAPPING


def resolve_backbone(name: str, kind: str, input_shape: Sequence[int]) -> str:
    """Return the network's own name: an alias is resolved by the inputs, as DomainBed does.

    Vectors get `MLP`, graphs `GIN`, images of 28 x 28 `MNIST_CNN`, other images below 112 pixels `SmallCNN`, and larger
    ones the alias's ResNet-50.

    Args:
        name: A network's name, or one of `ALIASES`.
        kind: Kind of the inputs, a key of `data_cards.INPUTS`.
        input_shape: Shape of one input, without the batch axis.

    Raises:
        UserError: An alias on texts or sequences: no language model is the obvious one.
    """
    if name not in ALIASES:
        return name
    if kind in ("texts", "sequences"):
        bags = "'MLP', or " if kind == "texts" else ""
        raise UserError(f"backbone {name!r} stands for no network of {kind}: say {bags}a language model's name")
    if kind != "images":
        return {"vectors": "MLP", "graphs": "GIN"}[kind]
    if tuple(input_shape[1:]) == (28, 28):
        return "MNIST_CNN"
    return "SmallCNN" if min(input_shape[1:]) < 112 else _LARGE[name]


def takes(name: str) -> tuple[str, ...]:
    """Return the kinds of inputs (`data_cards.INPUTS`) that a network takes, by its own name."""
    if name in BUILTIN_BACKBONES:
        return BUILTIN_BACKBONES[name].takes
    if is_own(name):
        return "images", "vectors"
    return ("texts", "sequences") if is_language_model(name) else ("images",)


def lacking(name: str, input_shape: Sequence[int]) -> frozenset[str]:
    """Return the keys of `needs.NEEDS`, and `EMBEDDING`, that a network does not meet on such inputs.

    Args:
        name: Of the network; no alias.
        input_shape: Shape of one input, without the batch axis.

    Raises:
        UserError: The network can't take the inputs.
    """
    if name in BUILTIN_BACKBONES:
        least = BUILTIN_BACKBONES[name].inner_maps_from
        inner = {"inner_maps"} if least and min(input_shape[1:]) >= least else set()
        return _ANY - BUILTIN_BACKBONES[name].has - inner
    if is_own(name):
        return _ANY - inspect_own(name, tuple(input_shape)).has
    if is_language_model(name):
        return _MAPS | {"batch_norm", "units"}
    if is_clip(name):
        from dgbench.networks.clip import inspect_clip  # with torch, and open_clip

        return _ANY - {"learning_features"} - inspect_clip(name, tuple(input_shape))
    return frozenset() if name in _LARGE.values() else inspect_timm_model(name, tuple(input_shape)).lacking


def drops_features(name: str) -> bool:
    """Return whether DomainBed has dropout between the features of such a network and its classifier.

    It has in its ResNets and its ViT, which correspond to timm's networks, and not in its `MNIST_CNN`.
    """
    return is_timms(name)


def is_timms(name: str) -> bool:
    """Return whether a network, by its own name, is one of timm's."""
    return not (name in BUILTIN_BACKBONES or is_own(name) or is_clip(name) or is_language_model(name))


def starts_random(name: str, input_shape: Sequence[int], *, pretrained: bool) -> bool:
    """Return whether a network starts from random weights, unless a file of weights is given.

    Args:
        name: Of the network; no alias.
        input_shape: Shape of one input, which it takes.
        pretrained: It starts from the pretrained weights of its name, if there are any.
    """
    if is_own(name):
        return not inspect_own(name, tuple(input_shape)).trained
    return name in BUILTIN_BACKBONES or not pretrained


def starts_without_statistics(name: str, input_shape: Sequence[int], *, pretrained: bool) -> bool:
    """Return whether a network has batch norm, but no pretrained weights that bring running statistics.

    Args:
        name: Of the network; no alias.
        input_shape: Shape of one input, which it takes.
        pretrained: It starts from the pretrained weights of its name, if there are any.
    """
    random = starts_random(name, input_shape, pretrained=pretrained)
    return random and "batch_norm" not in lacking(name, input_shape)


def check_inputs(name: str, input_shape: Sequence[int], kind: str = "") -> None:
    """Raise `UserError` if a network can't take inputs of a kind and shape.

    Args:
        name: Of the network; no alias.
        input_shape: Shape of one input, without the batch axis.
        kind: A key of `data_cards.INPUTS`; empty: the first kind with as many axes, preferably one that the network
            takes.
    """
    known = takes(name)
    kind = kind or next((other for other in (*known, *INPUTS) if len(input_shape) == INPUTS[other]), "inputs")
    if kind not in known:
        size = " x ".join(map(str, input_shape))
        instead = "" if kind in ("sequences", "graphs") else ", or say 'MLP'"
        raise UserError(
            f"backbone {name!r} takes {' or '.join(known)}, and these inputs are {kind} ({size}): leave it out{instead}"
        )
    if is_own(name):
        inspect_own(name, tuple(input_shape))
    elif is_clip(name):
        lacking(name, input_shape)
    elif name not in (*SMALL, *_LARGE.values()) and kind == "images":
        inspect_timm_model(name, tuple(input_shape))


def timm_model(name: str, input_shape: Sequence[int], weights: Path | None = None) -> Any:
    """Build timm's network of that name without its classifier, for images (C, H, W).

    Networks made for images of one size are made for this size; timm then resamples the weights that depend on it, such
    as positions.

    Args:
        name: timm's, with or without a tag.
        input_shape: (C, H, W).
        weights: File of timm's weights to start from; None: random weights.
    """
    import timm

    facts = timm.get_pretrained_cfg(name)
    how: dict[str, Any] = {"img_size": tuple(input_shape[1:])} if facts and facts.fixed_input_size else {}
    if weights:
        how |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}}
    return timm.create_model(name, in_chans=input_shape[0], num_classes=0, **how)


@dataclass(frozen=True)
class TimmFacts:
    """Facts about a network of timm, found by passing one image through it without memory."""

    width: int
    """Number of features. timm's `num_features` is another number where the network ends in a hidden layer
    (MobileNetV3, VGG)."""
    lacking: frozenset[str]
    """Keys of `needs.NEEDS`, and `EMBEDDING`, that it does not meet."""


@cache
def inspect_timm_model(name: str, input_shape: tuple[int, ...]) -> TimmFacts:
    """Return the facts about timm's network of a name, within a second; raise `UserError` if it can't take the images.

    Args:
        name: timm's, with or without a tag.
        input_shape: (C, H, W) of the images.
    """
    import torch

    outputs: dict[str, Any] = {}
    # On the meta device nothing is computed. Building a network still draws, so the caller's generator is put back.
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        try:
            model = timm_model(name, input_shape).eval()
            for module_name, module in model.named_modules():
                module.register_forward_hook(lambda _, __, out, n=module_name: outputs.update({n: out}))
            features = model(torch.empty(1, *input_shape))
        except Exception as error:
            raise UserError(_refused(name, input_shape, str(error).partition("\n")[0])) from error
    if features.dim() != 2:
        found = " x ".join(map(str, features.shape[1:]))
        raise UserError(f"backbone {name!r} gives {found} numbers an image, not a vector, so it is no featurizer")
    infos = getattr(model, "feature_info", ())
    stages = [_stage_of(outputs.get(info["module"]), info["num_chs"]) for info in infos]
    return TimmFacts(int(features.shape[1]), _lacking_of(model, stages))


def _stage_of(output: Any, channels: int) -> tuple[str, int]:
    """Return the form of a stage's output and its number of positions.

    The form is `maps` for (B, C, H, W), `tokens` for (B, n, C), and empty for any other, which methods can't read.
    """
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) == 4 and shape[1] == channels:
        return "maps", shape[2] * shape[3]
    return ("tokens", shape[1]) if len(shape) == 3 and shape[2] == channels else ("", 0)


def _lacking_of(model: Any, stages: Sequence[tuple[str, int]]) -> frozenset[str]:
    """Return the facts that a network of timm lacks, given the form and positions of each stage."""
    from torch import nn

    from dgbench.networks.norms import batch_norms, norms

    kinds = {kind for kind, _ in stages}
    # Of some networks (HRNet) timm lists stages that are no modules.
    listed = getattr(model, "feature_info", None)
    inner = [child for name, child in model.named_children() if name not in EMBEDDINGS]
    has_all = {
        "batch_norm": bool(batch_norms(model)),
        "norm": bool(norms(model)),
        "convolutions": any(isinstance(module, nn.Conv2d) for child in inner for module in child.modules()),
        "feature_maps": kinds == {"maps"} and stages[0][1] > 1,
        # Whether every operation is known is seen when runs are merged: tracing takes seconds.
        "units": kinds == {"maps"},
        "inner_maps": kinds == {"maps"} and any(positions > 1 for _, positions in stages[1:-1] or stages[:-1]),
        "stages": bool(kinds) and kinds <= {"maps", "tokens"},
        "stage_modules": listed is None or {info["module"] for info in listed} <= dict(model.named_modules()).keys(),
        EMBEDDING: any(name in EMBEDDINGS for name, _ in model.named_children()),
    }
    return frozenset(name for name, has in has_all.items() if not has)


def _refused(name: str, input_shape: Sequence[int], why: str) -> str:
    """Word the refusal of images that a network can't take."""
    import timm

    facts = timm.get_pretrained_cfg(name)
    made_for = facts.input_size[-1] if facts else 224
    return (
        f"backbone {name!r} can't take images of {' x '.join(map(str, input_shape))} ({why}); it was made for "
        f"{made_for} x {made_for}: say --set image_size={made_for}, or choose another"
    )


def check_weights(name: str) -> None:
    """Raise `UserError` if there are no pretrained weights for a network of timm; other networks pass unchecked.

    Built-in networks and those of the user's own need none, and those of language models only their hub knows.
    """
    if is_clip(name):
        check_clip_weights(name)
    if name in _LARGE.values() or not is_timms(name):
        return
    import timm

    facts = timm.get_pretrained_cfg(name)
    if not (facts and facts.has_weights):
        raise UserError(
            f"there are no pretrained weights for backbone {name!r}: give a file by --backbone_weights, or train from "
            "scratch with --set pretrained=false"
        )


def interpolation_of(name: str) -> str:
    """Return `bilinear` or `bicubic`: how images were resized for the weights of a network.

    It is timm's value for the tag of the name, pretrained or not; bilinear for networks that timm doesn't have.
    """
    if is_clip(name):
        return str(preprocessing(name)["interpolation"])
    if not is_timms(name):
        return "bilinear"
    if name in _INTERPOLATION:
        return _INTERPOLATION[name]
    import timm

    facts = timm.get_pretrained_cfg(name)
    return str(facts.interpolation) if facts else "bilinear"


def normalization_of(name: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and deviation of each channel, as a network's weights were made with; None: pixels stay in [0, 1].

    They are timm's values for the tag of the name, pretrained or not. Built-in networks have none, nor have images of
    other than three channels.
    """
    if name in SMALL or channels != 3:
        return None
    if is_clip(name):
        how = preprocessing(name)
        return tuple(how["mean"]), tuple(how["std"])
    import timm
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    facts = timm.get_pretrained_cfg(name)
    return (tuple(facts.mean), tuple(facts.std)) if facts else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
