"""Entries of algorithms whose steps a rule takes, such as `CORAL+SAM`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dgbench.catalogue.entry import CatalogueEntry
from dgbench.core.composition import composed_card
from dgbench.core.errors import UserError


@dataclass(frozen=True)
class ComposedEntry(CatalogueEntry):
    """An algorithm and a step rule; to planning, and to the engine, one algorithm. `compose` makes it."""

    parts: tuple[CatalogueEntry, CatalogueEntry]
    """The algorithm and the rule."""

    @property
    def words(self) -> tuple[str, ...]:
        """Names of entries whose values, if a sweep sets them, are this entry's too: those that its name is made of."""
        return (*self.name.split("+"), self.name)

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of both files."""
        return tuple(part.file for part in self.parts)

    def load(self) -> Any:
        """Import both files and return the class."""
        from dgbench.methods.rule import compose  # imports torch

        algorithm, rule = (part.load() for part in self.parts)
        return compose(algorithm, rule, self.name)


def compose(algorithm: CatalogueEntry, rule: CatalogueEntry, name: str, shared: frozenset[str]) -> ComposedEntry:
    """Return the entry of an algorithm whose steps a rule takes.

    Args:
        algorithm: The algorithm.
        rule: The rule.
        name: Name of the row: both names, or that of an algorithm with a rule of its own.
        shared: Hyperparameters that every algorithm has.

    Raises:
        UserError: The algorithm takes steps of its own, or both have a hyperparameter of one name.
    """
    if not algorithm.ruled:
        raise UserError(
            f"{name!r}: {algorithm.name} takes steps of its own, more than one descent of one loss, so {rule.name} "
            "can't take them"
        )
    of_rule = {spec.name: spec for spec in rule.space}
    if both := sorted({spec.name for spec in algorithm.space} & of_rule.keys() - shared):
        raise UserError(f"{name!r}: {algorithm.name} and {rule.name} both have a hyperparameter {', '.join(both)}")
    # As the dataclass of both has them: the rule's fields first, of which the algorithm may replace shared ones.
    space = tuple((of_rule | {spec.name: spec for spec in algorithm.space}).values())
    card = composed_card(algorithm.card, rule.card, algorithm.name, rule.name)
    return ComposedEntry(
        kind="algorithm",
        name=name,
        file=algorithm.file,
        module=algorithm.module,
        doc=algorithm.doc if name == algorithm.name else f"{algorithm.summary.rstrip('.')}, by steps of {rule.name}.",
        space=space,
        checks=algorithm.checks or rule.checks,
        card=card,
        ruled=True,
        parts=(algorithm, rule),
    )
