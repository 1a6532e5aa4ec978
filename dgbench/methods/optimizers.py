"""Make the optimizers that a setting names, and prepare their steps: learning rates and clipped gradients.

Methods reach them by `Algorithm.new_optimizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from dgbench.core.setting import Setting

_KINDS: dict[str, Callable[..., Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD}


def make_optimizer(
    setting: Setting,
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
) -> Optimizer:
    """Make an optimizer over the parameters that require a gradient.

    Args:
        setting: Names its kind, and the momentum of SGD.
        parameters: Parameters, or groups of them as torch's optimizers take; of a group the options count.
        lr: Full learning rate.
        weight_decay: Weight decay.
        betas: For Adam and AdamW.
    """
    more: dict[str, Any] = {"momentum": setting.momentum} if setting.optimizer == "sgd" else {"betas": betas}
    make = _KINDS[setting.optimizer]
    optimizer = make(_learning(parameters), lr=lr, weight_decay=weight_decay, fused=True, **more)
    for group in optimizer.param_groups:
        # Kept in the group, so that it is saved with the optimizer's state, and each step scales the full rate and
        # not the rate of the step before.
        group["full_lr"] = group["lr"]
    return optimizer


def prepare_step(optimizer: Optimizer, factor: float, clip_norm: float) -> None:
    """Set the learning rates of a step, and clip the gradients of this optimizer's parameters.

    Args:
        optimizer: One of `make_optimizer`.
        factor: Share of the full learning rates.
        clip_norm: Largest norm of all gradients together; 0: any.
    """
    for group in optimizer.param_groups:
        group["lr"] = factor * group["full_lr"]
    if clip_norm:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        nn.utils.clip_grad_norm_(parameters, clip_norm, foreach=True)


def _learning(parameters: Iterable[Any]) -> list[Any]:
    """Return the parameters that require a gradient; of a group, the group with only those."""
    kept: list[Any] = []
    for item in parameters:
        if isinstance(item, dict):
            kept.append({**item, "params": [p for p in item["params"] if p.requires_grad]})
        elif item.requires_grad:
            kept.append(item)
    return kept
