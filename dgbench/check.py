"""Check methods and data sets against the rules that hold for all of their kind, and print a matrix of answers.

Methods are algorithms, mergers and test-time adapters.

    dgbench check mine.py
    dgbench check mine.py:Mine ERM --draws 5
    dgbench check MyMerger --include merger.py
    dgbench check --all --jobs 4
    dgbench check --datasets Clusters folder:/data/birds --include clusters.py

Everything that is wrong is printed below the matrix; the exit code is then 1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from dgbench import cli
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.catalogue.rows import parse_row
from dgbench.catalogue.sources import open_dataset, split_datasets
from dgbench.conformance.data import QUESTIONS as DATA_QUESTIONS
from dgbench.conformance.data import DataSubject
from dgbench.conformance.data import examine as examine_data
from dgbench.conformance.names import EXAMINED, examined_entries, find_examined
from dgbench.conformance.problems import problem_lines
from dgbench.core.errors import Problems, UserError
from dgbench.core.grid import columns, pipes
from dgbench.core.machine import open_device
from dgbench.core.progress import print_line
from dgbench.core.site import Site
from dgbench.core.wording import count_nouns, format_duration, printable
from dgbench.plan.options import OPTIONS, Option
from dgbench.plan.sweep_file import read_sweep_file, shipped_sweeps

if TYPE_CHECKING:
    from dgbench.conformance.examine import Finding

Answers = Mapping[str, "Sequence[Finding]"]
"""Findings by method."""
_NUMBERS = (
    Option("draws", "run", int, "random hyperparameters beside the defaults (2)", "N", default=2, within="[0, inf)"),
    replace(OPTIONS["jobs"], help="processes side by side (1)", default=1),
)


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench check", doc=__doc__)
    found.add_argument(
        "what",
        nargs="*",
        metavar="NAME|FILE",
        help="methods, or files that hold some, or data sets",
    )
    found.add_argument("--all", action="store_true", help="every algorithm, merger and adapter of the catalogue")
    found.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help=OPTIONS["datasets"].help)
    found.add_argument("--data_dir", type=Path, metavar="DIR", help=OPTIONS["data_dir"].help)
    found.add_argument("--include", nargs="+", default=[], metavar="FILE", help=OPTIONS["include"].help)
    for option in _NUMBERS:
        found.add_argument(f"--{option.name}", **option.argument)
    found.add_argument("--device", choices=OPTIONS["device"].choices, default="cpu", help="device of methods (cpu)")
    found.add_argument("--markdown", action="store_true", help="print the matrix as a Markdown table")
    return found


def main(argv: Sequence[str]) -> int:
    """Examine methods and data sets and print the matrices; return 0, or 1 if anything is wrong."""
    args, problems = parser().parse_args(argv), Problems()
    files = [*(word for word in args.what if _is_file(word)), *args.include]
    catalogue = Catalogue(files)
    entries, subjects = list[CatalogueEntry](), list[DataSubject]()
    if not (args.what or args.datasets or args.all):
        raise UserError("name methods or files to check, or say --all; data sets by --datasets")
    for option in _NUMBERS:
        if problem := option.problem(getattr(args, option.name)):
            problems.add(problem)
    with problems.collecting():
        entries = _entries(args.what, catalogue, everything=args.all)
    with problems.collecting():
        datasets = dict.fromkeys([*args.datasets, *_own_datasets(args.what, catalogue)])
        subjects = _subjects(list(datasets), str(args.data_dir or ""), catalogue)
    problems.raise_if_any()
    device = str(open_device(args.device)) if entries else args.device
    total = len(entries) + len(subjects)
    data_answers = dict(_examined_data(subjects, total))
    answers = dict(_examined([entry.name for entry in entries], files, device, args.draws, args.jobs, total))
    lines = list[str]()
    for kind in EXAMINED:
        if own := {entry.name: answers[entry.name] for entry in entries if entry.kind == kind}:
            lines += [""] if lines else []
            lines += [*_matrix(kind, _cells(kind, own), markdown=args.markdown), *_problems(own)]
            lines += _said(kind, own, args.draws, device)
    if subjects:
        lines += [""] if lines else []
        lines += _matrix("data set", _data_cells(data_answers), markdown=args.markdown)
        lines += _said_of_data(data_answers)
    print("\n".join(lines))
    wrong = any(finding.wrong for findings in answers.values() for finding in findings)
    return 1 if wrong or any(any(found.values()) for found in data_answers.values()) else 0


def _matrix(title: str, rows: Iterable[list[str]], *, markdown: bool) -> list[str]:
    """Format rows as a table, the first of them its head."""
    head, *others = rows
    if markdown:
        return list(pipes([[title, *head[1:]], *others], ["---"] * len(head)))
    return [line.rstrip() for line in columns([head, *others])]


def _is_file(word: str) -> bool:
    return word.partition(":")[0].endswith(".py")


def _entries(words: Sequence[str], catalogue: Catalogue, *, everything: bool) -> list[CatalogueEntry]:
    """Return the methods to examine, each once; raise UserError for words that are none."""
    known, found = examined_entries(catalogue), list[CatalogueEntry]()
    if everything:
        found += [*known.values(), *(catalogue.get("algorithm", name) for name in _composed(catalogue))]
    for word in words:
        if not _is_file(word):
            found.append(find_examined(word, catalogue))
            continue
        own = [entry for entry in known.values() if _lies_in(entry.file, word)]
        if not own and not any(_own_datasets([word], catalogue)):
            network = "; a network is looked at by a launch: --include FILE --backbone NAME --dry_run"
            hint = network if any(_lies_in(str(file), word) for file in catalogue.networks.values()) else ""
            raise UserError(f"{word} holds no algorithm, merger, adapter or data set{hint}")
        found += own
    return list({entry.name: entry for entry in found}.values())


def _composed(catalogue: Catalogue) -> Iterator[str]:
    """Yield the algorithms with step rules that the package's sweep files have rows of."""
    rows = (row for file in shipped_sweeps().values() for row in read_sweep_file(file).get("algorithms", ()))
    algorithms = dict.fromkeys(parse_row(row, catalogue).algorithm for row in rows)
    yield from (name for name in algorithms if "+" in name)


