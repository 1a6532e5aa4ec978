"""Count the runs behind a result by their data, code, hardware and network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Started(NamedTuple):
    """The network that a run predicts with, as its folder records it; empty where an earlier version recorded none."""

    weights: str = ""
    """Hash of the weights that it began with; empty also for random ones."""
    parameters: int = 0
    """Number of parameters; 0: not recorded."""
    batch_norm: str = ""
    """`live`, `frozen` or `none`."""
    tag: str = ""
    """timm's tag of the weights."""


class Kind(NamedTuple):
    """The kind of machine that finished a run; empty where an earlier version recorded none."""

    hardware: str = ""
    """Processor with its vector extensions, and GPU."""
    versions: str = ""
    """Versions of dgbench, Python and the libraries, in one text."""


@dataclass(frozen=True)
class Origin:
    """The data, code and hardware behind the runs that count, each with its number of runs; empty if unrecorded."""

    fingerprints: Mapping[str, Counter[str]] = field(default_factory=dict)
    """Data set -> fingerprint of its files."""
    versions: Counter[str] = field(default_factory=Counter)
    """Versions of dgbench, Python and the libraries, in one text."""
    commits: Counter[str] = field(default_factory=Counter)
    """Commit of the source, `+changes` if it was edited; empty outside a repository."""
    sources: dict[str, Counter[str]] = field(default_factory=dict)
    """Entry -> its file and hash, for entries outside the package."""
    machines: Counter[str] = field(default_factory=Counter)
    """Processor with its vector extensions, and GPU; runs of earlier versions have none recorded."""
    networks: Mapping[str, Counter[Started]] = field(default_factory=dict)
    """Data set -> network."""
    arguments: Mapping[str, Mapping[str, Counter[str]]] = field(default_factory=dict)
    """Data set -> argument -> values, for DomainBed's folders: they hold no plan, so runs may differ in them."""


def started_of(summary: Mapping[str, Any]) -> Started:
    """Return the network that the summary of a finished run describes."""
    facts = summary.get("network", {})
    return Started(summary.get("weights", ""), **{key: facts[key] for key in Started._fields if key in facts})


def add_up(parts: Sequence[Origin]) -> Origin:
    """Add up the runs of several folders."""
    return Origin(
        fingerprints=_summed(part.fingerprints for part in parts),
        versions=sum((part.versions for part in parts), Counter()),
        commits=sum((part.commits for part in parts), Counter()),
        sources=_summed(part.sources for part in parts),
        machines=sum((part.machines for part in parts), Counter()),
        networks=_summed(part.networks for part in parts),
        arguments={
            dataset: _summed(part.arguments.get(dataset, {}) for part in parts)
            for dataset in dict.fromkeys(dataset for part in parts for dataset in part.arguments)
        },
    )


def _summed(parts: Iterable[Mapping[str, Counter[T]]]) -> dict[str, Counter[T]]:
    """Add up counters by key."""
    found: dict[str, Counter[T]] = {}
    for part in parts:
        for key, counts in part.items():
            found[key] = found.get(key, Counter()) + counts
    return found
