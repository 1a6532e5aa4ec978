"""Base of the data sets of the WILDS benchmark, read, split and scored by the wilds package.

Its loaders, splits, groupers and evaluation are used unchanged, so that numbers are comparable with WILDS' own;
`_wilds_patches` mends what fails beside today's pandas and torch. `WildsFiles` is what all of these data sets share,
`WildsDataset` those in WILDS' own splits; `_wilds_images` and `_wilds_texts` say how inputs are made. A data set in
WILDS' own splits has one pseudo-domain for each way of splitting (`official`, or folds), and its `SplitExamples` know
which of the real domains (hospitals, years, reviewers) each example is from.

Nothing in this module uses the network: the user unpacks WILDS' archives.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from dgbench.core.errors import Problems, UserError
from dgbench.core.machine import usable_cores
from dgbench.data.dataset import Dataset, Examples
from dgbench.datasets import _wilds_patches as patches

Indices = NDArray[np.int64]
"""(n,), positions of examples or rows of the tables."""
T = TypeVar("T")

HOST = "https://wilds.stanford.edu/downloads"
"""The page that lists WILDS' downloads, for messages."""
_CHUNK = 2**20
"""Bytes hashed at a time."""
_log = logging.getLogger(__name__)


class WildsExamples:
    """The examples of one way of splitting a data set: `SplitExamples` backed by wilds' own tables.

    `WildsDataset.examples` makes them. `rows` are the rows of wilds' tables in use, ascending; positions in `labels`,
    `parts` and `domains` count these rows. `labels` is (n,) for classes and numbers, (n, length) for sequences, (n,
    questions) for several questions.
    """

    groups: NDArray[np.int64] | None = None
    """None: parts are WILDS' own and need no identities."""

    def __init__(self, dataset: WildsDataset, source: Any) -> None:
        """Collect labels, parts and domains of the rows in use.

        Args:
            dataset: The data set, which makes the inputs.
            source: What wilds has read, one way of splitting.
        """
        self.dataset = dataset
        self.source = source
        self.rows = dataset.used(source)
        self.labels: NDArray[Any] = dataset.labels(source)[self.rows]
        split = np.asarray(source.split_array)[self.rows]
        self.parts: Mapping[str, Indices] = {
            part: np.flatnonzero(split == source.split_dict[part]) for part in dataset.card.parts
        }
        self.domains: Indices = dataset.grouped(source)[self.rows]
        self.attributes = {
            name: np.asarray(source.metadata_array)[self.rows, column]
            for column, name in enumerate(source.metadata_fields)
            if name != "y"
        }
        """Field of WILDS' metadata -> (n,) value of each example; the label is left out."""

    def batch(self, indices: Indices, rng: np.random.Generator | None) -> NDArray[Any]:
        """Return the inputs at `indices`, (B, *input_shape); augmented if `rng` is given.

        Raises:
            UserError: An input can't be read; the message names it.
        """
        return self.dataset.inputs(self.source, self.rows[indices], rng)

    def score(self, predicted: NDArray[Any], indices: Indices) -> dict[str, float]:
        """Return the scores of wilds' own evaluation, under its own names.

        Args:
            predicted: Predictions for the examples at `indices`, shaped as their labels.
            indices: (B,) positions of the examples.
        """
        return self.dataset.scores(self.source, predicted, self.rows[indices])


