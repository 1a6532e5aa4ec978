"""Describe compositions: an algorithm whose steps are taken by a step rule, as `CORAL+SAM`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dgbench.core.cards import AlgorithmCard


@dataclass(frozen=True, kw_only=True)
class RuleCard(AlgorithmCard):
    """Properties of a step rule: those of the method that it is alone, with ERM's loss, and its cost on others."""

    passes: float = 2.0
    """How often a step evaluates the algorithm's loss and differentiates it."""
    forwards_beside: float = 0.0
    """Forward passes beside those, where the algorithm's loss is another than ERM's, whose pass serves both."""
    backwards_beside: float = 0.0
    """Backward passes beside those, likewise."""


def composed_card(algorithm: AlgorithmCard, rule: RuleCard, name: str, rule_name: str) -> AlgorithmCard:
    """Return the card of an algorithm whose steps a rule takes.

    Args:
        algorithm: Card of the algorithm.
        rule: Card of the rule.
        name: Name of the algorithm, which remains where the rule's own weights are 0.
        rule_name: Name of the rule, which remains where the weights of an algorithm with a rule of its own are 0.
    """
    if algorithm.rule == rule_name:
        return algorithm
    forwards, backwards = rule.passes * algorithm.forwards, rule.passes * algorithm.backwards
    penalties, base = rule.penalties, f"{name}+{rule.base}" if rule.base else name
    if algorithm.rule:
        # It makes the rule's first pass itself and adds to what the rule descends by, so its own passes count once. Its
        # card counts two passes of its usual rule.
        forwards, backwards = (count + rule.passes - 2 for count in (algorithm.forwards, algorithm.backwards))
        penalties, base = algorithm.penalties, rule_name
    return dataclasses.replace(
        algorithm,
        paper=f"{algorithm.paper}; {rule.paper}",
        link=rule.link,
        tags=(*dict.fromkeys((*algorithm.tags, *rule.tags)),),
        forwards=forwards + rule.forwards_beside,
        backwards=backwards + rule.backwards_beside,
        min_domains=max(algorithm.min_domains, rule.min_domains),
        baseline=False,
        penalties=penalties,
        base=None if rule.base is None else base,
        without=rule.without if not algorithm.rule else algorithm.without,
        rehearsal={**algorithm.rehearsal, **rule.rehearsal},
        followers=(*algorithm.followers, *rule.followers),
        needs=(*algorithm.needs, *(need for need in rule.needs if need not in algorithm.needs)),
        rule="",
        experimental="; ".join(filter(None, (algorithm.experimental, rule.experimental))),
    )
