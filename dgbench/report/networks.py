"""Describe the network of each data set, and the examples that its pretraining may have seen.

Weights that saw the examples of a test domain, or their like, make its accuracy an upper bound of generalization. So
tables mark a data set whose card shares examples with what the network was trained on.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dgbench.core.data_cards import DatasetCard
from dgbench.core.setting import Setting
from dgbench.core.wording import group_values
from dgbench.networks.backbones import BUILTIN_BACKBONES
from dgbench.networks.pretraining import WeightsCard, starts_pretrained, weights_card
from dgbench.report.origin import Started
from dgbench.report.results import Results

if TYPE_CHECKING:
    import pandas as pd

MARK = "‡"
"""Mark at the name of a data set that shares examples with its network's pretraining."""
UNRECORDED = "not recorded"
"""Text of a fact that folders of earlier versions, or of DomainBed, don't hold."""
_DATASETS = Path(__file__).parents[1] / "datasets"


@dataclass(frozen=True)
class NetworkLine:
    """The network of one data set's runs, as far as their folder records it."""

    dataset: str
    architecture: str
    """Name of the network, with the tag of its weights where it is known."""
    pretrained: bool
    """Whether it starts from trained weights, or inputs are features of such a network."""
    trained_on: str
    """Data sets that the weights were trained on; empty for random weights, and where dgbench doesn't know."""
    weights: tuple[str, ...]
    """Hashes of the weights that runs began with; several if runs differ, none if they aren't recorded or random."""
    parameters: tuple[int, ...]
    """Numbers of parameters, ascending; several if rows differ, none if they aren't recorded."""
    inputs: tuple[int, ...]
    """Shape of one input; empty if it isn't recorded."""
    batch_norm: str
    """`live`, `frozen`, `none`, or `not recorded`."""
    precision: str
    shares: tuple[str, ...]
    """What the data set and the pretraining have in common, as `ImageNet-1k: files are named after its synsets`."""

    def __str__(self) -> str:
        """Format the line: `network on PACS: resnet50.tv_in1k | trained on ImageNet-1k | ...`."""
        return f"network on {self.dataset}: {self.facts}"

    @property
    def facts(self) -> str:
        """Return all but the data set's name."""
        counts = " to ".join(dict.fromkeys(_short(n) for n in (*self.parameters[:1], *self.parameters[-1:])))
        shape = " x ".join(map(str, self.inputs))
        return " | ".join(
            (
                self.architecture,
                *self._start(),
                f"{counts} parameters" if counts else f"parameters {UNRECORDED}",
                f"inputs {shape or UNRECORDED}",
                "no batch norm" if self.batch_norm == "none" else f"batch norm {self.batch_norm}",
                f"precision {self.precision}",
            )
        )

    def _start(self) -> Iterator[str]:
        """Yield texts on the weights that the network starts from."""
        if not self.pretrained:
            yield "random weights"
        else:
            yield f"trained on {self.trained_on or 'data that dgbench does not know'}"
            yield f"weights {'|'.join(hash[:12] for hash in self.weights) or UNRECORDED}"

    @property
    def footnote(self) -> str:
        """Return the line that explains the data set's mark; empty without one."""
        if not self.shares:
            return ""
        return (
            f"{MARK} {self.dataset}: its network may have seen such examples in pretraining: {'; '.join(self.shares)}"
        )


def describe_networks(results: Results) -> tuple[NetworkLine, ...]:
    """Return a line for each data set whose network is known."""
    found = (_line(results, dataset, setting) for dataset, setting in results.settings.items())
    return tuple(line for line in found if line.dataset in results.datasets)


def networks_frame(results: Results) -> pd.DataFrame:
    """Make the frame of `SweepResults.networks`."""
    import pandas as pd  # inside the function: tables do without pandas

    lines = [
        {
            "dataset": line.dataset,
            "architecture": line.architecture,
            "pretrained": line.pretrained,
            "trained_on": line.trained_on,
            "weights": "|".join(line.weights),
            "parameters": min(line.parameters, default=None),
            "most_parameters": max(line.parameters, default=None),
            "inputs": " x ".join(map(str, line.inputs)),
            "batch_norm": line.batch_norm.replace(UNRECORDED, ""),
            "precision": line.precision.replace(UNRECORDED, ""),
            "shares": "; ".join(line.shares),
        }
        for line in describe_networks(results)
    ]
    frame = pd.DataFrame(lines, columns=_COLUMNS)
    return frame.astype({"pretrained": "bool", "parameters": "Int64", "most_parameters": "Int64"})