class WildsFiles(Dataset):
    """Base of all data sets that wilds reads: their files, wilds' own data set object, and the rows in use.

    A subclass declares `card`, `wilds_name` and `files`, and writes `rows`. What wilds makes of the files, called the
    source, is read once in a process for each way of splitting; runs are forked after that.
    """

    wilds_name: ClassVar[str]
    """The data set's name in wilds."""
    files: ClassVar[tuple[str, ...]]
    """Files, below the data set's folder, that list the examples; the fingerprint is of these."""
    release: ClassVar[str] = ""
    """The empty file that marks a complete folder; empty: `RELEASE_v<version>.txt`, wilds' own name for it."""

    def open(self) -> None:
        """Check that the folder and its lists are there; the tables are read when they are needed.

        Raises:
            UserError: The folder is missing, or all of the files that it lacks.
        """
        name = type(self).__name__
        if self.data_dir is None:
            raise UserError(f"{name} is read from {self.card.folder} under --data_dir, which is not given")
        self.folder = self.data_dir / self.card.folder
        if not self.folder.is_dir():
            raise UserError(f"{name} is expected in the folder {self.folder}, which does not exist: see {HOST}")
        missing = [
            file
            for file in (*self.files, self.release or f"RELEASE_v{self.version()}.txt")
            if not (self.folder / file).is_file()
        ]
        if missing:
            raise UserError(f"{name}: {self.folder} lacks {', '.join(missing)}: unpack the whole archive from {HOST}")

    @classmethod
    def version(cls) -> str:
        """Return the release that the folder's name states: `1.0` of `camelyon17_v1.0`."""
        return cls.card.folder.rpartition("_v")[2]

    def source(self, scheme: str) -> Any:
        """Return wilds' own data set for one way of splitting; read once in a process and checked against the card."""
        assert self.data_dir is not None
        # A module's dictionary, not an attribute: a data set is opened anew for other image sizes, but its tables stay
        # the same.
        key = (type(self).__name__, str(self.data_dir), scheme)
        if key not in _read:
            _read[key] = _checked(type(self), self.data_dir, scheme)
        return _read[key]

    @classmethod
    def read(cls, data_dir: Path, scheme: str) -> Any:
        """Let wilds read the files.

        Args:
            data_dir: The folder that holds the data set's own.
            scheme: The way of splitting: one of the card's domains, or `official` for pooled data.
        """
        wilds = importlib.import_module("wilds")
        return wilds.get_dataset(cls.wilds_name, version=cls.version(), root_dir=data_dir, **cls.options(scheme))

    @classmethod
    def options(cls, scheme: str) -> dict[str, str]:
        """Return further arguments for `wilds.get_dataset`."""
        return {}

    @classmethod
    def check(cls, source: Any, scheme: str) -> None:
        """Raise UserError with everything in which the data differ from the card."""

    def labels(self, source: Any) -> NDArray[Any]:
        """Return the labels of all rows of the tables; int64 classes unless overridden."""
        return np.asarray(source.y_array).astype(np.int64)

    def rows(self, source: Any) -> Indices:
        """Return the rows of the tables that are examples, ascending."""
        raise NotImplementedError

    def input_errors(self, source: Any, rows: Indices) -> Sequence[str]:
        """Return, for each of `rows`, why its input can't be read, with its name; an empty text if it can.

        By default every input can be read: texts, for instance, are in the tables.
        """
        return [""] * len(rows)

    def used(self, source: Any) -> Indices:
        """Return the rows in use, ascending: `rows`, or with `skip_bad_images` those whose inputs can be read."""
        rows = self.rows(source)
        if not self.skip_bad_images:
            return rows
        key = (type(self).__name__, str(self.data_dir), rows.tobytes())
        if key not in _readable:
            found = self.input_errors(source, rows)
            if bad := list(filter(None, found)):
                _log.warning("left out %d bad image(s):\n%s", len(bad), "\n".join(bad))
            _readable[key] = np.array([not problem for problem in found], bool)
        return rows[_readable[key]]

    def schemes(self) -> Sequence[str]:
        """Return the ways of splitting that are read."""
        return self.domains

    def fingerprint(self) -> str:
        """Hash the names and contents of the files that list the examples, and the examples left out.

        Images are not hashed: there are tens of gigabytes of some data sets.
        """
        digest = hashlib.sha256(self.wilds_name.encode())
        for file in self.files:
            stat = (self.folder / file).stat()
            content = _hash_of_file(self.folder / file, stat.st_size, stat.st_mtime_ns)
            digest.update(f"\0{file}\0{content}".encode())
        for source in map(self.source, self.schemes() if self.skip_bad_images else ()):
            left_out = np.setdiff1d(self.rows(source), self.used(source))
            if len(left_out):
                digest.update(f"\0without {left_out.tolist()}".encode())
        return digest.hexdigest()


