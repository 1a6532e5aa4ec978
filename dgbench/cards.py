"""What is known of a catalogue entry without running it: `list` prints it, planning checks it. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GENERATED = "generated"
"""Trait of data sets that draw something (noise, membership of domains) by a seed."""


@dataclass(frozen=True, kw_only=True)
class AlgorithmCard:
    """What a user should know of an algorithm before running it."""

    paper: str
    forwards: float = 1.0
    """Forward passes over the minibatches a step; ERM has 1."""
    backwards: float = 1.0
    """Backward passes over the minibatches a step; ERM has 1."""
    min_domains: int = 1
    """Training domains below which the method says nothing, so the run is refused."""
    transductive: bool = False
    """A prediction depends on the other inputs that are predicted with it."""
    baseline: bool = False
    """The algorithm that a bare average, merger or adapter is "of"; exactly one in the catalogue."""


@dataclass(frozen=True, kw_only=True)
class AverageCard:
    """What a user should know of an average along a run."""

    paper: str
    when: str = "always"
    """`always`: a predictor at every evaluation. `end`: one predictor, when training is over."""
    copies: float = 1.0
    """Copies of the model that it holds at most."""


@dataclass(frozen=True, kw_only=True)
class MergerCard:
    """What a user should know of a merger of runs."""

    paper: str
    average: str = ""
    """The average whose models are merged where the name has none (EoA merges moving averages)."""
    ensemble: bool = False
    """The result is several networks whose logits are averaged, not one network."""
    shared_init: bool = True
    """Members must start from the same weights."""
    min_members: int = 2


@dataclass(frozen=True, kw_only=True)
class AdapterCard:
    """What a user should know of a test-time adapter."""

    paper: str
    forwards: float = 1.0
    backwards: float = 0.0
    needs_features: bool = True
    """Works on one network's features, so not on an ensemble."""


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """What a user should know of a data set, and what planning needs before any file is read."""

    source: str
    licence: str
    input_shape: tuple[int, ...]
    """Shape of one input as the network sees it."""
    domains: tuple[str, ...] = ()
    """In the order of the tables; empty where the files decide."""
    classes: tuple[str, ...] = ()
    """In the order of the labels; empty where the files decide."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Number of examples that each domain must have."""
    paper: str = ""
    folder: str = ""
    """Its place under the data directory; empty if it needs no files."""
    path: bool = False
    """Its name carries a path: `folder:/data/PACS`."""
    traits: tuple[str, ...] = ()
    """`GENERATED`, and what hyperparameter spaces may vary by: `few_examples`, `small_images`, ..."""
    steps: int = 5001
    checkpoint_freq: int = 300


Card = AlgorithmCard | AverageCard | MergerCard | AdapterCard | DatasetCard
