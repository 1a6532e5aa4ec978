"""The facts about a plan that tables print beside their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Provenance:
    """How the rows of a plan differ from plain models of the preset, in words; made with the plan, handed on whole."""

    shown: Mapping[str, str] = field(default_factory=dict)
    """Row -> what of the held-out domain its predictors are shown beside the input to predict; rows without: none."""
    taught: Mapping[str, str] = field(default_factory=dict)
    """Row -> the row whose models taught its runs, with its backbone where that is another; rows without: none."""
    asked: tuple[str, ...] = ()
    """What the sweep's runs have otherwise than preset and search spaces say, each in words: `steps 300`."""
