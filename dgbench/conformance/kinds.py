"""The kinds of entries that have questions of their own: algorithms, mergers and adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass

import torch

from dgbench.catalogue.entry import CatalogueEntry
from dgbench.conformance import adapter_questions, merger_questions, questions
from dgbench.conformance.examine import Examined, Finding, Question, examine
from dgbench.conformance.rehearsal import Subject


@dataclass(frozen=True)
class Examination:
    """The questions to one kind of entries."""

    questions: Sequence[Question]
    """All of them, in the order of the table's columns."""
    subject: Callable[[CatalogueEntry, torch.device], Examined]
    """Makes of an entry the subject that they are put to."""


EXAMINATIONS: MutableMapping[str, Examination] = {
    "algorithm": Examination(questions.QUESTIONS, Subject),
    "merger": Examination(merger_questions.QUESTIONS, merger_questions.MergerSubject),
    "adapter": Examination(adapter_questions.QUESTIONS, adapter_questions.AdapterSubject),
}
"""Kind of an entry, one of `names.EXAMINED` -> its questions."""


def examine_entry(entry: CatalogueEntry, device: torch.device, draws: int) -> Iterator[Finding]:
    """Put all questions of its kind to an entry; see `examine.examine`."""
    examination = EXAMINATIONS[entry.kind]
    return examine(examination.subject(entry, device), examination.questions, draws)
