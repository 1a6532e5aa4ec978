"""Save memory by computing activations twice: the backward pass computes them again instead of finding them kept.

PyTorch's checkpoints do the work, block by block of a network. What they compute again must be what was computed in the
forward pass, so `_AsInForward` sets a module back to it: its mode, its tensors (methods call networks with other
parameters for a moment) and its hooks (methods change what passes between stages), while running statistics of batch
norm, which have moved once, stay. timm's own `set_grad_checkpointing` does none of this, and in some of its networks
passes by the hooks of stages, so it is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dgbench.networks.norms import tracking_norms
from dgbench.networks.parts import children_of

_HELD = (
    *("_parameters", "_buffers", "_forward_hooks", "_forward_hooks_with_kwargs"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
)
"""Attributes of a module, each a dict, that decide what its forward pass computes."""


def recompute_blocks(featurizer: nn.Module) -> None:
    """Make each block of a featurizer keep its input alone in training, and compute the rest again."""
    for block in blocks_of(featurizer):
        # A method that is bound to the block is copied with it, which a closure over the block would not be.
        vars(block)["forward"] = MethodType(_forward, block)


def blocks_of(featurizer: nn.Module) -> list[nn.Module]:
    """Return the innermost items of sequences and lists of modules that have parts of their own; else the whole.

    These are the residual blocks of ResNets and ConvNeXts, and the layers of transformers. A network that is one
    sequence of layers has none.
    """
    return _blocks_within(featurizer) or [featurizer]


def _blocks_within(module: nn.Module) -> list[nn.Module]:
    """Return the blocks that lie in a module; none if it is one itself."""
    found = list[nn.Module]()
    for child in children_of(module):
        inner = _blocks_within(child)
        if not inner and isinstance(module, nn.Sequential | nn.ModuleList) and any(children_of(child)):
            inner = [child]
        found += inner
    return found


def _forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Compute a block as its class does; in training its activations are dropped."""
    forward = type(block).forward
    if block.training and torch.is_grad_enabled():
        return recomputed(block, forward, block, *args, **kwargs)
    return forward(block, *args, **kwargs)


def recomputed(module: nn.Module, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of a module now, and again in the backward pass, with the same random numbers.

    Args:
        module: The module whose state the function reads.
        function: Computes something that has a gradient.
        *args: Of the function. Those that are tensors are kept.
        **kwargs: Of the function.

    Returns:
        What the function returned the first time.
    """
    return checkpoint(
        function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _AsInForward(module)), **kwargs
    )


class _AsInForward:
    """A context in which a module is as it was when the context was made; it may be entered several times."""

    def __init__(self, module: nn.Module) -> None:
        self.states = [
            (part, {"training": part.training, **{name: vars(part)[name].copy() for name in _HELD}})
            for part in module.modules()
        ]
        self.norms = tracking_norms(module)
        self.versions = [(tensor, tensor._version) for tensor in module.parameters()]
        self.replaced: list[list[dict[str, Any]]] = []

    def __enter__(self) -> None:
        if any(tensor._version != version for tensor, version in self.versions):
            raise RuntimeError(
                "parameters were changed between the forward pass and its backward pass, so activations can't be "
                "computed again: train without checkpoint_activations and microbatch"
            )
        self.replaced.append([{name: vars(part)[name] for name in state} for part, state in self.states])
        for part, state in self.states:
            vars(part).update(state)
        for norm in self.norms:
            buffers = {name: tensor if tensor is None else tensor.clone() for name, tensor in norm._buffers.items()}
            vars(norm)["_buffers"] = buffers

    def __exit__(self, *_: object) -> None:
        for (part, _state), replaced in zip(self.states, self.replaced.pop(), strict=True):
            vars(part).update(replaced)
