"""`dgbench.check` on a class at hand, and the same questions in a test of one's own."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import dgbench
from dgbench.algorithms import ERM
from dgbench.conformance.kinds import EXAMINATIONS
from dgbench.conformance.questions import QUESTIONS
from dgbench.testing import check_method

CARD = dataclasses.replace(ERM.card, baseline=False)


class Fine(ERM):
    """ERM."""

    card = CARD


class Broken(ERM):
    """ERM that can't."""

    card = CARD

    def loss(self, batches: Sequence[dgbench.Batch]) -> Any:
        return torch.stack([torch.zeros(2), torch.zeros(3)])  # the place


def ask(monkeypatch: pytest.MonkeyPatch, kind: str, *names: str) -> None:
    """Let only these questions be put to entries of a kind."""
    whole = EXAMINATIONS[kind]
    few = [question for question in whole.questions if question.name in names]
    monkeypatch.setitem(EXAMINATIONS, kind, dataclasses.replace(whole, questions=few))


def line_of(cls: type, text: str) -> str:
    lines, first = inspect.getsourcelines(cls)
    return f"{__file__}:{first + next(place for place, line in enumerate(lines) if text in line)}"


def test_a_class_at_hand_is_checked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, "algorithm", "json", "repeats")
    found = dgbench.check(Fine, draws=0)
    assert found.ok, repr(found)
    assert repr(found).startswith("Fine: ")
    assert repr(found).endswith(" answers, 0 wrong")
    assert {finding.question for finding in found.findings} == {"json", "repeats"}
    assert capsys.readouterr().err == "Fine: 2 of 2 questions\n"


def test_a_problem_names_the_line_of_the_author_not_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, "algorithm", "repeats")
    found = dgbench.check(Broken, draws=0)
    assert not found.ok
    assert any(f"({line_of(Broken, '# the place')})" in problem for problem in found.problems)


class First(dgbench.Merger):
    """The first member."""

    card = dgbench.MergerCard(paper="nobody's")

    def merge(self, members: Sequence[dgbench.Member], tools: Any) -> Any:
        return members[0].load()


class Silent(dgbench.Adapter):
    """The network without its signs."""

    card = dgbench.AdapterCard(paper="nobody's")

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)[:, :1]  # type: ignore[no-any-return]


def test_a_merger_and_an_adapter_at_hand_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, "merger", "equal", "order")
    (problem,) = dgbench.check(First, draws=0).problems
    assert problem.startswith("First: order (4 members, defaults): with members in another order it is off by ")
    assert problem.endswith(f"({line_of(First, 'def merge')}, merge)")
    ask(monkeypatch, "adapter", "one", "json")
    assert dgbench.check(Silent, draws=0).problems == tuple(
        f"Silent: one ({classes} classes, defaults): logits of a batch of 1 with {classes} classes are (1, 1) "
        f"({line_of(Silent, 'def predict')}, predict)"
        for classes in (2, 3, 5)
    )


def test_what_is_no_method_is_refused() -> None:
    class Bare(ERM):
        """ERM without a card."""

        card = None  # type: ignore[assignment]

    with pytest.raises(dgbench.UserError, match=r"dict extends none of dgbench\.Algorithm, dgbench\.Merger"):
        dgbench.check(dict)
    with pytest.raises(dgbench.UserError, match="unknown method 'ERN': did you mean 'ERM'"):
        dgbench.check("ERN")
    with pytest.raises(dgbench.UserError, match=r"Bare\.card must be an AlgorithmCard"):
        dgbench.check(Bare)
    with pytest.raises(dgbench.UserError, match="5 is neither a class nor"):
        dgbench.check(5)  # type: ignore[arg-type]


def test_a_question_that_fails_shows_the_authors_line_alone() -> None:
    test: Any = check_method(Broken, draws=0)
    (mark,) = test.pytestmark
    names = dict(zip(mark.kwargs["ids"], mark.args[1], strict=True))
    assert list(names) == [question.name for question in QUESTIONS]
    test(names["json"])
    with pytest.raises(pytest.fail.Exception) as caught:
        test(names["repeats"])
    assert line_of(Broken, "# the place") in str(caught.value)
    assert str(caught.value).endswith("wanted: the same seed gives the same numbers")
    assert not caught.value.pytrace
