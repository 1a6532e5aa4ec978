"""Data sets of the WILDS benchmark, read and scored by the wilds package, in their own splits.

WILDS' loaders, splits, groupers and evaluation are used as they are; `_wilds_patches` says what had to be mended.
Nothing here asks the network, and nothing is downloaded.
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
T = TypeVar("T")

HOST = "https://wilds.stanford.edu/downloads"
_CHUNK = 2**20
_log = logging.getLogger(__name__)


class WildsExamples:
    """All rows that one way of splitting a data set uses, their parts, their domains and the data set's own scores.

    `labels` are (n,) for classes and numbers, (n, length) for sequences, (n, questions) for several questions.
    """

    groups: NDArray[np.int64] | None = None

    def __init__(self, dataset: WildsDataset, source: Any) -> None:
        self.dataset = dataset
        self.source = source
        self.rows = dataset.used(source)
        self.labels: NDArray[Any] = dataset.labels(source)[self.rows]
        split = np.asarray(source.split_array)[self.rows]
        self.parts: Mapping[str, Indices] = {
            part: np.flatnonzero(split == source.split_dict[part]) for part in dataset.card.parts
        }
        self.domains: Indices = dataset.grouped(source)[self.rows]

    def batch(self, indices: Indices, rng: np.random.Generator | None) -> NDArray[Any]:
        """(B, *input_shape); augmented if `rng` is given. Raises `UserError` naming what can't be read."""
        return self.dataset.inputs(self.source, self.rows[indices], rng)

    def score(self, predicted: NDArray[Any], indices: Indices) -> dict[str, float]:
        """What wilds' own evaluation says of what is predicted, by its own names."""
        return self.dataset.scores(self.source, predicted, self.rows[indices])


class WildsFiles(Dataset):
    """What all data sets that wilds reads have in common: their files, and how wilds reads them."""

    wilds_name: ClassVar[str]
    """What wilds calls it."""
    files: ClassVar[tuple[str, ...]]
    """Files of its folder that say what the examples are; the fingerprint is of these."""
    release: ClassVar[str] = ""
    """The empty file that marks a whole folder; wilds' own name for it unless given."""

    def open(self) -> None:
        """Refuse a folder that lacks files, all at once; the tables are read when they are needed."""
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
        """The release that the folder's name states."""
        return cls.card.folder.rpartition("_v")[2]

    def source(self, scheme: str) -> Any:
        """What wilds makes of the files, split in that way; read once in a process, checked against the card."""
        assert self.data_dir is not None
        key = (type(self).__name__, str(self.data_dir), scheme)
        if key not in _read:
            _read[key] = _checked(type(self), self.data_dir, scheme)
        return _read[key]

    @classmethod
    def read(cls, data_dir: Path, scheme: str) -> Any:
        """Let wilds read the files; `scheme` is one of the card's domains."""
        wilds = importlib.import_module("wilds")
        return wilds.get_dataset(cls.wilds_name, version=cls.version(), root_dir=data_dir, **cls.options(scheme))

    @classmethod
    def options(cls, scheme: str) -> dict[str, str]:
        """What wilds is asked for beside the data set itself."""
        return {}

    @classmethod
    def check(cls, source: Any, scheme: str) -> None:
        """Raise `UserError` with everything in which the data are not what the card says."""

    def labels(self, source: Any) -> NDArray[Any]:
        """The labels of all rows; classes unless overridden."""
        return np.asarray(source.y_array).astype(np.int64)

    def rows(self, source: Any) -> Indices:
        """Return the rows that there should be examples of, ascending."""
        raise NotImplementedError

    def troubles(self, source: Any, rows: Indices) -> Sequence[str]:
        """Say of each row why its input can't be read, with its name; nothing if it can, or is no file."""
        return [""] * len(rows)

    def used(self, source: Any) -> Indices:
        """Return the rows that there are examples of, ascending: with `skip_bad_images` those that can be read."""
        rows = self.rows(source)
        if not self.skip_bad_images:
            return rows
        key = (type(self).__name__, str(self.data_dir), rows.tobytes())
        if key not in _readable:
            found = self.troubles(source, rows)
            if bad := list(filter(None, found)):
                _log.warning("left out %d bad image(s):\n%s", len(bad), "\n".join(bad))
            _readable[key] = np.array([not problem for problem in found], bool)
        return rows[_readable[key]]

    def schemes(self) -> Sequence[str]:
        """List the ways of splitting that are read."""
        return self.domains

    def fingerprint(self) -> str:
        """Hash the names and contents of the files that list the examples, and the examples that are left out.

        Images are not hashed.
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
    """Base of the data sets in WILDS' own splits. A subclass declares `card`, the names below, and writes `inputs`.

    The card's `domains` are the ways in which it is split: `official`, or folds.
    """

    grouped_by: ClassVar[tuple[str, ...]]
    """The fields of the metadata whose values are the domains for algorithms, as WILDS' own experiments have them."""
    scored: ClassVar[tuple[str, ...]]
    """What is recorded of wilds' evaluation, by the names that it has there."""

    def preload(self) -> None:
        """Let wilds read the tables, of every way to split them."""
        for scheme in self.domains:
            self.source(scheme)

    def examples(self, domain: str, seed: int) -> Examples:
        """All examples that this way of splitting uses; nothing is drawn."""
        return WildsExamples(self, self.source(domain))

    def counts(self) -> Sequence[int]:
        """Number of examples in each way of splitting."""
        return [len(self.used(self.source(scheme))) for scheme in self.domains]

    def rows(self, source: Any) -> Indices:
        """The rows of its parts."""
        return np.flatnonzero(np.isin(source.split_array, [source.split_dict[part] for part in self.card.parts]))

    def inputs(self, source: Any, rows: Indices, rng: np.random.Generator | None) -> NDArray[Any]:
        """The inputs of those rows (B, *input_shape); augmented if `rng` is given."""
        raise NotImplementedError

    def grouped(self, source: Any) -> Indices:
        """The domain of each row: the value of WILDS' standard grouper."""
        grouper = importlib.import_module("wilds.common.grouper").CombinatorialGrouper
        groups: Indices = grouper(source, list(self.grouped_by)).metadata_to_group(source.metadata_array).numpy()
        return groups

    def scores(self, source: Any, predicted: NDArray[Any], rows: Indices) -> dict[str, float]:
        """What wilds' evaluation says of what is predicted for those rows, by its own names."""
        import torch

        at = torch.from_numpy(rows)
        results, _ = source.eval(torch.from_numpy(predicted), source.y_array[at], source.metadata_array[at])
        return {name: float(results[name]) for name in self.scored}

    @classmethod
    def check(cls, source: Any, scheme: str) -> None:
        """Refuse parts and classes whose numbers are not the card's."""
        problems, split = Problems(), np.asarray(source.split_array)
        found = {part: int(np.sum(split == source.split_dict[part])) for part in cls.card.parts}
        wrong = (
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
"""(data set, data directory, way of splitting) -> what wilds made of it."""
_readable: dict[tuple[str, str, bytes], NDArray[np.bool_]] = {}
"""(data set, data directory, rows) -> which of them can be read; found out once in a process, as it takes long."""


def _checked(cls: type[WildsFiles], data_dir: Path, scheme: str) -> Any:
    """What wilds reads; raises `UserError` if the packages or the data are not as they should be."""
    name = cls.__name__
    try:
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


def troubles_of(read: Callable[[T], Any], items: Iterable[T]) -> list[str]:
    """Call `read` with each item, in several threads; return the message of each `UserError`, else nothing."""

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
    """SHA-256 of a file, once in a process for each state of it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
