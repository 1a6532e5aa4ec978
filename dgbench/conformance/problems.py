"""Format the problems that questions found, each once with all cases in which it occurs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dgbench.core.wording import format_ranges, group_values, plural

if TYPE_CHECKING:
    from dgbench.conformance.examine import Finding


def problem_lines(name: str, findings: Sequence[Finding]) -> Iterator[str]:
    """Yield each problem of an entry, as `NAME: QUESTIONS (CASES): PROBLEM`."""
    for wrong, found in group_values((finding.wrong, finding) for finding in findings if finding.wrong).items():
        yield f"{name}: {_where(found)}: {wrong}"


def _where(findings: Sequence[Finding]) -> str:
    """Format questions and cases of findings: `learns, moves (1-3 domains, defaults, draws 1-2); json (3 domains)`."""
    cases = group_values((finding.question, finding) for finding in findings)
    questions = group_values((_cases(found), question) for question, found in cases.items())
    return "; ".join(f"{', '.join(names)} ({told})" for told, names in questions.items())


def _cases(findings: Sequence[Finding]) -> str:
    """Format the numbers of domains, members or classes of findings, grouped by the draws that went wrong with them."""
    seeds = group_values((finding.number, finding.seed) for finding in findings)
    numbers = group_values((_draws(own), number) for number, own in seeds.items())
    noun = findings[0].noun
    return "; ".join(
        f"{format_ranges(found)} {noun if found == [1] else plural(noun)}, {told}" for told, found in numbers.items()
    )


def _draws(seeds: Sequence[int]) -> str:
    drawn = [seed for seed in seeds if seed]
    told = ["defaults"] if 0 in seeds else []
    if drawn:
        told.append(f"draw{'s' if len(drawn) > 1 else ''} {format_ranges(drawn)}")
    return ", ".join(told)
