"""Find the normalization layers of a network, by torch, timm or transformers.

Everything that looks for such layers uses these functions, methods and planning alike, so that all mean the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

_KINDS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""torch's classes; batch and instance norm of all dimensions extend the first."""
_NAMED = re.compile("(Batch|Layer|Group|RMS|Rms|Simple|Evo|FilterResponse)Norm")
"""Names of the classes that timm and transformers define themselves, which share no base class."""


def norms(module: nn.Module) -> list[nn.Module]:
    """Return the normalization layers of a module that have a scale or shift, in the module's order."""
    return [part for part in module.modules() if _is_norm(part) and list(part.parameters(recurse=False))]


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Return the layers that normalize by the minibatch in training, and by running statistics in evaluation.

    These are torch's batch norm of any dimension, layers that extend it, and timm's EvoNorm-B.
    """
    return [part for part in module.modules() if isinstance(part, _BatchNorm) or _is_written_anew(part)]


def tracking_norms(module: nn.Module) -> list[nn.Module]:
    """Return those of `batch_norms` that are in training mode and change their running statistics."""
    return [part for part in batch_norms(module) if part.training and tracks_statistics(part)]


def tracks_statistics(part: nn.Module) -> bool:
    """Return whether one of `batch_norms` keeps running statistics."""
    return bool(getattr(part, "track_running_stats", True)) and getattr(part, "running_var", None) is not None


def statistics_of(module: nn.Module) -> frozenset[str]:
    """Return the names in a module's state of the running statistics of batch norm, the counts of batches included."""
    names: dict[nn.Module, str] = {part: name for name, part in module.named_modules()}
    norms = (norm for norm in batch_norms(module) if tracks_statistics(norm))
    return frozenset(f"{names[norm]}.{name}" for norm in norms for name, _ in norm.named_buffers(recurse=False))


@contextmanager
def frozen_batch_norm_statistics(module: nn.Module) -> Iterator[None]:
    """Keep batch norm from changing its buffers within the block; in training mode it still normalizes by the batch."""
    live = tracking_norms(module)
    # Without `track_running_stats`, torch's batch norm leaves its buffers alone, the count of batches included. Layers
    # of other makers have no such switch: their buffers are copied and put back.
    others = [buffer for norm in live if not isinstance(norm, _BatchNorm) for buffer in norm.buffers(recurse=False)]
    saved = [buffer.clone() for buffer in others]
    norms = [norm for norm in live if isinstance(norm, _BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for buffer, before in zip(others, saved, strict=True):
            buffer.copy_(before)


def use_batch_statistics(module: nn.Module) -> list[nn.Module]:
    """Make batch norm normalize by the batch it is given, in evaluation mode too; return all of its layers.

    torch's layers lose their running statistics. Others would read theirs in evaluation mode, so they are put into
    training mode, which must be repeated after each change of the mode.
    """
    found = batch_norms(module)
    for norm in found:
        if isinstance(norm, _BatchNorm):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        else:
            norm.train()
    return found


def _is_norm(part: nn.Module) -> bool:
    """Return whether a layer normalizes, by its class or the name of its class."""
    return isinstance(part, _KINDS) or bool(_NAMED.search(type(part).__name__))


def _is_written_anew(part: nn.Module) -> bool:
    """Return whether a layer that is not torch's has a running variance that training moves."""
    anew = _is_norm(part) and not isinstance(part, _NormBase)
    return anew and getattr(part, "running_var", None) is not None and hasattr(part, "momentum")
