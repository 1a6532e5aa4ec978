"""Which network a name stands for on inputs of some shape, and whether it can take them; `networks` builds them.

Imports no torch by itself; timm, which does, only for names other than ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dgbench.errors import UserError, unknown

ALIASES = ("auto", "domainbed-2020", "domainbed-2024")
FLAT = ("Linear", "MLP")
"""They take each input as one vector; `Linear` is a classifier alone."""
SMALL = (*FLAT, "MNIST_CNN", "SmallCNN")
EMBEDDINGS = ("patch_embed", "norm_pre", "stem", "conv1", "bn1", "conv_stem")
"""What timm calls the layers that read the input, in transformers, ConvNeXts, ResNets and EfficientNets."""
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
        raise UserError(unknown("backbone", name, [*SMALL, *timm.list_models()]))
    if tag and name not in (tagged := timm.list_models(f"{architecture}.*", include_tags=True)):
        raise UserError(unknown("weights of a backbone", name, tagged))


def is_language_model(name: str) -> bool:
    """Whether a name may be one: a folder's with a slash in it, `owner/name` on the hub, or begun by a kind of them."""
    if "/" in name:
        return True
    kind, dash, _ = name.partition("-")
    if not dash or find_spec("transformers") is None:
        return False
    from transformers import CONFIG_MAPPING

    return kind in CONFIG_MAPPING


def resolve_backbone(name: str, input_shape: Sequence[int]) -> str:
    """The network's own name; an alias is resolved by the shape of an input, as DomainBed does.

    Vectors: `MLP`. 28 x 28: `MNIST_CNN`. Other images under 112 pixels: `SmallCNN`. Larger: the alias's ResNet-50.
    """
    if name not in ALIASES:
        return name
    if len(input_shape) == 1:
        return "MLP"
    if tuple(input_shape[1:]) == (28, 28):
        return "MNIST_CNN"
    return "SmallCNN" if min(input_shape[1:]) < 112 else _LARGE[name]


def check_inputs(name: str, input_shape: Sequence[int]) -> None:
    """Raise `UserError` if the network of that name (no alias) can't take inputs of that shape."""
    if name == "MLP" or (name == "Linear" and len(input_shape) != 2):
        return
    takes = "vectors or images" if name == "Linear" else "texts" if is_language_model(name) else "images"
    if len(input_shape) != {"texts": 2, "images": 3}.get(takes):
        size = " x ".join(map(str, input_shape))
        raise UserError(f"backbone {name!r} takes {takes}, and these inputs are {size}: leave it out, or say 'MLP'")
    if takes == "images" and name not in (*SMALL, *_LARGE.values()):
        timm_look(name, tuple(input_shape))


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
class Look:
    """What is known of a network of timm once an image has passed through one without memory."""

    width: int
    """How many features it makes. What timm calls `num_features` is another number where the network ends in a hidden
    layer (MobileNetV3, VGG)."""
    lacking: frozenset[str]
    """As `lacking_of` has it."""


@cache
def timm_look(name: str, input_shape: tuple[int, ...]) -> Look:
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
    stages = [_kind_of(outputs.get(info["module"]), info["num_chs"]) for info in infos]
    return Look(int(features.shape[1]), _lacking(model, stages))


def _kind_of(output: Any, channels: int) -> str:
    """`maps` of (B, C, H, W), `tokens` of (B, n, C), or nothing that methods know to read."""
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) == 4 and shape[1] == channels:
        return "maps"
    return "tokens" if len(shape) == 3 and shape[2] == channels else ""


def _lacking(model: Any, stages: Sequence[str]) -> frozenset[str]:
    from torch import nn

    batch = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    norms = {
        "batch_norm": any(isinstance(module, batch) for module in model.modules()),
        "norm": any(isinstance(module, (*batch, nn.LayerNorm, nn.GroupNorm)) for module in model.modules()),
        "feature_maps": bool(stages) and set(stages) == {"maps"},
        "stages": bool(stages) and set(stages) <= {"maps", "tokens"},
        "embedding": any(name in EMBEDDINGS for name, _ in model.named_children()),
    }
    return frozenset(name for name, has in norms.items() if not has)


def lacking_of(name: str, input_shape: Sequence[int]) -> frozenset[str]:
    """What of `cards.NEEDS` the network of that name (no alias) lacks, and `embedding`: layers that read the input."""
    if name == "Linear":
        return frozenset({"batch_norm", "norm", "feature_maps", "embedding"})
    if name in SMALL:
        return frozenset({"batch_norm", "norm", "feature_maps"} if name in FLAT else {"batch_norm"})
    if name in _LARGE.values():
        return frozenset()
    if len(input_shape) != 3:
        return frozenset({"batch_norm", "feature_maps"})
    return timm_look(name, tuple(input_shape)).lacking


def _refused(name: str, input_shape: Sequence[int], why: str) -> str:
    import timm

    facts = timm.get_pretrained_cfg(name)
    made_for = facts.input_size[-1] if facts else 224
    return (
        f"backbone {name!r} can't take images of {' x '.join(map(str, input_shape))} ({why}); it was made for "
        f"{made_for} x {made_for}: say --hparams '{{\"image_size\": {made_for}}}', or choose another"
    )


def check_weights(name: str) -> None:
    """Raise `UserError` if there are no pretrained weights for the network of that name (no alias); ours need none."""
    if name in (*SMALL, *_LARGE.values()):
        return
    import timm

    facts = timm.get_pretrained_cfg(name)
    if not (facts and facts.has_weights):
        raise UserError(
            f"there are no pretrained weights for backbone {name!r}: give a file by --backbone_weights, or train from "
            "scratch with --hparams '{\"pretrained\": false}'"
        )


def interpolation_of(name: str, input_shape: Sequence[int]) -> str:
    """`bilinear` or `bicubic`: how images were resized for the weights of the network of that name (no alias).

    It is timm's for the tag of the name, pretrained or not; bilinear for networks and inputs that timm doesn't know.
    """
    if name in SMALL or len(input_shape) != 3:
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
