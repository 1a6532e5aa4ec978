"""Where data come from on this machine: what is said of a data set on the command line, and opening it.

A result depends on a data set's name and fingerprint, never on the folder that it happens to lie in, so places are kept
apart from runs, in a `Site`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgbench.catalogue import Catalogue, split_include
from dgbench.dataset import Dataset, SplitExamples
from dgbench.errors import Problems, UserError
from dgbench.image_cache import CachedDataset
from dgbench.plain import revive
from dgbench.protocol import TRAIN, View
from dgbench.request import DatasetFacts
from dgbench.splits import by_domain


@dataclass(frozen=True)
class Site:
    """What a machine needs to execute runs and no result depends on."""

    data_dir: str = ""
    cache_dir: str = ""
    """Folder for decoded images; empty: one in the data directory, or beside the path."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """Data set -> its path, for those whose name carries one."""
    include: tuple[str, ...] = ()
    skip_bad_images: bool = False
    device: str = "auto"
    workers: int = 0
    """Processes that decode images, for each run."""
    backbone_weights: str = ""
    """The file whose hash is the setting's `weights`; empty where it names none."""
    save_models: bool = False
    """Keep every run's weights, not only those that another run reads."""
    save_predictions: bool = False
    checkpoint_minutes: float = 10.0
    """Longest time between checkpoints; each evaluation makes one too."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return dataclasses.asdict(self)

    def including(self, files: Sequence[str]) -> Site:
        """With these files included too; each takes the place of one of its name that is gone, as after a move."""
        names = {Path(file).name for file in files}
        stay = [file for file in self.include if Path(file).name not in names or Path(split_include(file)[0]).is_file()]
        return dataclasses.replace(self, include=tuple(dict.fromkeys((*stay, *files))))

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Site:
        """Read what `to_json` wrote."""
        return revive(Site, data)


def split_datasets(texts: Sequence[str], catalogue: Catalogue) -> dict[str, str]:
    """Name -> path ("" if it has none) of data sets as typed: `PACS`, `folder:/data/PACS`.

    The name of one with a path is its kind and the last part of the path, so that moving the data changes no result.
    """
    problems, found = Problems(), dict[str, str]()
    for text in texts:
        kind, _, path = text.partition(":")
        with problems.collecting():
            card = catalogue.get("dataset", kind).card
            if card.unsupported:
                raise UserError(f"{kind} is not supported: {card.unsupported}")
            if card.path and not path:
                raise UserError(f"{kind!r} needs a path: write {kind}:/path/to/it")
            if path and not card.path:
                raise UserError(f"{kind!r} takes no path: use --data_dir for the folder that holds it")
            name = f"{kind}:{Path(path).resolve().name}" if path else kind
            if name in found and found[name] != str(Path(path).resolve()) and path:
                raise UserError(f"two data sets would be called {name!r}: {found[name]} and {path}")
            found[name] = str(Path(path).resolve()) if path else ""
    problems.raise_if_any()
    return found


_open: dict[tuple[str, str, str, str, int, bool, str], Dataset] = {}


def open_dataset(
    name: str,
    site: Site,
    catalogue: Catalogue,
    image_size: int = 0,
    backbone: str = "auto",
    interpolation: str = Dataset.interpolation,
) -> Dataset:
    """Open a data set, once in a process; raises `UserError` with everything wrong with its files."""
    path, entry = site.paths.get(name, ""), catalogue.get("dataset", name.partition(":")[0])
    backbone = backbone if entry.card.input_kind == "texts" else "auto"
    key = (name, site.data_dir, path, site.cache_dir, image_size, site.skip_bad_images, backbone)
    if key not in _open:
        cls = entry.load()
        if cls.card.folder and not site.data_dir:
            raise UserError(f"{name} is read from {cls.card.folder} under --data_dir, which is not given")
        dataset: Dataset = cls(
            data_dir=Path(site.data_dir) if site.data_dir else None,
            path=Path(path) if path else None,
            image_size=image_size,
            skip_bad_images=site.skip_bad_images,
            backbone=backbone,
        )
        if isinstance(dataset, CachedDataset):
            dataset.cache_dir = Path(site.cache_dir) if site.cache_dir else None
        _open[key] = dataset
    if interpolation == _open[key].interpolation:
        return _open[key]
    resized_otherwise = copy.copy(_open[key])
    resized_otherwise.interpolation = interpolation
    return resized_otherwise


def facts_of(name: str, dataset: Dataset) -> DatasetFacts:
    """What planning needs to know of an open data set."""
    card, parts, pools = dataset.card, dict[str, int](), dict[str, int]()
    for domain in dataset.domains if card.parts else ():
        examples = dataset.examples(domain, 0)
        assert isinstance(examples, SplitExamples)
        parts |= {str(View(domain, part)): len(indices) for part, indices in examples.parts.items()}
        pools[domain] = len(by_domain(examples, examples.parts[TRAIN]))
    return DatasetFacts(
        name=name,
        domains=dataset.domains,
        counts=tuple(dataset.counts()),
        num_classes=len(dataset.classes),
        input_shape=dataset.input_shape,
        input_kind=dataset.input_kind,
        traits=card.traits,
        steps=card.steps,
        checkpoint_freq=card.checkpoint_freq,
        fingerprint=dataset.fingerprint(),
        tested=card.tested,
        shared_identities=card.shared_identities,
        parts=parts,
        pools=pools,
        domains_per_step=card.domains_per_step,
        metric=card.metric,
        task=card.task,
        outputs=dataset.outputs,
        backbone=card.backbone,
    )