def _own_datasets(words: Sequence[str], catalogue: Catalogue) -> Iterator[str]:
    """Yield the data sets that files among the words define."""
    for word in filter(_is_file, words):
        yield from (name for name, entry in catalogue.of_kind("dataset").items() if _lies_in(entry.file, word))


def _subjects(texts: Sequence[str], data_dir: str, catalogue: Catalogue) -> list[DataSubject]:
    """Open data sets; raise UserError with everything that is wrong with their names and files."""
    paths, problems, found = split_datasets(texts, catalogue), Problems(), list[DataSubject]()
    site = Site(data_dir=data_dir, paths=paths)
    for name in paths:
        with problems.collecting():
            opened = open_dataset(name, site, catalogue)
            found.append(DataSubject(name, opened, partial(open_dataset, name, site, Catalogue(catalogue.include))))
    problems.raise_if_any()
    return found


def _examined_data(subjects: Sequence[DataSubject], total: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each data set with question -> problem, and show progress."""
    for number, subject in enumerate(subjects, 1):
        with _shown(number, total, subject.name) as say:
            found = dict(examine_data(subject))
            say(len(found), sum(map(bool, found.values())))
        yield subject.name, found


@contextmanager
def _shown(number: int, total: int, name: str) -> Iterator[Callable[[int, int], None]]:
    """Print a line about an entry: its name at once, and the numbers of answers and of wrong ones when they are known.

    The line has the time that passed between both.
    """
    print(f"{number}/{total} {printable(name)} ...", end="", file=sys.stderr, flush=True)
    begun, said = time.monotonic(), " stopped"

    def say(answers: int, wrong: int) -> None:
        nonlocal said
        said = f" {_counted(answers, wrong)}, {format_duration(time.monotonic() - begun)}"

    try:
        yield say
    finally:
        print(said, file=sys.stderr, flush=True)


def _counted(answers: int, wrong: int) -> str:
    return f"{count_nouns(answers, 'answer')}, {wrong} wrong"


def _lies_in(file: str, word: str) -> bool:
    path = Catalogue((word,)).include[0]
    return path.partition(":")[0] == file.partition(":")[0]


def _examined(
    names: Sequence[str], files: Sequence[str], device: str, draws: int, jobs: int, total: int
) -> Iterator[tuple[str, list[Finding]]]:
    """Yield each name with its findings, in the order of the names, and show progress.

    With several jobs, each is examined in a process of its own.
    """
    before = total - len(names)
    if jobs == 1:
        for number, name in enumerate(names, before + 1):
            with _shown(number, total, name) as say:
                findings = examined(name, files, device, draws)
                say(len(findings), sum(bool(finding.wrong) for finding in findings))
            yield name, findings
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(examined, name, files, device, draws): name for name in names}
        found = {}
        for future in as_completed(futures):
            name, findings = futures[future], future.result()
            found[name] = findings
            said = _counted(len(findings), sum(bool(finding.wrong) for finding in findings))
            print_line(f"{before + len(found)}/{total} {name} ... {said}")
    yield from ((name, found[name]) for name in names)


def examined(name: str, files: Sequence[str], device: str, draws: int) -> list[Finding]:
    """Return all findings on one algorithm, merger or adapter.

    Args:
        name: The method's.
        files: Included files, one of which may define it.
        device: Name of a torch device.
        draws: Number of random draws of hyperparameters, beside the defaults.
    """
    # torch, and all that imports it, are not for `--help` nor for wrong names.
    import torch

    from dgbench.conformance.kinds import examine_entry

    return list(examine_entry(find_examined(name, Catalogue(files)), torch.device(device), draws))


def _cells(kind: str, answers: Answers) -> Iterator[list[str]]:
    from dgbench.conformance.kinds import EXAMINATIONS  # imports torch, see `examined`

    questions = EXAMINATIONS[kind].questions
    yield ["", *(question.name for question in questions)]
    for name, findings in answers.items():
        row = [name]
        for question in questions:
            own = [finding for finding in findings if finding.question == question.name]
            wrong = sum(bool(finding.wrong) for finding in own)
            row.append(f"{wrong}/{len(own)} WRONG" if wrong else f"{len(own)} ok" if own else "-")
        yield row


def _data_cells(answers: Mapping[str, Mapping[str, str]]) -> Iterator[list[str]]:
    yield ["", *(question.name for question in DATA_QUESTIONS)]
    for name, found in answers.items():
        cells = (
            "-" if question.name not in found else "WRONG" if found[question.name] else "ok"
            for question in DATA_QUESTIONS
        )
        yield [name, *cells]


def _said_of_data(answers: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for name, found in answers.items():
        yield from (f"\n{name}: {question}: {wrong}" for question, wrong in found.items() if wrong)
    yield ""
    yield from (f"{question.name}: {question.requirement}" for question in DATA_QUESTIONS)
    asked = sum(map(len, answers.values()))
    wrong = sum(bool(found) for own in answers.values() for found in own.values())
    yield f"{count_nouns(len(answers), 'data set')}: {_counted(asked, wrong)}"


def _problems(answers: Answers) -> Iterator[str]:
    return (f"\n{line}" for name, findings in answers.items() for line in problem_lines(name, findings))


def _said(kind: str, answers: Answers, draws: int, device: str) -> Iterator[str]:
    from dgbench.conformance.kinds import EXAMINATIONS  # imports torch, see `examined`

    yield ""
    for question in EXAMINATIONS[kind].questions:
        yield f"{question.name}: {question.requirement}"
    asked = sum(len(findings) for findings in answers.values())
    wrong = sum(bool(finding.wrong) for findings in answers.values() for finding in findings)
    methods = count_nouns(len(answers), kind)
    yield f"{methods} on {device}, defaults and {draws} random draws: {asked} answers, {wrong} wrong"


if __name__ == "__main__":
    sys.exit(cli.run(main))
