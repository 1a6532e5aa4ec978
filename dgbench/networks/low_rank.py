"""Train a featurizer by low-rank changes of its weights (LoRA): W + scale B A, of which A and B alone learn.

    h = (W + scale B A) x,   W (out, in) fixed,   A (rank, in) random,   B (out, rank) 0,   scale = alpha / rank

The library peft makes A and B of each layer, with their initial values and the scale. The sum is a parametrization of
PyTorch, so a layer keeps its class, its name and its hooks, and everything that reads its weights reads the sum:
attention, which uses weights of layers that it never calls, and methods that look for layers by class. Layers of peft
would stand around those of the network instead, and its attention layer adds and subtracts B A in each pass, which
moves W by rounding.

Outside of training there is no LoRA: a model's weights are the sums, under the names of the plain network
(`plain_weights`). What averages, merges, adapts, analyzes, exports or predicts takes such weights in a plain network.

Imports peft, which imports transformers, only inside functions.

Reference:
    Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen, "LoRA: Low-Rank Adaptation of Large Language Models", ICLR
    2022.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from dgbench.core.errors import UserError
from dgbench.core.setting import Setting
from dgbench.networks.parts import layers_that_read

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_KINDS = (nn.Linear, nn.MultiheadAttention, *_CONVOLUTIONS)
"""torch's layers that change by default; `Conv1D` of transformers, a linear layer, is another."""
_NAMED = 5
"""Most layers that a message names."""


class LowRank(nn.Module):
    """The parametrization of a layer's weights W as W + scale B A, made by `add_low_rank`.

    Of weights with more than two axes, rows are the first axis, and columns all others.

    Args:
        lora_A: (rank, columns of W).
        lora_B: (rows of W, rank).
        scale: The factor on B A.
        transposed: Whether W is (columns, rows), as in transformers' `Conv1D` and in embeddings.
    """

    def __init__(self, lora_A: Tensor, lora_B: Tensor, scale: float, *, transposed: bool) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(lora_A.detach())
        self.lora_B = nn.Parameter(lora_B.detach())
        self.scale, self.transposed = scale, transposed

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights that the layer uses, in the type of W also under autocast."""
        with torch.autocast(weight.device.type, enabled=False):
            change = self.scale * (self.lora_B.flatten(1) @ self.lora_A.flatten(1))
            return weight + (change.T if self.transposed else change).reshape(weight.shape)


class _Place(NamedTuple):
    """A tensor of a layer that has a `LowRank`."""

    layer: nn.Module
    tensor: str
    """Name of the tensor in the layer: `weight`."""
    plain: str
    """Its name in the plain network."""
    prefix: str
    """Beginning of the names of the tensors that it is computed from."""
    low_rank: LowRank
    """Its change."""


def add_low_rank(featurizer: nn.Module, setting: Setting) -> None:
    """Give the layers that `lora_targets` names low-rank changes, which alone learn from now on.

    The draws of A leave torch's generator as it was before, so that everything else starts as without them.

    Args:
        featurizer: With the weights to start from; changed in place.
        setting: The run's, with a `lora_rank`.

    Raises:
        UserError: peft is missing, no layer fits, or peft refuses a layer.
    """
    targets = find_targets(featurizer, setting)
    import peft  # with transformers, which take seconds

    # peft takes a text for a pattern that whole names must match.
    config = peft.LoraConfig(
        r=setting.lora_rank,
        lora_alpha=setting.lora_alpha or setting.lora_rank,  # type: ignore[arg-type]
        target_modules="|".join(map(re.escape, targets)),
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # That the weights of transformers' `Conv1D` are transposed, which peft sees by itself.
        warnings.filterwarnings("ignore", "fan_in_fan_out")
        torch.manual_seed(int(torch.randint(2**31, ())))
        try:
            peft.inject_adapter_in_model(config, featurizer)
        except (TypeError, ValueError) as error:
            raise UserError(f"peft can't change a layer of backbone {setting.backbone!r}: {error}") from error
    vars(featurizer).pop("peft_config", None)
    featurizer.requires_grad_(False)
    _take_over(featurizer)


def _take_over(module: nn.Module) -> None:
    """Put each layer back in the place of peft's layer around it, with peft's A and B as a parametrization."""
    from peft.tuners.lora import LoraLayer

    for name, child in list(module.named_children()):
        layer = child
        if isinstance(child, LoraLayer):
            layer = child.get_base_layer()
            setattr(module, name, layer)
            tensor = "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight"
            register_parametrization(layer, tensor, _taken_from(child, layer))
        _take_over(layer)


def _taken_from(made: Any, layer: nn.Module) -> LowRank:
    """Return the A, B and scale that peft has made for a layer."""
    (name,) = made.scaling
    if isinstance(layer, nn.Embedding):
        a, b = made.lora_embedding_A[name], made.lora_embedding_B[name]
    else:
        a, b = made.lora_A[name].weight, made.lora_B[name].weight
    return LowRank(a, b, made.scaling[name], transposed=isinstance(layer, nn.Embedding) or _is_transposed(layer))


def check_low_rank(setting: Setting) -> None:
    """Raise `UserError` if a setting has a `lora_rank` and peft is not installed."""
    if setting.lora_rank and find_spec("peft") is None:
        raise UserError("lora_rank needs the package peft: pip install 'dgbench[lora]'")


def find_targets(featurizer: nn.Module, setting: Setting) -> dict[str, nn.Module]:
    """Return the layers of a featurizer that change under a setting, by their names.

    By default they are its linear layers, attention layers and convolutions without groups, but for those that read
    the input. Named layers change even if they read it.

    Args:
        featurizer: The featurizer, without low-rank changes.
        setting: The run's, with a `lora_rank`.

    Raises:
        UserError: peft is missing, there is no such layer, or a name means none, or one that can't change.
    """
    check_low_rank(setting)
    patterns = setting.lora_targets.split()
    known = {name: layer for name, layer in _layers_of(featurizer) if patterns or not isinstance(layer, nn.Embedding)}
    if not patterns:
        reading = {part for layer in layers_that_read(featurizer) for part in layer.modules()}
        found = {name: layer for name, layer in known.items() if layer not in reading and not _grouped(layer)}
        if not found:
            raise UserError(
                f"backbone {setting.backbone!r} has no linear layer or convolution for lora_rank to change, beside "
                "those that read the input: leave it out, or name layers by lora_targets"
            )
        return found
    names = list(known)
    listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    if unknown := [pattern for pattern in patterns if not any(_is_meant(name, pattern) for name in names)]:
        raise UserError(
            f"lora_targets {' and '.join(map(repr, unknown))} names no layer of backbone {setting.backbone!r} that "
            f"can change: these are {listed or 'none'}"
        )
    found = {name: layer for name, layer in known.items() if any(_is_meant(name, pattern) for pattern in patterns)}
    if grouped := [name for name, layer in found.items() if _grouped(layer)]:
        raise UserError(
            f"lora_targets names {grouped[0]} of backbone {setting.backbone!r}, a convolution of groups, whose weights "
            "are small already: name others"
        )
    return found


def _layers_of(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers in a module that can change, with their names."""
    for name, child in module.named_children():
        if isinstance(child, (*_KINDS, nn.Embedding)) or _is_transposed(child):
            yield prefix + name, child
        # The output layer within an attention layer changes with it.
        if not isinstance(child, nn.MultiheadAttention):
            yield from _layers_of(child, f"{prefix}{name}.")


