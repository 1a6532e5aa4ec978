"""Normalisation layers of a network, whoever wrote them: torch, timm or transformers.

Whatever looks for such layers, and planning, which asks whether a network has some, looks for them by these functions.
"""

from __future__ import annotations

import re

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

_KINDS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""torch's. Batch and instance norm in all dimensions are kinds of the first."""
_NAMED = re.compile("(Batch|Layer|Group|RMS|Rms|Simple|Evo|FilterResponse)Norm")
"""What timm and transformers call those that they write themselves, which have no base class in common."""


def norms(module: nn.Module) -> list[nn.Module]:
    """List the normalisation layers of a module that have scales or shifts, in its order."""
    return [part for part in module.modules() if _is_norm(part) and list(part.parameters(recurse=False))]


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """List the layers of a module that normalise by the minibatch in training, by running statistics in evaluation.

    They are torch's batch norm of any dimension, what is made of it, and timm's EvoNorm-B.
    """
    return [part for part in module.modules() if isinstance(part, _BatchNorm) or _is_written_anew(part)]


def tracking_norms(module: nn.Module) -> list[nn.Module]:
    """List those of `batch_norms` that are in training mode and change their running statistics."""
    return [part for part in batch_norms(module) if part.training and tracks_statistics(part)]


def tracks_statistics(part: nn.Module) -> bool:
    """Whether one of `batch_norms` keeps running statistics."""
    return bool(getattr(part, "track_running_stats", True)) and getattr(part, "running_var", None) is not None


def use_batch_statistics(module: nn.Module) -> list[nn.Module]:
    """Let batch norm normalise by the batch at hand, in evaluation mode too, and return all of it.

    torch's forgets its running statistics. What others wrote reads its own in evaluation mode, so it is put into
    training mode, and needs to be again after each change of the mode.
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
    return isinstance(part, _KINDS) or bool(_NAMED.search(type(part).__name__))


def _is_written_anew(part: nn.Module) -> bool:
    """Whether a layer that is none of torch's has a running variance that training moves."""
    anew = _is_norm(part) and not isinstance(part, _NormBase)
    return anew and getattr(part, "running_var", None) is not None and hasattr(part, "momentum")
