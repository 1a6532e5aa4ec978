"""Check a method of one's own, as `dgbench check` does: `dgbench.check(Mine)`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dgbench.api.options import in_words_of_python
from dgbench.conformance.problems import problem_lines
from dgbench.core.machine import open_device
from dgbench.core.progress import shown_progress
from dgbench.core.wording import count_nouns

if TYPE_CHECKING:
    from dgbench.conformance.examine import Finding


@dataclass(frozen=True)
class CheckResult:
    """The answers of a method to all questions; shown as its problems, each with a line of its file."""

    method: str
    """Name of the algorithm, merger or adapter."""
    findings: tuple[Finding, ...]
    """An answer for each question, number (of training domains, members or classes) and draw of hyperparameters."""

    @property
    def ok(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """Return a line on each problem, with the questions and cases in which it occurs."""
        return tuple(problem_lines(self.method, self.findings))

    def __repr__(self) -> str:
        wrong = sum(bool(finding.wrong) for finding in self.findings)
        answers = count_nouns(len(self.findings), "answer")
        return "\n".join((*self.problems, f"{self.method}: {answers}, {wrong} wrong"))


def check(method: type | str, *, draws: int = 2, device: str = "cpu") -> CheckResult:
    """Put to a method the questions that every one of its kind in the catalogue answers.

    Args:
        method: A class that extends `dgbench.Algorithm`, `dgbench.Merger` or `dgbench.Adapter`, also one that a
            notebook defines; or the name of an entry.
        draws: Number of random draws of hyperparameters, beside the defaults.
        device: Where to compute, a name of `--device`.

    Raises:
        UserError: It is none of these, or has no card.
    """
    import torch  # not for `import dgbench`, like all that imports it

    from dgbench.conformance.classes import entry_at_hand
    from dgbench.conformance.examine import examine
    from dgbench.conformance.kinds import EXAMINATIONS

    with in_words_of_python():
        where, entry = torch.device(open_device(device)), entry_at_hand(method)
    subject, questions = EXAMINATIONS[entry.kind].subject(entry, where), EXAMINATIONS[entry.kind].questions

    def asked() -> Iterator[Finding]:
        with shown_progress(f"{entry.name}: ") as report:
            for done, question in enumerate(questions):
                report("questions", done, len(questions))
                yield from examine(subject, [question], draws)
            report("questions", len(questions), len(questions))

    return CheckResult(entry.name, tuple(asked()))
