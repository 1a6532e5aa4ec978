"""Put one's own method to the questions of `dgbench check` in one's own tests.

test_mine = dgbench.testing.check_method(Mine)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dgbench.conformance.classes import entry_at_hand
from dgbench.conformance.examine import examine
from dgbench.conformance.kinds import EXAMINATIONS
from dgbench.conformance.problems import problem_lines
from dgbench.core.machine import open_device


def check_method(method: type | str, *, draws: int = 2, device: str = "cpu") -> Callable[[Any], None]:
    """Make a test for pytest, parametrized by question, to be assigned to a name that begins with `test_`.

    A question that fails shows its problems, each with a line of the author's file.

    Args:
        method: The class of an algorithm, merger or adapter, or the name of an entry of the catalogue.
        draws: Number of random draws of hyperparameters, beside the defaults.
        device: Where to compute, a name of `--device`.

    Raises:
        UserError: It is none of these, or has no card.
    """
    import pytest  # only tests need it, so it is no dependency

    entry = entry_at_hand(method)
    examination = EXAMINATIONS[entry.kind]
    subject = examination.subject(entry, torch.device(open_device(device)))

    questions = examination.questions

    @pytest.mark.parametrize("question", questions, ids=[question.name for question in questions])
    def test(question: Any) -> None:
        found = [finding for finding in examine(subject, [question], draws) if finding.wrong]
        if found:
            lines = "\n".join(problem_lines(entry.name, found))
            pytest.fail(f"{lines}\nwanted: {question.requirement}", pytrace=False)

    made: Callable[[Any], None] = test
    return made
