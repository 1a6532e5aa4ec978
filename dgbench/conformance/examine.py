"""Put questions to an entry of the catalogue, and note the problems with the line of the author's file."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from dgbench.catalogue.entry import CatalogueEntry
from dgbench.conformance.places import place_of
from dgbench.conformance.rehearsal import LIKE, TRAITS, double_precision


class Examined(Protocol):
    """An entry under examination, on one device."""

    @property
    def entry(self) -> CatalogueEntry:
        """The entry."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def noun(self) -> str:
        """The thing whose number questions vary: `domain`, `member` or `class`."""

    def allows(self, number: int) -> bool:
        """Return whether planning lets the entry have so many of them."""


@dataclass(frozen=True)
class Question:
    """One question, a column in the table of findings."""

    name: str
    """Short name, the column's title."""
    requirement: str
    """The property that an entry must have, for the user."""
    ask: Callable[[Any, int, int], str]
    """Called with the subject, the number of its `noun` and the hyperparameter seed; returns the problem or an empty
    text."""
    numbers: Sequence[int]
    """Numbers of training domains, members or classes that it tries."""
    about: Sequence[str]
    """Methods and nested classes that answer it. A problem names the line of the first that the author wrote."""
    drawn: bool = True
    """Tries random hyperparameters too, not the defaults alone."""


@dataclass(frozen=True)
class Finding:
    """The answer to one question, with one number and one hyperparameter seed."""

    question: str
    """Name of the question."""
    number: int
    """Number of training domains, members or classes."""
    seed: int
    """Hyperparameter seed; 0: the defaults."""
    wrong: str
    """The problem; empty if there is none."""
    noun: str = "domain"
    """The thing that `number` counts."""


def examine(subject: Examined, questions: Sequence[Question], draws: int = 2) -> Iterator[Finding]:
    """Ask questions with the default hyperparameters and, where any are drawn, with random ones.

    Numbers that planning refuses the entry are left out.

    Args:
        subject: The entry and its device.
        questions: The questions.
        draws: Number of random draws of hyperparameters.

    Yields:
        One finding for each question, number and hyperparameter seed, also where all is well.
    """
    drawn = any(subject.entry.draws(spec.name) for spec in subject.entry.space)
    with double_precision():
        for question in questions:
            for number in question.numbers:
                if not subject.allows(number):
                    continue
                for seed in range(draws + 1) if question.drawn and drawn else (0,):
                    yield Finding(question.name, number, seed, _ask(question, subject, number, seed), subject.noun)


def _ask(question: Question, subject: Examined, number: int, seed: int) -> str:
    """Return the answer to a question; an exception counts as a problem. Each names a line of the author's."""
    try:
        wrong = question.ask(subject, number, seed)
    except Exception as error:
        return format_error(error, subject.entry)
    place = place_of(subject.entry, question.about) if wrong and subject.entry.file not in wrong else ""
    return f"{wrong} ({place})" if place else wrong


def format_error(error: Exception, entry: CatalogueEntry) -> str:
    """Format an exception with the last line of the entry's own file that led to it, or else of any."""
    frames = traceback.extract_tb(error.__traceback__)
    last = ([frame for frame in frames if frame.filename == entry.file] or frames)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"


def survives_json(subject: Examined, number: int, seed: int) -> str:
    """Check that hyperparameters, default or drawn, come back from JSON as they were."""
    cls = subject.entry.load()
    for drawn in range(20):
        for traits in ((), ("small_images",), TRAITS):
            values = subject.entry.resolve(LIKE, traits=traits, hparams_seed=drawn, trial=0, fixed={}, draws={})
            if cls.Hparams(**json.loads(json.dumps(values))) != cls.Hparams(**values):
                return f"hyperparameter seed {drawn} does not survive JSON"
    return ""
