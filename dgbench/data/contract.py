"""Check data sets from outside the package against the contract of `data.dataset`, before any run is planned.

Those of the package are exempt: their tests check the same, and some would have to draw or read everything.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from dgbench.core.errors import UserError
from dgbench.data.dataset import NOT_ASKED, ArrayExamples, Dataset, SplitExamples

_MOST_NUMBERS = 100_000_000
"""Input numbers of all domains together up to which examples are made and checked in planning."""
INPUT_TYPES = {
    "images": ("uint8", "float32"),
    "vectors": ("float32",),
    "texts": ("int64",),
    "sequences": ("int64",),
    "graphs": ("int16",),
}
"""Kind of input -> the types that `Examples.batch` may return."""


def check_contract(name: str, dataset: Dataset) -> None:
    """Raise UserError with everything that `find_problems` finds in an open data set from outside the package."""
    cls = type(dataset)
    if cls.__module__.startswith("dgbench."):
        return
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    where = f"{name} ({file})" if file else name
    if found := find_problems(dataset):
        raise UserError(*(f"{where}: {problem}" for problem in found))


def find_problems(dataset: Dataset) -> list[str]:
    """Return everything that an open data set gets wrong.

    Labels, and inputs that are in memory, are checked too unless the data set is large. No file is decoded.
    """
    cls = type(dataset)
    missing = [method for method in ("examples", "counts", "fingerprint") if _is_missing(cls, method)]
    problems = [f"{cls.__name__} needs a method {method}()" for method in missing]
    problems += _problems_of_names(dataset)
    if "counts" not in missing:
        problems += _problems_of_counts(dataset)
    if not problems and sum(dataset.counts()) * math.prod(dataset.input_shape) <= _MOST_NUMBERS:
        for domain, count in zip(dataset.domains, dataset.counts(), strict=True):
            problems += _problems_of_examples(dataset, domain, int(count))
    return list(dict.fromkeys(problems))


def _is_missing(cls: type[Dataset], method: str) -> bool:
    return getattr(cls, method, None) is getattr(Dataset, method)


def _problems_of_names(dataset: Dataset) -> Iterator[str]:
    """Yield problems of the names of domains and classes."""
    for what, names in (("domains", dataset.domains), ("classes", dataset.classes)):
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            yield f"{what} are a tuple of texts, not {names!r}"
        elif len(set(names)) < len(names):
            yield f"{what} has a name twice"
    if not dataset.domains:
        yield "it has no domains: name them on the card, or set self.domains in open()"
    if not dataset.classes and dataset.card.task == "classification":
        yield "it has no classes: name them on the card, or set self.classes in open()"


def _problems_of_counts(dataset: Dataset) -> Iterator[str]:
    """Yield problems of the result of `counts`."""
    counts: Any = dataset.counts()
    if not isinstance(counts, (list, tuple, np.ndarray)):
        yield f"counts() returns a list with the number of examples of each domain, not a {type(counts).__name__}"
    elif len(counts) != len(dataset.domains):
        yield f"counts() returns {len(counts)} numbers for {len(dataset.domains)} domains"
    elif not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 0 for n in counts):
        yield f"counts() returns whole numbers of examples, not {list(counts)!r}"


def _problems_of_examples(dataset: Dataset, domain: str, count: int) -> Iterator[str]:
    """Yield problems of the labels of a domain, and of its inputs where they are in memory."""
    try:
        examples, where = dataset.examples(domain, 0), f"examples({domain!r}, seed)"
    except UserError as error:
        yield from error.problems
        return
    if dataset.card.parts and not isinstance(examples, SplitExamples):
        yield f"{where} lacks parts, domains or score, which a card with parts needs"
    labels = getattr(examples, "labels", None)
    if not isinstance(labels, np.ndarray):
        yield f"{where} has labels of type {type(labels).__name__}, not a NumPy array"
    elif len(labels) != count:
        yield f"{where} has {len(labels):,} labels, and counts() says {count:,} examples"
    else:
        for problem in _problems_of_labels(dataset, labels):
            yield f"{where} has {problem}"
    if isinstance(examples, ArrayExamples):
        for problem in problems_of_inputs(dataset, examples.inputs, count):
            yield f"{where} has {problem}"


def _problems_of_labels(dataset: Dataset, labels: np.ndarray[Any, Any]) -> Iterator[str]:
    """Yield problems of the type and the range of labels."""
    if dataset.card.task in ("classification", "tokens"):
        if labels.dtype != np.int64:
            yield f"labels of type {labels.dtype}, not int64"
            return
        asked, last = labels[labels != NOT_ASKED] if dataset.card.task == "tokens" else labels, len(dataset.classes) - 1
        if asked.size and (asked.min() < 0 or asked.max() > last):
            yield (
                f"labels from {asked.min()} to {asked.max()}, and {last + 1} classes: labels are 0 to {last}, "
                "the positions in classes"
            )
    elif labels.dtype.kind == "f" and dataset.card.task == "regression" and not np.isfinite(labels).all():
        yield "labels that are infinite or not a number"


def problems_of_inputs(dataset: Dataset, inputs: Any, count: int) -> Iterator[str]:
    """Yield problems of the type, shape and values of inputs, each as a phrase: `inputs of type float64, not float32`.

    Args:
        dataset: The data set.
        inputs: What its examples gave.
        count: Number of examples that were asked for.
    """
    if not isinstance(inputs, np.ndarray):
        yield f"inputs of type {type(inputs).__name__}, not a NumPy array"
        return
    types = INPUT_TYPES[dataset.input_kind]
    if str(inputs.dtype) not in types:
        fix = ": add .astype(np.float32)" if inputs.dtype.kind == "f" and "float32" in types else ""
        yield f"inputs of type {inputs.dtype}, not {' or '.join(types)}{fix}"
    if inputs.shape != (count, *dataset.input_shape):
        yield f"inputs of shape {inputs.shape}, not {(count, *dataset.input_shape)}"
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        yield "inputs that are infinite or not a number"
