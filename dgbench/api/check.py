"""Check an algorithm of one's own, as `dgbench check` does: `dgbench.check(Mine)`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dgbench.api.options import in_words_of_python
from dgbench.conformance.problems import problem_lines
from dgbench.core.progress import shown_progress
from dgbench.core.wording import count_nouns

if TYPE_CHECKING:
    from dgbench.conformance.questions import Finding


@dataclass(frozen=True)
class CheckResult:
    """The answers of an algorithm to all questions; shown as its problems, each with a line of its file."""

    algorithm: str
    """Name of the algorithm."""
    findings: tuple[Finding, ...]
    """An answer for each question, number of training domains and draw of hyperparameters."""

    @property
    def ok(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """Return a line on each problem, with the questions and cases in which it occurs."""
        return tuple(problem_lines(self.algorithm, self.findings))

    def __repr__(self) -> str:
        wrong = sum(bool(finding.wrong) for finding in self.findings)
        answers = count_nouns(len(self.findings), "answer")
        return "\n".join((*self.problems, f"{self.algorithm}: {answers}, {wrong} wrong"))


def check(algorithm: type | str, *, draws: int = 2, device: str = "cpu") -> CheckResult:
    """Ask an algorithm the questions that every algorithm of the catalogue answers.

    Args:
        algorithm: A class that extends `dgbench.Algorithm`, also one that a notebook defines; or the name of an entry.
        draws: Number of random draws of hyperparameters, beside the defaults.
        device: Where to compute, a name of `--device`.

    Raises:
        UserError: It is no algorithm, or has no card.
    """
    from dgbench.conformance.classes import subject_of  # imports torch, as the questions do
    from dgbench.conformance.questions import QUESTIONS, examine

    with in_words_of_python():
        subject = subject_of(algorithm, device)

    def asked() -> Iterator[Finding]:
        with shown_progress(f"{subject.entry.name}: ") as report:
            for done, question in enumerate(QUESTIONS):
                report("questions", done, len(QUESTIONS))
                yield from examine(subject, draws, [question])
            report("questions", len(QUESTIONS), len(QUESTIONS))

    return CheckResult(subject.entry.name, tuple(asked()))
