"""Check any data set by five questions, on its own examples.

A question is a function of a `DataSubject` that returns the problem it found, as a phrase, or an empty text.
`QUESTIONS` lists them, and `examine` asks them all.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.wording import count_nouns
from dgbench.data.contract import find_problems, problems_of_inputs
from dgbench.data.dataset import Dataset

READ = 8
"""Examples of each domain that are read: the first, the last, and others evenly between them."""
_SEED = 20


@dataclass(frozen=True)
class DataSubject:
    """A data set under examination."""

    name: str
    dataset: Dataset
    """It, opened."""
    reopen: Callable[[], Dataset]
    """Opens it once more, as another process does."""


@dataclass(frozen=True)
class DataQuestion:
    """One question to data sets, a column in the table of answers."""

    name: str
    requirement: str
    """The property that a data set must have, for the user."""
    ask: Callable[[DataSubject], str]
    """Returns the problem, or an empty text."""


def examine(subject: DataSubject) -> Iterator[tuple[str, str]]:
    """Ask every question; yield its name and the problem, which is empty where all is well.

    Questions after the first read examples, so they are left out where the first finds problems.
    """
    for question in QUESTIONS:
        try:
            wrong = question.ask(subject)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            wrong = f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
        yield question.name, wrong
        if wrong and question is QUESTIONS[0]:
            return


def keeps_contract(subject: DataSubject) -> str:
    """Return the problems with names, counts and labels."""
    return "; ".join(find_problems(subject.dataset))


def matches_card(subject: DataSubject) -> str:
    """Compare domains, classes and counts with those on the card, where it names them."""
    dataset, card = subject.dataset, subject.dataset.card
    counts = dict(zip(dataset.domains, map(int, dataset.counts()), strict=True))
    wrong = [
        f"{what} are {', '.join(found)}, and the card says {', '.join(said)}"
        for what, said, found in (
            ("domains", card.domains, dataset.domains),
            ("classes", card.classes, dataset.classes),
        )
        if said and tuple(said) != tuple(found)
    ]
    wrong += [
        f"{domain} has {count_nouns(counts.get(domain, 0), 'example')}, and the card says {count:,}"
        for domain, count in card.counts.items()
        if counts.get(domain) != count
    ]
    return "; ".join(wrong)


def reads(subject: DataSubject) -> str:
    """Read some examples of each domain, and check type, shape and values."""
    dataset, wrong = subject.dataset, list[str]()
    for domain, count in zip(dataset.domains, dataset.counts(), strict=True):
        chosen = _chosen(int(count))
        inputs = dataset.examples(domain, _SEED).batch(chosen, None)
        found = [f"{domain} has {problem}" for problem in problems_of_inputs(dataset, inputs, len(chosen))]
        if not found and _is_out_of_range(dataset, inputs):
            found = [f"{domain} has images with values outside [0, 1], and the card doesn't say normalised"]
        wrong += found
    return "; ".join(wrong)


def repeats(subject: DataSubject) -> str:
    """Read the same examples twice, in one batch and one by one: they may depend on the seed alone."""
    dataset = subject.dataset
    for domain in dataset.domains:
        first, again = (dataset.examples(domain, _SEED) for _ in range(2))
        if not np.array_equal(first.labels, again.labels, equal_nan=first.labels.dtype.kind == "f"):
            return f"examples({domain!r}, seed) gives other labels at the second call"
        chosen = _chosen(len(first.labels))
        inputs = first.batch(chosen, None)
        if not np.array_equal(inputs, again.batch(chosen, None)):
            return f"examples({domain!r}, seed) gives other inputs at the second call"
        alone = [again.batch(chosen[place : place + 1], None)[0] for place in range(len(chosen))]
        if not np.array_equal(inputs, np.stack(alone)):
            return f"inputs of {domain} depend on the others of their batch"
    return ""


def identifies_itself(subject: DataSubject) -> str:
    """Open the data set once more, and compare its fingerprint and counts."""
    first, again = subject.dataset, subject.reopen()
    if first.fingerprint() != again.fingerprint():
        return "its fingerprint is another one when it is opened again"
    same = tuple(first.domains) == tuple(again.domains) and [*first.counts()] == [*again.counts()]
    return "" if same else "its domains or counts are others when it is opened again"


def _is_out_of_range(dataset: Dataset, inputs: NDArray[Any]) -> bool:
    """Return whether inputs are images of floats that should lie in [0, 1] and don't."""
    bounded = inputs.dtype.kind == "f" and dataset.input_kind == "images" and not dataset.card.normalised
    return bounded and bool(inputs.size) and bool(inputs.min() < 0 or inputs.max() > 1)


def _chosen(count: int) -> NDArray[np.int64]:
    """Return the positions of the examples that are read."""
    return np.unique(np.linspace(0, count - 1, READ).astype(np.int64)) if count else np.empty(0, np.int64)


QUESTIONS = (
    DataQuestion("contract", "names, counts, labels and inputs are as the base class asks", keeps_contract),
    DataQuestion("card", "domains, classes and counts are those on the card", matches_card),
    DataQuestion("reads", "examples of every domain can be read, in the type and shape on the card", reads),
    DataQuestion("repeats", "the same seed gives the same examples, in any batch", repeats),
    DataQuestion("fingerprint", "opened again, it is the same", identifies_itself),
)
