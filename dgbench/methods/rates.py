"""Decide which parameters learn at another rate than their optimizer's: layers that decay, and the classifier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from dgbench.core.setting import Setting
from dgbench.networks.layers import layers_above
from dgbench.networks.network import Network


def rates_of(networks: Iterable[Network], setting: Setting, lr: float, lr_head: float) -> dict[nn.Parameter, float]:
    """Return the full learning rates of parameters whose rate is not the optimizer's.

    Args:
        networks: Networks of the run, whichever learn.
        setting: The run's, which has `layer_decay`.
        lr: Rate of the optimizer.
        lr_head: Rate of classifiers; 0: that of the optimizer.
    """
    found: dict[nn.Parameter, float] = {}
    if setting.layer_decay == 1 and not lr_head:
        return found  # before `networks` are looked for, since a method may make an optimizer in every step
    for network in networks:
        if setting.layer_decay < 1:
            for parameter, above in layers_above(setting.backbone, network.featurizer):
                found[parameter] = lr * setting.layer_decay**above
        if lr_head:
            found |= dict.fromkeys(network.classifier.parameters(), lr_head)
    return found


def split_by_rate(parameters: Iterable[Any], rates: Mapping[nn.Parameter, float]) -> list[Any]:
    """Return groups of parameters, one for each rate, as torch's optimizers take them.

    Args:
        parameters: Parameters, or groups of them; a group with a rate of its own keeps it.
        rates: Parameter -> its rate; others have that of the optimizer.

    Returns:
        The groups in the order of their first parameters; `parameters` as a list where no rate is named.
    """
    given = list(parameters)
    if not (rates and given):
        return given
    groups: list[dict[str, Any]] = []
    for group in given if isinstance(given[0], dict) else [{"params": given}]:
        if "lr" in group:
            groups.append(group)
            continue
        by_rate: dict[float | None, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_rate.setdefault(rates.get(parameter), []).append(parameter)
        for rate, members in by_rate.items():
            groups.append({**group, "params": members} | ({} if rate is None else {"lr": rate}))
    return groups
