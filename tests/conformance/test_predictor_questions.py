"""The questions to mergers and adapters: ours answer them all, and each is failed by an example that breaks it."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import replace

import pytest
import torch

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.conformance.examine import Finding, examine
from dgbench.conformance.kinds import EXAMINATIONS
from tests.support.places import EXAMPLES

CPU = torch.device("cpu")
CATALOGUE = Catalogue()
OURS = {name: entry for kind in ("merger", "adapter") for name, entry in CATALOGUE.of_kind(kind).items()}
FILES = {"merger": EXAMPLES / "broken_mergers.py", "adapter": EXAMPLES / "broken_adapters.py"}
BREAKING = {
    f"{kind} {name}": entry
    for kind, file in FILES.items()
    for name, entry in Catalogue([file]).of_kind(kind).items()
    if entry.file == str(file)
}


WORLDS = {"networks", "inputs"}
"""Questions that go through all kinds of data. A broken example is asked one only if it is made for it: they are slow,
and hardly anything broken passes them."""


def wrong_of(entry: CatalogueEntry, leave_out: Set[str] = frozenset()) -> list[Finding]:
    """The problems that the questions find, each asked once, with the least number that planning lets in."""
    examination = EXAMINATIONS[entry.kind]
    subject = examination.subject(entry, CPU)
    once = [
        replace(question, numbers=[next(number for number in question.numbers if subject.allows(number))])
        for question in examination.questions
        if any(map(subject.allows, question.numbers)) and question.name not in leave_out
    ]
    return [finding for finding in examine(subject, once, draws=0) if finding.wrong]


@pytest.mark.parametrize("name", OURS)
def test_ours_conform(name: str) -> None:
    assert not wrong_of(OURS[name])


@pytest.mark.parametrize("name", BREAKING)
def test_a_broken_rule_is_noticed(name: str) -> None:
    """A broken example breaks the rule that its docstring begins with, and no other; a line of it is named."""
    entry = BREAKING[name]
    rule = entry.doc.partition(":")[0]
    problems = wrong_of(entry, leave_out=WORLDS - {rule})
    assert {finding.question for finding in problems} == {rule}, problems
    for finding in problems:
        assert re.search(rf"\({re.escape(entry.file)}:\d+(, \w+)?\)", finding.wrong), finding.wrong


@pytest.mark.parametrize("kind", FILES)
def test_there_is_an_example_that_breaks_each_rule(kind: str) -> None:
    broken = {entry.doc.partition(":")[0] for name, entry in BREAKING.items() if name.startswith(kind)}
    assert broken == {question.name for question in EXAMINATIONS[kind].questions}
