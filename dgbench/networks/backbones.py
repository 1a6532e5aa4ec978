"""Which network a name stands for on some inputs, what it takes and what it has; `network` builds them.

Imports timm, transformers and torch only inside functions, for names other than ours: planning does without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dgbench.core.cards import INPUTS, Need
from dgbench.core.errors import UserError
from dgbench.core.wording import unknown_name

ALIASES = ("auto", "domainbed-2020", "domainbed-2024")
EMBEDDING = "embedding"
"""What a network has of which is known what layers read the input."""
EMBEDDINGS = ("patch_embed", "norm_pre", "stem", "conv1", "bn1", "conv_stem")
"""What timm calls those layers, in transformers, ConvNeXts, ResNets and EfficientNets."""


class BuiltinBackbone(NamedTuple):
    """What is known of a network of ours without building it. All of them start from scratch."""

    takes: tuple[str, ...]
    """Kinds of inputs, of `cards.INPUTS`."""
    has: frozenset[str]
    """What methods may need of a network, of `cards.NEEDS`."""
    needs: tuple[Need, ...] = ()
    """What it needs of the setting."""
    inner_maps_from: int = 0
    """Least side of images with which it has `inner_maps`; 0: it never has."""


_MAPS = frozenset({"feature_maps", "inner_maps", "convolutions"})
_STAGES = frozenset({"stages", "stage_modules", EMBEDDING})
_ANY = _MAPS | _STAGES | {"learning_features", "norm", "batch_norm"}
_FLAT, _LEARNING = ("vectors", "images"), _STAGES | {"learning_features"}
_CONVOLUTIONAL = BuiltinBackbone(("images",), _LEARNING | {"norm", "feature_maps", "convolutions"})
BUILTIN_BACKBONES: Mapping[str, BuiltinBackbone] = {
    "Linear": BuiltinBackbone(_FLAT, _STAGES),
    "MLP": BuiltinBackbone(_FLAT, _LEARNING),
    "MNIST_CNN": _CONVOLUTIONAL._replace(inner_maps_from=3),
    "SmallCNN": _CONVOLUTIONAL._replace(inner_maps_from=5),
    "GIN": BuiltinBackbone(
        ("graphs",),
        _LEARNING | {"norm", "batch_norm"},
        (Need("eager", why="sees other numbers of atoms in each minibatch, and would be compiled anew for each"),),
    ),
}
"""Our networks; `Linear` is a classifier alone, and it and `MLP` take an image as one vector."""
SMALL = tuple(BUILTIN_BACKBONES)
_LARGE = {
    "auto": "resnet50.tv_in1k",
    "domainbed-2020": "resnet50.tv_in1k",
    "domainbed-2024": "resnet50.ram_in1k",
}
_INTERPOLATION = {"resnet50.tv_in1k": "bilinear", "resnet50.ram_in1k": "bicubic"}
"""timm's for the networks of aliases, so that planning does without timm."""


def check_backbone(name: str) -> None:
    """Raise `UserError` with the nearest if no network has that name, or timm no weights of that tag.

    Language models aren't asked for: whether there is one of that name, its hub knows.
    """
    if name in (*ALIASES, *SMALL, *_LARGE.values()):
        return
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        if is_language_model(name):
            return
        raise UserError(unknown_name("backbone", name, [*SMALL, *timm.list_models()]))
    if tag and name not in (tagged := timm.list_models(f"{architecture}.*", include_tags=True)):
        raise UserError(unknown_name("weights of a backbone", name, tagged))


def is_language_model(name: str) -> bool:
    """Whether a name may be one: a folder's with a slash in it, `owner/name` on the hub, or begun by a kind of them."""
    if "/" in name:
        return True
    kind, dash, _ = name.partition("-")
    if not dash or find_spec("transformers") is None:
        return False
    from transformers import CONFIG_MAPPING

    return kind in CONFIG_MAPPING