def _is_transposed(layer: nn.Module) -> bool:
    """Return whether a layer is transformers' `Conv1D`, a linear layer with transposed weights."""
    return type(layer).__name__ == "Conv1D" and type(layer).__module__.startswith("transformers")


def _grouped(layer: nn.Module) -> bool:
    return isinstance(layer, _CONVOLUTIONS) and layer.groups > 1


def _is_meant(name: str, pattern: str) -> bool:
    """Return whether a pattern fits a layer's name, a part of it, or the name of a module that the layer is in."""
    parts = name.split(".")
    ends = range(1, len(parts) + 1)
    return any(fnmatchcase(".".join(parts[first:end]), pattern) for end in ends for first in range(end))


def _places(module: nn.Module) -> Iterator[_Place]:
    """Yield the tensors in a module that have a `LowRank`."""
    for path, layer in module.named_modules():
        chains: Any = layer.parametrizations if is_parametrized(layer) else {}
        for tensor, chain in chains.items():
            if isinstance(chain[0], LowRank):
                start = f"{path}." if path else ""
                yield _Place(layer, tensor, f"{start}{tensor}", f"{start}parametrizations.{tensor}.", chain[0])


def fixed_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights in a module that have a `LowRank` and stay themselves, by their names in it."""
    names = [f"{place.prefix}original" for place in _places(module)]
    return {name: module.get_parameter(name) for name in names}


@torch.no_grad()
def plain_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a module's tensors as the plain network has them: the sums under its names, all others as they are.

    Args:
        module: The module.
        tensors: Its live tensors, or a part of them, by their names in it.
    """
    sums, parts = dict[str, _Place](), set[str]()
    for place in _places(module):
        sums[f"{place.prefix}original"] = place
        parts |= {f"{place.prefix}0.lora_A", f"{place.prefix}0.lora_B"}
    found = dict[str, Tensor]()
    for name, tensor in tensors.items():
        if name in sums:
            found[sums[name].plain] = getattr(sums[name].layer, sums[name].tensor)
        elif name not in parts:
            found[name] = tensor
    return found


def placed_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of the plain network under the names of a module that has `LowRank` changes, which become 0.

    Args:
        module: The module.
        weights: As `plain_weights` returns them.
    """
    found = dict(weights)
    for place in _places(module):
        if place.plain in found:
            found[f"{place.prefix}original"] = found.pop(place.plain)
            found[f"{place.prefix}0.lora_B"] = torch.zeros_like(place.low_rank.lora_B)
    return found
