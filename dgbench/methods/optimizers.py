"""Make the optimizers that a setting names, and prepare their steps: learning rates and clipped gradients.

Methods reach them by `Algorithm.new_optimizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from dgbench.core.optimizers import WITH_AMSGRAD
from dgbench.core.setting import Setting


class _Kind(NamedTuple):
    """One kind of optimizer: the class, and which of a setting's and a method's values it takes."""

    make: Callable[..., Optimizer]
    options: dict[str, Any]
    """Arguments that are always given."""
    momentum: bool
    """True if it takes the setting's momentum."""
    betas: bool
    """True if it takes two betas."""


_OURS = {
    "adam": _Kind(Adam, {"fused": True}, momentum=False, betas=True),
    "adamw": _Kind(AdamW, {"fused": True}, momentum=False, betas=True),
    "sgd": _Kind(SGD, {"fused": True}, momentum=True, betas=False),
}


def make_optimizer(
    setting: Setting,
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] | None,
) -> Optimizer:
    """Make an optimizer over the parameters that require a gradient.

    Args:
        setting: Names its kind, and has the momentum of those that take one.
        parameters: Parameters, or groups of them as torch's optimizers take; of a group the options count.
        lr: Full learning rate; at 0 nothing moves, but by MADGRAD, which adds 1e-6 to every rate.
        weight_decay: Weight decay.
        betas: For those that take two; None: the kind's own. Others keep their own.
    """
    kind = _kind(setting.optimizer)
    more = dict(kind.options)
    if kind.momentum:
        more["momentum"] = setting.momentum
    if kind.betas and betas:
        more["betas"] = betas
    if setting.amsgrad and setting.optimizer in WITH_AMSGRAD:
        more["amsgrad"] = True
    # Each group has a rate of its own, since timm's with corrected decay refuse a common one of 0.
    optimizer = kind.make(_groups(parameters, lr), lr=lr or 1.0, weight_decay=weight_decay, **more)
    for group in optimizer.param_groups:
        # Kept in the group, so that it is saved with the optimizer's state, and each step scales the full rate and
        # not the rate of the step before.
        group["full_lr"] = group["lr"]
        if "max_lr_snapshot" in group:  # timm's, of the optimizer and not of the group: decay is "corrected" by it
            group["max_lr_snapshot"] = group["lr"] or 1.0  # divides the square of the rate
    return optimizer


def _kind(name: str) -> _Kind:
    """Return the kind of optimizer with a name in `OPTIMIZERS`."""
    if name in _OURS:
        return _OURS[name]
    # Slow to import, and only names other than ours need it.
    from timm.optim import get_optimizer_class, get_optimizer_info  # type: ignore[attr-defined]

    facts = get_optimizer_info("sgd" if name == "nesterov" else name)
    make: Any = get_optimizer_class(facts.name, bind_defaults=True)
    # Of PyTorch's classes these three alone are fused on every device; the others choose the fastest that rounds alike.
    options = {"fused": True} if facts.opt_class is SGD else {}
    return _Kind(make, options, momentum=facts.has_momentum, betas=facts.has_betas and facts.num_betas == 2)


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


def _groups(parameters: Iterable[Any], lr: float) -> list[dict[str, Any]]:
    """Return groups of the parameters that require a gradient, each with its learning rate."""
    given = list(parameters)
    if given and not isinstance(given[0], dict):
        given = [{"params": given}]
    return [{"lr": lr, **group, "params": [p for p in group["params"] if p.requires_grad]} for group in given]