_COLUMNS = (
    "dataset", "architecture", "pretrained", "trained_on", "weights", "parameters", "most_parameters", "inputs",
    "batch_norm", "precision", "shares",
)  # fmt: skip


def _line(results: Results, dataset: str, setting: Setting) -> NetworkLine:
    """Describe the network of one data set's runs."""
    recorded = sorted(results.origin.networks.get(dataset, {}))
    facts, own = results.facts.get(dataset), bool(results.setting)
    shares, features_of = _sharing(results, dataset)
    name, pretrained = setting.backbone, starts_pretrained(setting)
    tag = "" if "." in name or not pretrained else next((start.tag for start in recorded if start.tag), "")
    card = weights_card(features_of or name, tag) if features_of or pretrained else None
    beside = f" on features of {features_of}" if features_of else ", weights of a file" if setting.weights else ""
    return NetworkLine(
        dataset=dataset,
        architecture=f"{name}.{tag}{beside}" if tag else f"{name}{beside}",
        pretrained=pretrained or bool(setting.weights or features_of or any(start.weights for start in recorded)),
        trained_on=card.trained_on if card else "",
        weights=tuple(_hashes(recorded, setting)),
        parameters=tuple(sorted({start.parameters for start in recorded if start.parameters})),
        inputs=facts.input_shape if facts else (),
        batch_norm=_batch_norm(recorded, setting) if own else UNRECORDED,
        precision=setting.precision if own else UNRECORDED,
        shares=tuple(_common(card, shares)),
    )


def _batch_norm(recorded: Sequence[Started], setting: Setting) -> str:
    """Return the mode of batch norm: as it was, or for runs of earlier versions as it was asked for."""
    found = dict.fromkeys(start.batch_norm for start in recorded if start.batch_norm)
    lacks = setting.backbone in BUILTIN_BACKBONES and "batch_norm" not in BUILTIN_BACKBONES[setting.backbone].has
    return "|".join(found) or ("none" if lacks else setting.batch_norm)


def _hashes(recorded: Sequence[Started], setting: Setting) -> Iterator[str]:
    """Yield the hashes of the weights that runs began with; that of the file, where one was named."""
    found = dict.fromkeys(start.weights for start in recorded if start.weights)
    yield from found or ([setting.weights] if setting.weights else ())


def _common(card: WeightsCard | None, shares: Mapping[str, str]) -> Iterator[str]:
    """Yield the examples that a data set has in common with the data that weights were trained on."""
    clauses = group_values((shares[corpus], corpus) for corpus in (card.saw if card else ()) if corpus in shares)
    for clause, corpora in clauses.items():
        yield f"{' and '.join(corpora)}: {clause}"


def _sharing(results: Results, dataset: str) -> tuple[Mapping[str, str], str]:
    """Return corpus -> the examples that a data set shares with it, and the network that computed its inputs.

    Plans of earlier versions, and DomainBed's folders, don't hold these; the package's own cards do.
    """
    facts = results.facts.get(dataset)
    if facts and facts.shares is not None:
        return facts.shares, facts.features_of
    card = _packaged_card(dataset)
    return (card.shares, card.features_of) if card else ({}, "")


def _packaged_card(name: str) -> DatasetCard | None:
    """Return the card of one of the package's data sets; None for others."""
    # Not by the catalogue, whose index imports torch when it is made anew.
    for file in sorted(_DATASETS.glob("[!_]*.py")):
        if re.search(rf"^class {re.escape(name)}\b", file.read_text(encoding="utf-8"), re.MULTILINE):
            found: DatasetCard = getattr(importlib.import_module(f"dgbench.datasets.{file.stem}"), name).card
            return found
    return None


def _short(number: int) -> str:
    """Format a number of parameters in three digits: `23.5 M`, `372 k`, `650`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
