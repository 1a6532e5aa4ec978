"""Hold the facts about a plan that tables print beside their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Provenance:
    """Differences between the rows of a plan and plain models of the preset, in words; made with the plan."""

    shown: Mapping[str, str] = field(default_factory=dict)
    """Row -> the data of the held-out domain that its predictors see besides the input to predict. Rows without any are
    left out.
    """
    taught: Mapping[str, str] = field(default_factory=dict)
    """Row -> the row that taught its runs, with its backbone if that is another. Untaught rows are left out."""
    asked: tuple[str, ...] = ()
    """Departures of the sweep's runs from the preset and the declared search spaces, each in words: `steps 300`."""


def word_setting(name: str, value: object) -> str:
    """Return a field of the setting with its value in words: `steps 300`, of weights the first digits of their hash."""
    return f"{name} {str(value)[:12] if name == 'weights' else value}"
