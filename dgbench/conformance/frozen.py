"""The question whether an algorithm may train on stored features of a frozen network."""

from __future__ import annotations

import torch

from dgbench.conformance.rehearsal import Rehearsal, Subject
from dgbench.core.cards import needs_of
from dgbench.core.needs import HIDDEN_BY_FEATURES, INPUTS_THEMSELVES, holds
from dgbench.networks.network import Network

_STEPS = 6
"""Steps after which weights are compared."""
_BEYOND = {*HIDDEN_BY_FEATURES, INPUTS_THEMSELVES, "learning_features"}
"""Needs under which planning refuses an algorithm with `stored_features`."""


def trains_on_features(subject: Subject, domains: int, seed: int) -> str:
    """Check that stored features of a frozen network give the same steps as inputs do, unless needs refuse them.

    Not asked of a class written for DomainBed, whose network is its own.
    """
    values = subject.values(seed)
    if not subject.entry.features or any(
        need.what in _BEYOND and holds(need.when, values) for need in needs_of(subject.card)
    ):
        return ""
    ways_out = "the card needs Need('inputs', why='...'), so that stored_features is refused"
    on_inputs, on_features = (subject.rehearse(domains, seed, freeze="featurizer") for _ in range(2))
    store_features(on_features)
    on_inputs.until(_STEPS)
    try:
        on_features.until(_STEPS)
    except Exception as error:
        return f"on features in place of inputs it fails ({type(error).__name__}: {error}): {ways_out}"
    one, other = (rehearsal.algorithm.state_dict() for rehearsal in (on_inputs, on_features))
    unlike = [name for name, tensor in one.items() if not torch.allclose(tensor, other[name], rtol=1e-6, atol=1e-9)]
    return f"features in place of inputs lead to another {', '.join(unlike[:3])}: {ways_out}" if unlike else ""


@torch.no_grad()
def store_features(rehearsal: Rehearsal) -> None:
    """Let a rehearsal that has not begun read features of its frozen network in place of inputs, as the engine does."""
    network = rehearsal.algorithm.network
    rehearsal.seen, rehearsal.unseen = (
        [(Network.features(network, x.to(rehearsal.device)).cpu(), y) for x, y in examples]
        for examples in (rehearsal.seen, rehearsal.unseen)
    )
    for module in rehearsal.algorithm.modules():
        if isinstance(module, Network):
            module.reads_features = True
