"""Open data sets: split names as typed into name and path, and read a data set's files once in a catalogue.

A result depends on a data set's name and fingerprint, never on the folder that it happens to lie in. So paths are kept
apart from runs, in a `Site`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import Problems, UserError
from dgbench.core.paths import check_path
from dgbench.core.site import READING, Site
from dgbench.data.cache import CachedDataset
from dgbench.data.dataset import Dataset


def split_datasets(texts: Sequence[str], catalogue: Catalogue) -> dict[str, str]:
    """Split data sets as typed (`PACS`, `folder:/data/PACS`) into name and path.

    The name of a data set with a path is its kind and the last part of the path, so that moving the data changes no
    result.

    Args:
        texts: Data sets as typed.
        catalogue: Finds their entries.

    Returns:
        Name -> absolute path, or an empty text for a data set without one.

    Raises:
        UserError: All names that are unknown or unsupported, paths that are missing or not expected, and two data sets
            of one name.
    """
    problems, found = Problems(), dict[str, str]()
    for text in texts:
        kind, _, path = text.partition(":")
        with problems.collecting():
            if own := _own_data(text, catalogue):
                raise UserError(f"unknown data set {text!r}: did you mean {own}?")
            card = catalogue.get("dataset", kind).card
            if card.unsupported:
                raise UserError(f"{kind} is not supported: {card.unsupported}")
            if card.path and not path:
                raise UserError(f"{kind!r} needs a path: write {kind}:/path/to/it")
            if path and not card.path:
                raise UserError(f"{kind!r} takes no path: use --data_dir for the folder that holds it")
            if path:
                check_path(path, f"the path of {kind}:")
            name = f"{kind}:{Path(path).resolve().name}" if path else kind
            if name in found and found[name] != str(Path(path).resolve()) and path:
                raise UserError(f"two data sets would be called {name!r}: {found[name]} and {path}")
            found[name] = str(Path(path).resolve()) if path else ""
    problems.raise_if_any()
    return found


def open_dataset(
    name: str,
    site: Site,
    catalogue: Catalogue,
    image_size: int = 0,
    backbone: str = "auto",
    interpolation: str = Dataset.interpolation,
) -> Dataset:
    """Open a data set, once for each way of reading it in a catalogue.

    Args:
        name: A name that `split_datasets` returned.
        site: Where data lie on this machine, and how they are read.
        catalogue: Finds the entry, and keeps what is open.
        image_size: Side of images in pixels; 0: the card's.
        backbone: The network that inputs are for; it matters for texts alone, which become its tokens.
        interpolation: `bilinear` or `bicubic`, how image files are resized.

    Raises:
        UserError: Everything that is wrong with the data set's files.
    """
    path, entry = site.paths.get(name, ""), catalogue.get("dataset", name.partition(":")[0])
    # Other inputs don't depend on the backbone: one open data set serves all of them.
    backbone = backbone if entry.card.input_kind == "texts" else "auto"
    reading = {field: getattr(site, field) for field in READING}
    key = (name, site.data_dir, path, site.cache_dir, image_size, *reading.values(), backbone)
    if key not in catalogue.opened:
        cls = entry.load()
        if cls.card.folder and not site.data_dir:
            raise UserError(
                f"{name} is read from {cls.card.folder} under --data_dir, which is not given: {_way_to_get(cls, 'DIR')}"
            )
        try:
            dataset: Dataset = cls(
                data_dir=Path(site.data_dir) if site.data_dir else None,
                path=Path(path) if path else None,
                image_size=image_size,
                backbone=backbone,
                **reading,
            )
        except UserError as error:
            gone = cls.card.folder and not os.path.isdir(Path(site.data_dir) / cls.card.folder)
            if not gone or "download" in str(error):  # those of packed files have the command
                raise
            *others, last = error.problems
            joint = " or " if "http" in last else ": "
            raise UserError(*others, f"{last}{joint}{_way_to_get(cls, site.data_dir)}") from error
        if isinstance(dataset, CachedDataset):
            dataset.cache_dir = Path(site.cache_dir) if site.cache_dir else None
        catalogue.opened[key] = dataset
    opened = catalogue.opened[key]
    if interpolation == opened.interpolation:
        return opened
    other = (*key, interpolation)
    if other not in catalogue.opened:
        # A shallow copy shares what was read; only the interpolation, which acts when images are decoded, differs.
        resized_otherwise = copy.copy(opened)
        resized_otherwise.interpolation = interpolation
        resized_otherwise.kept = {}
        catalogue.opened[other] = resized_otherwise
    return catalogue.opened[other]


def _own_data(text: str, catalogue: Catalogue) -> str:
    """Return how data of the user's are called, if a name is that of a folder or CSV file; empty if it isn't."""
    if text in catalogue.entries or ":" in text:
        return ""
    # Not by `Path`, whose tests raise OSError for a text too long for a path.
    if text.lower().endswith(".csv") and os.path.isfile(text):
        return f"csv:{text}"
    return f"folder:{text}" if os.path.isdir(text) else ""


def _way_to_get(cls: type[Dataset], data_dir: str) -> str:
    """Return the command that fetches a data set to a folder, or where it is published if dgbench can't fetch it."""
    if cls.archives or cls.download.__func__ is not Dataset.download.__func__:  # type: ignore[attr-defined]
        return f"fetch it with `dgbench download {cls.__name__} --data_dir {data_dir}`"
    return f"get it from {cls.card.source}"