def resolve_backbone(name: str, kind: str, input_shape: Sequence[int]) -> str:
    """The network's own name; an alias is resolved by the inputs, as DomainBed does.

    Vectors: `MLP`. Graphs: `GIN`. Images of 28 x 28: `MNIST_CNN`, others under 112 pixels: `SmallCNN`, larger: the
    alias's ResNet-50. Raises `UserError` for texts and sequences, whose language models nothing tells apart.
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
    """The kinds of inputs (`cards.INPUTS`) that the network of that name (no alias) takes."""
    if name in BUILTIN_BACKBONES:
        return BUILTIN_BACKBONES[name].takes
    return ("texts", "sequences") if is_language_model(name) else ("images",)


def lacking(name: str, input_shape: Sequence[int]) -> frozenset[str]:
    """What of `cards.NEEDS` the network of that name (no alias) has not, for such inputs; and `EMBEDDING`.

    Raises `UserError` if it can't take them.
    """
    if name in BUILTIN_BACKBONES:
        least = BUILTIN_BACKBONES[name].inner_maps_from
        inner = {"inner_maps"} if least and min(input_shape[1:]) >= least else set()
        return _ANY - BUILTIN_BACKBONES[name].has - inner
    if is_language_model(name):
        return _MAPS | {"batch_norm"}
    return frozenset() if name in _LARGE.values() else inspect_timm_model(name, tuple(input_shape)).lacking


def drops_features(name: str) -> bool:
    """Whether DomainBed has dropout between the features of a network of that name (no alias) and its classifier.

    It has behind those of its ResNets and its ViT, of which timm's networks take the place; not in its `MNIST_CNN`.
    """
    return name not in BUILTIN_BACKBONES and not is_language_model(name)


def starts_without_statistics(name: str, input_shape: Sequence[int], *, pretrained: bool) -> bool:
    """Whether the network of that name (no alias) has batch norm, and no weights whose statistics come with them.

    Args:
        name: Its name.
        input_shape: The inputs, which it takes.
        pretrained: Whether it starts from weights that its name stands for, where there are such.
    """
    return (name in BUILTIN_BACKBONES or not pretrained) and "batch_norm" not in lacking(name, input_shape)


def check_inputs(name: str, input_shape: Sequence[int], kind: str = "") -> None:
    """Raise `UserError` if the network of that name (no alias) can't take inputs of that kind and shape.

    Without a `kind`, they are of one that the network takes and that has so many axes.
    """
    known = takes(name)
    kind = kind or next((other for other in (*known, *INPUTS) if len(input_shape) == INPUTS[other]), "inputs")
    if kind not in known:
        size = " x ".join(map(str, input_shape))
        instead = "" if kind in ("sequences", "graphs") else ", or say 'MLP'"
        raise UserError(
            f"backbone {name!r} takes {' or '.join(known)}, and these inputs are {kind} ({size}): leave it out{instead}"
        )
    if name not in (*SMALL, *_LARGE.values()) and kind == "images":
        inspect_timm_model(name, tuple(input_shape))


def timm_model(name: str, input_shape: Sequence[int], weights: Path | None = None) -> Any:
    """timm's network of that name without its classifier, for images (C, H, W); with timm's own `weights` in a file.

    Those that are made for images of one size are made for this one; timm then resamples what depends on it.
    """
    import timm

    facts = timm.get_pretrained_cfg(name)
    how: dict[str, Any] = {"img_size": tuple(input_shape[1:])} if facts and facts.fixed_input_size else {}
    if weights:
        how |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}}
    return timm.create_model(name, in_chans=input_shape[0], num_classes=0, **how)


@dataclass(frozen=True)
class TimmFacts:
    """What is known of a network of timm once an image has passed through one without memory."""

    width: int
    """How many features it makes. What timm calls `num_features` is another number where the network ends in a hidden
    layer (MobileNetV3, VGG)."""
    lacking: frozenset[str]
    """What of `cards.NEEDS` it has not."""


@cache
def inspect_timm_model(name: str, input_shape: tuple[int, ...]) -> TimmFacts:
    """Look at timm's network of that name, for a fraction of a second; raises `UserError` if it can't take images so.

    It is never called in earnest, so the caller's random numbers are left alone.
    """
    import torch

    outputs: dict[str, Any] = {}
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
        raise UserError(f"backbone {name!r} gives {found} numbers an image, not a vector: it is no classifier's")
    infos = getattr(model, "feature_info", ())
    stages = [_stage_of(outputs.get(info["module"]), info["num_chs"]) for info in infos]
    return TimmFacts(int(features.shape[1]), _lacking_of(model, stages))


def _stage_of(output: Any, channels: int) -> tuple[str, int]:
    """`maps` of (B, C, H, W), `tokens` of (B, n, C), or nothing that methods know to read; and how many positions."""
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) == 4 and shape[1] == channels:
        return "maps", shape[2] * shape[3]
    return ("tokens", shape[1]) if len(shape) == 3 and shape[2] == channels else ("", 0)


def _lacking_of(model: Any, stages: Sequence[tuple[str, int]]) -> frozenset[str]:
    from torch import nn

    from dgbench.networks.norms import batch_norms, norms

    kinds = {kind for kind, _ in stages}
    listed = getattr(model, "feature_info", None)  # of some networks, of which HRNet, timm lists modules that are none
    inner = [child for name, child in model.named_children() if name not in EMBEDDINGS]
    has_all = {
        "batch_norm": bool(batch_norms(model)),
        "norm": bool(norms(model)),
        "convolutions": any(isinstance(module, nn.Conv2d) for child in inner for module in child.modules()),
        "feature_maps": kinds == {"maps"} and stages[0][1] > 1,
        "inner_maps": kinds == {"maps"} and any(positions > 1 for _, positions in stages[1:-1] or stages[:-1]),
        "stages": bool(kinds) and kinds <= {"maps", "tokens"},
        "stage_modules": listed is None or {info["module"] for info in listed} <= dict(model.named_modules()).keys(),
        EMBEDDING: any(name in EMBEDDINGS for name, _ in model.named_children()),
    }
    return frozenset(name for name, has in has_all.items() if not has)


def _refused(name: str, input_shape: Sequence[int], why: str) -> str:
    import timm

    facts = timm.get_pretrained_cfg(name)
    made_for = facts.input_size[-1] if facts else 224
    return (
        f"backbone {name!r} can't take images of {' x '.join(map(str, input_shape))} ({why}); it was made for "
        f"{made_for} x {made_for}: say --hparams '{{\"image_size\": {made_for}}}', or choose another"
    )


def check_weights(name: str) -> None:
    """Raise `UserError` if there are no pretrained weights for the network of that name (no alias); ours need none.

    Of language models their hub knows.
    """
    if name in (*SMALL, *_LARGE.values()) or is_language_model(name):
        return
    import timm

    facts = timm.get_pretrained_cfg(name)
    if not (facts and facts.has_weights):
        raise UserError(
            f"there are no pretrained weights for backbone {name!r}: give a file by --backbone_weights, or train from "
            "scratch with --hparams '{\"pretrained\": false}'"
        )


def interpolation_of(name: str) -> str:
    """`bilinear` or `bicubic`: how images were resized for the weights of the network of that name (no alias).

    It is timm's for the tag of the name, pretrained or not; bilinear for networks that timm doesn't know.
    """
    if name in SMALL or is_language_model(name):
        return "bilinear"
    if name in _INTERPOLATION:
        return _INTERPOLATION[name]
    import timm

    facts = timm.get_pretrained_cfg(name)
    return str(facts.interpolation) if facts else "bilinear"


def normalisation_of(name: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of each channel that the network's weights were made with; None: pixels stay in [0, 1].

    They are timm's for the tag of the name, pretrained or not; images of other than three channels have none.
    """
    if name in SMALL or channels != 3:
        return None
    import timm
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    facts = timm.get_pretrained_cfg(name)
    return (tuple(facts.mean), tuple(facts.std)) if facts else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