class WildsDataset(WildsFiles):
    """Base of the data sets in WILDS' own splits.

    A subclass declares `card` and the class variables below, and writes `inputs`. The card's `domains` are the ways of
    splitting: `official`, or folds.
    """

    grouped_by: ClassVar[tuple[str, ...]]
    """Fields of the metadata whose combined values are the domains for algorithms, as in WILDS' own experiments."""
    scored: ClassVar[tuple[str, ...]]
    """Which of the results of wilds' evaluation are recorded, by its own names."""

    def preload(self) -> None:
        """Let wilds read the tables for every way of splitting."""
        for scheme in self.domains:
            self.source(scheme)

    def examples(self, domain: str, seed: int) -> Examples:
        """Return all examples of a way of splitting; `seed` is not used."""
        return WildsExamples(self, self.source(domain))

    def counts(self) -> Sequence[int]:
        """Return the number of examples of each way of splitting."""
        return [len(self.used(self.source(scheme))) for scheme in self.domains]

    def rows(self, source: Any) -> Indices:
        """Return the rows that lie in one of the card's parts."""
        return np.flatnonzero(np.isin(source.split_array, [source.split_dict[part] for part in self.card.parts]))

    def inputs(self, source: Any, rows: Indices, rng: np.random.Generator | None) -> NDArray[Any]:
        """Return the inputs of rows of the tables.

        Args:
            source: What wilds has read.
            rows: (B,) rows of its tables.
            rng: Draws augmentations; None: there are none.

        Returns:
            (B, *input_shape).

        Raises:
            UserError: An input can't be read.
        """
        raise NotImplementedError

    def grouped(self, source: Any) -> Indices:
        """Return the domain of each row of the tables, a number that WILDS' standard grouper gives it."""
        grouper = importlib.import_module("wilds.common.grouper").CombinatorialGrouper
        groups: Indices = grouper(source, list(self.grouped_by)).metadata_to_group(source.metadata_array).numpy()
        return groups

    def scores(self, source: Any, predicted: NDArray[Any], rows: Indices) -> dict[str, float]:
        """Return the scores of wilds' own evaluation.

        Args:
            source: What wilds has read.
            predicted: Predictions, shaped as the labels of `rows`.
            rows: (B,) rows of its tables.

        Returns:
            Name -> score, for the names in `scored`.
        """
        import torch

        at = torch.from_numpy(rows)
        results, _ = source.eval(torch.from_numpy(predicted), source.y_array[at], source.metadata_array[at])
        return {name: float(results[name]) for name in self.scored}

    @classmethod
    def check(cls, source: Any, scheme: str) -> None:
        """Refuse numbers of classes and of examples in parts that are not the card's."""
        problems, split = Problems(), np.asarray(source.split_array)
        found = {part: int(np.sum(split == source.split_dict[part])) for part in cls.card.parts}
        wrong = (
            # The card states the parts of the first way of splitting; other folds are cut elsewhere, so only their
            # total is checked.
            [part for part, n in cls.card.parts.items() if n != found[part]] if scheme == cls.card.domains[0] else []
        )
        for part in wrong:
            problems.add(
                f"{cls.__name__}: part {part!r} of {scheme!r} has {found[part]:,} examples, "
                f"expected {cls.card.parts[part]:,}"
            )
        if sum(found.values()) != sum(cls.card.parts.values()) and not wrong:
            problems.add(
                f"{cls.__name__}: {scheme!r} has {sum(found.values()):,} examples, "
                f"expected {sum(cls.card.parts.values()):,}"
            )
        classes = source.n_classes
        if cls.card.task == "classification" and classes != len(cls.card.classes):
            problems.add(f"{cls.__name__}: there are {classes} classes, expected {len(cls.card.classes)}")
        problems.raise_if_any()


_read: dict[tuple[str, str, str], Any] = {}
"""(data set, data directory, way of splitting) -> the source that wilds made."""
_readable: dict[tuple[str, str, bytes], NDArray[np.bool_]] = {}
"""(data set, data directory, rows) -> which of the rows can be read; found once in a process, as it takes long."""


def _checked(cls: type[WildsFiles], data_dir: Path, scheme: str) -> Any:
    """Let wilds read a data set and check it; raise UserError if packages are missing or data differ from the card."""
    name = cls.__name__
    try:
        # wilds prints while it reads; stdout is for the command's own output.
        with patches.reading(), redirect_stdout(sys.stderr):
            importlib.import_module("wilds")
            patches.mend()
            source = cls.read(data_dir, scheme)
    except ImportError as error:
        raise UserError(f"{name} needs further packages ({error}): pip install 'dgbench[wilds]'") from error
    except (OSError, ValueError, KeyError, IndexError, AssertionError) as error:
        folder, problem = data_dir / cls.card.folder, f"{type(error).__name__}: {error}"
        raise UserError(f"{name}: wilds can't read {folder} ({problem}): get it anew from {HOST}") from error
    cls.check(source, scheme)
    return source


def read_errors(read: Callable[[T], Any], items: Iterable[T]) -> list[str]:
    """Call `read` with each item, in several threads.

    Args:
        read: Raises UserError if an item is bad.
        items: Paths, or whatever `read` takes.

    Returns:
        For each item the message of its UserError, or an empty text.
    """

    def trouble(item: T) -> str:
        try:
            read(item)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(trouble, items))


@cache
def _hash_of_file(path: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file, computed once in a process for each size and time of change."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
