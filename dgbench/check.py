"""Check algorithms against the rules that hold for every algorithm, and print a matrix of algorithms and questions.

    dgbench check mine.py
    dgbench check mine.py:Mine ERM --draws 5
    dgbench check --all --jobs 4

Everything that is wrong is printed below the matrix; the exit code is then 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TYPE_CHECKING

from dgbench import cli
from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.core.grid import columns, pipes
from dgbench.core.wording import count_nouns, format_ranges, group_values

if TYPE_CHECKING:
    from dgbench.conformance.questions import Finding

Answers = Mapping[str, "Sequence[Finding]"]
"""Findings by algorithm."""


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench check", doc=__doc__)
    found.add_argument("what", nargs="*", metavar="NAME|FILE", help="algorithms, or files that hold some")
    found.add_argument("--all", action="store_true", help="every algorithm of the catalogue")
    found.add_argument("--draws", type=int, default=2, help="random hyperparameters beside the defaults (2)")
    found.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    found.add_argument("--jobs", type=int, default=1, help="processes side by side (1)")
    found.add_argument("--markdown", action="store_true", help="print the matrix as a Markdown table")
    return found


def main(argv: Sequence[str]) -> int:
    """Examine algorithms and print the matrix; return 0, or 1 if anything is wrong."""
    args = parser().parse_args(argv)
    files = [word for word in args.what if _is_file(word)]
    catalogue = Catalogue(files)
    names = list(dict.fromkeys(_names(args.what, catalogue, everything=args.all)))
    answers = dict(_examined(names, files, args.device, args.draws, args.jobs))
    rows = list(_cells(answers))
    if args.markdown:
        rows[0][0] = "algorithm"
        lines = list(pipes(rows, ["---"] * len(rows[0])))
    else:
        lines = [line.rstrip() for line in columns(rows)]
    print("\n".join([*lines, *_format_problems(answers), *_said(answers, args.draws, args.device)]))
    return 1 if any(finding.wrong for findings in answers.values() for finding in findings) else 0


def _is_file(word: str) -> bool:
    return word.partition(":")[0].endswith(".py")


def _names(words: Sequence[str], catalogue: Catalogue, *, everything: bool) -> Iterator[str]:
    if not words and not everything:
        raise UserError("name algorithms or files to check, or say --all")
    algorithms = catalogue.of_kind("algorithm")
    if everything:
        yield from algorithms
    for word in words:
        if not _is_file(word):
            yield catalogue.get("algorithm", word).name
            continue
        own = [name for name, entry in algorithms.items() if _lies_in(entry.file, word)]
        if not own:
            raise UserError(f"{word} holds no algorithm")
        yield from own


def _lies_in(file: str, word: str) -> bool:
    path = Catalogue((word,)).include[0]
    return path.partition(":")[0] == file.partition(":")[0]


def _examined(
    names: Sequence[str], files: Sequence[str], device: str, draws: int, jobs: int
) -> Iterator[tuple[str, list[Finding]]]:
    """Yield each name with its findings, in the order of the names; with several jobs, each in a process of its own."""
    if jobs == 1:
        for name in names:
            yield name, examined(name, files, device, draws)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(examined, name, files, device, draws): name for name in names}
        found = {}
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            print(f"{len(found)}/{len(names)} {futures[future]}", file=sys.stderr)
    yield from ((name, found[name]) for name in names)


def examined(name: str, files: Sequence[str], device: str, draws: int) -> list[Finding]:
    """Return all findings on one algorithm.

    Args:
        name: The algorithm's.
        files: Included files, one of which may define it.
        device: Name of a torch device.
        draws: Number of random draws of hyperparameters, beside the defaults.
    """
    # torch, and all that imports it, are not for `--help` nor for wrong names.
    import torch

    from dgbench.conformance.questions import examine
    from dgbench.conformance.rehearsal import Subject

    return list(examine(Subject(Catalogue(files).get("algorithm", name), torch.device(device)), draws))


def _cells(answers: Answers) -> Iterator[list[str]]:
    from dgbench.conformance.questions import QUESTIONS  # imports torch, see `examined`

    yield ["", *(question.name for question in QUESTIONS)]
    for name, findings in answers.items():
        row = [name]
        for question in QUESTIONS:
            own = [finding for finding in findings if finding.question == question.name]
            wrong = sum(bool(finding.wrong) for finding in own)
            row.append(f"{wrong}/{len(own)} WRONG" if wrong else f"{len(own)} ok" if own else "-")
        yield row


def _format_problems(answers: Answers) -> Iterator[str]:
    """Yield each problem of an algorithm once, with all cases in which it occurs."""
    for name, findings in answers.items():
        for wrong, found in group_values((finding.wrong, finding) for finding in findings if finding.wrong).items():
            yield f"\n{name}: {_where(found)}: {wrong}"


def _where(findings: Sequence[Finding]) -> str:
    """Format questions and cases of findings: `learns, moves (1-3 domains, defaults, draws 1-2); json (3 domains)`."""
    cases = group_values((finding.question, finding) for finding in findings)
    questions = group_values((_cases(found), question) for question, found in cases.items())
    return "; ".join(f"{', '.join(names)} ({told})" for told, names in questions.items())


def _cases(findings: Sequence[Finding]) -> str:
    """Format the numbers of domains of findings, grouped by the draws that went wrong with them."""
    seeds = group_values((finding.domains, finding.seed) for finding in findings)
    domains = group_values((_draws(own), number) for number, own in seeds.items())
    return "; ".join(
        f"{format_ranges(numbers)} domain{'' if numbers == [1] else 's'}, {told}" for told, numbers in domains.items()
    )


def _draws(seeds: Sequence[int]) -> str:
    drawn = [seed for seed in seeds if seed]
    told = ["defaults"] if 0 in seeds else []
    if drawn:
        told.append(f"draw{'s' if len(drawn) > 1 else ''} {format_ranges(drawn)}")
    return ", ".join(told)


def _said(answers: Answers, draws: int, device: str) -> Iterator[str]:
    from dgbench.conformance.questions import QUESTIONS  # imports torch, see `examined`

    yield ""
    for question in QUESTIONS:
        yield f"{question.name}: {question.requirement}"
    asked = sum(len(findings) for findings in answers.values())
    wrong = sum(bool(finding.wrong) for findings in answers.values() for finding in findings)
    algorithms = count_nouns(len(answers), "algorithm")
    yield f"{algorithms} on {device}, defaults and {draws} random draws: {asked} answers, {wrong} wrong"


if __name__ == "__main__":
    sys.exit(cli.run(main))
