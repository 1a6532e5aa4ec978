"""Read a folder of arrays that `dgbench.from_dataset` wrote as a data set: tensors of a user's own, as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.data_cards import DatasetCard
from dgbench.core.errors import Problems, UserError
from dgbench.data.dataset import Dataset, Examples
from dgbench.datasets._own import MAY_LACK
from dgbench.datasets._tree import listed
from dgbench.store.files import read_object, write_json
from dgbench.store.sealed import CorruptFile

FACTS, INPUTS, LABELS, DOMAINS = "examples.json", "inputs.npy", "labels.npy", "domains.npy"
"""Names of the files of the folder; `FACTS` is written last."""
_VERSION = 1
_SMALL = 112
"""Side of images below which a small network trains on them, from scratch."""


@dataclass(frozen=True)
class ArrayFacts:
    """The facts that a folder of arrays keeps beside them."""

    domains: tuple[str, ...]
    """Names, by the numbers in `DOMAINS`."""
    classes: tuple[str, ...]
    """Names, by the numbers in `LABELS`."""
    normalised: bool
    """Whether images are not within [0, 1], so that the network must not normalize them."""
    fingerprint: str = ""
    """Hash of the names and of all arrays."""


def write_arrays(folder: Path, facts: ArrayFacts, labels: NDArray[np.int64], domains: NDArray[np.int64]) -> str:
    """Write labels, domains and facts beside the inputs that a folder holds; return the fingerprint.

    Args:
        folder: A folder with `INPUTS`, of shape (n, *input_shape).
        facts: Names; their fingerprint is not read.
        labels: (n,) positions in the classes.
        domains: (n,) positions in the domains.
    """
    names = "\0".join((*facts.domains, "", *facts.classes, str(facts.normalised)))
    digest = hashlib.sha256(names.encode())
    inputs = np.load(folder / INPUTS, mmap_mode="r")
    digest.update(f"{inputs.dtype.str}{inputs.shape}".encode())
    for start in range(0, len(inputs), 1000):
        digest.update(inputs[start : start + 1000].tobytes())
    for name, numbers in ((LABELS, labels), (DOMAINS, domains)):
        np.save(folder / name, numbers.astype(np.int64))
        digest.update(numbers.astype("<i8").tobytes())
    said = {"domains": facts.domains, "classes": facts.classes, "normalised": facts.normalised}
    write_json(folder / FACTS, {"version": _VERSION, **said, "fingerprint": digest.hexdigest()})
    return digest.hexdigest()


class ArrayRows:
    """The examples of one domain in a file of inputs, of which batches alone are read."""

    groups: NDArray[np.int64] | None = None

    def __init__(self, inputs: NDArray[Any], labels: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        self.labels = labels[rows]
        self._inputs, self._rows = inputs, rows

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator | None) -> NDArray[Any]:
        """Return the inputs at `indices`; `rng` is not used."""
        return np.asarray(self._inputs[self._rows[indices]])


class arrays(Dataset):
    """Your own tensors, `arrays:/path`: a folder that `dgbench.from_dataset` wrote from a data set of PyTorch.

    Inputs are vectors, or images of one size, which are neither resized nor augmented. Every domain must have the same
    classes, unless `--allow_missing_classes` is given.
    """

    card = DatasetCard(
        source="your own arrays",
        licence="yours",
        path=True,
        input_kind="vectors",
        input_shape=(1,),
        note="the kind and shape of inputs are those of the files",
    )

    def open(self) -> None:
        """Read labels and domains, and check that the files belong together; inputs are mapped, not read."""
        name = type(self).__name__
        if self.path is None:
            raise UserError(f"{name!r} needs a path: write {name}:/path/to/it")
        side = self.input_shape[1] if len(self.input_shape) > 1 else 0  # a side was asked for
        facts = self._read(self.path)
        self.domains, self.classes, self._fingerprint = facts.domains, facts.classes, facts.fingerprint
        shape = self._inputs.shape[1:]
        images = len(shape) == 3
        traits = ("small_images",) if images and min(shape[1:]) < _SMALL else () if images else ("from_scratch",)
        kind = "images" if images else "vectors"
        self.card = replace(
            self.card, input_kind=kind, input_shape=shape, traits=traits, normalised=images and facts.normalised
        )
        self.input_kind, self.input_shape = kind, shape
        problems = Problems()
        if side and shape[1:] != (side, side):
            size = " x ".join(map(str, shape))
            problems.add(f"the inputs of {self.path} are {kind} of {size} and are not resized: leave out image_size")
        for problem in self._class_problems():
            problems.add(problem)
        problems.raise_if_any()

    def _read(self, path: Path) -> ArrayFacts:
        """Open the files; raise UserError if they are missing, damaged or don't fit together."""
        try:
            said = read_object(path / FACTS)
            names = (tuple(map(str, said["domains"])), tuple(map(str, said["classes"])))
            facts = ArrayFacts(*names, bool(said["normalised"]), str(said["fingerprint"]))
            self._inputs = np.load(path / INPUTS, mmap_mode="r")
            self._labels, self._of_domain = np.load(path / LABELS), np.load(path / DOMAINS)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} does not exist; `dgbench.from_dataset` writes such folders") from error
        except (OSError, ValueError, KeyError, TypeError, EOFError, CorruptFile) as error:
            raise UserError(f"{path} is damaged ({error}): write it again by `dgbench.from_dataset`") from error
        if said.get("version") != _VERSION:
            raise UserError(f"{path} was written by a later dgbench, as version {said.get('version')}")
        sizes = {len(self._inputs), len(self._labels), len(self._of_domain)}
        limits = ((self._labels, facts.classes), (self._of_domain, facts.domains))
        if len(sizes) > 1 or any(not 0 <= n.min() <= n.max() < len(named) for n, named in limits):
            why = "its files don't fit together"
            raise UserError(f"{path} is damaged ({why}): write it again by `dgbench.from_dataset`")
        return facts

    def _class_problems(self) -> Iterator[str]:
        """Set `missing_classes`, and yield the domains that lack classes unless that is allowed."""
        present = {domain: set(self._labels[self._rows(domain)].tolist()) for domain in self.domains}
        lacking = {
            domain: tuple(name for number, name in enumerate(self.classes) if number not in present[domain])
            for domain in self.domains
        }
        self.missing_classes = {domain: names for domain, names in lacking.items() if names}
        if self.missing_classes and not self.allow_missing_classes:
            for domain, names in self.missing_classes.items():
                yield f"domain {domain!r} lacks the class(es) {listed(names)}"
            yield MAY_LACK

    def _rows(self, domain: str) -> NDArray[np.int64]:
        return np.flatnonzero(self._of_domain == self.domains.index(domain))

    def examples(self, domain: str, seed: int) -> Examples:
        """Return the examples of a domain in the order in which they were given; `seed` is not used."""
        return ArrayRows(self._inputs, self._labels, self._rows(domain))

    def counts(self) -> Sequence[int]:
        """Return the number of examples of each domain."""
        return [len(self._rows(domain)) for domain in self.domains]

    def fingerprint(self) -> str:
        """Return the hash of names and arrays that was taken when they were written."""
        return self._fingerprint
