"""Put one's own algorithm to the questions of `dgbench check` in one's own tests.

test_mine = dgbench.testing.check_algorithm(Mine)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dgbench.conformance.classes import subject_of
from dgbench.conformance.problems import problem_lines
from dgbench.conformance.questions import QUESTIONS, examine


def check_algorithm(algorithm: type | str, *, draws: int = 2, device: str = "cpu") -> Callable[[Any], None]:
    """Make a test for pytest, parametrized by question, to be assigned to a name that begins with `test_`.

    A question that fails shows its problems, each with a line of the algorithm's file.

    Args:
        algorithm: The class, or the name of an entry of the catalogue.
        draws: Number of random draws of hyperparameters, beside the defaults.
        device: Where to compute, a name of `--device`.

    Raises:
        UserError: It is no algorithm, or has no card.
    """
    import pytest  # only tests need it, so it is no dependency

    subject = subject_of(algorithm, device)

    @pytest.mark.parametrize("question", QUESTIONS, ids=[question.name for question in QUESTIONS])
    def test(question: Any) -> None:
        found = [finding for finding in examine(subject, draws, [question]) if finding.wrong]
        if found:
            lines = "\n".join(problem_lines(subject.entry.name, found))
            pytest.fail(f"{lines}\nwanted: {question.requirement}", pytrace=False)

    made: Callable[[Any], None] = test
    return made
