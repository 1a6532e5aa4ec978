"""`dgbench list algorithms | averages | mergers | adapters | datasets | sweeps`: what there is, from the cards."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from dgbench import cli
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.core.cards import DOMAINS, EAGER, FEEDBACK, NEEDS, DatasetCard, needs_of, with_values
from dgbench.core.errors import UserError
from dgbench.core.grid import pipes
from dgbench.core.space import Draw, Space, Value

KINDS = {f"{kind}s": kind for kind in ("algorithm", "average", "merger", "adapter", "dataset")}

_WIDTH = 110
"""Characters of a line of names."""
_ESCAPED = str.maketrans({"|": "\\|", "*": "\\*", "<": "&lt;"})


def parser() -> cli.Parser:
    """The flags of the command."""
    found = cli.Parser(prog="dgbench list", description=__doc__.partition(":")[2].strip())
    found.add_argument("what", choices=[*KINDS, "sweeps"], metavar="|".join([*KINDS, "sweeps"]))
    found.add_argument("--include", nargs="+", metavar="FILE", help="Python files with further entries; FILE:NAME")
    found.add_argument("--markdown", action="store_true", help="one table row an entry")
    found.add_argument("--sweeps_dir", type=Path, help="folder of TOML files, in place of those shipped")
    return found


def main(argv: Sequence[str]) -> int:
    """Print the list; returns 0."""
    args = parser().parse_args(argv)
    catalogue = Catalogue(args.include or ())
    if args.what == "sweeps":
        lines = _sweeps(args.sweeps_dir, catalogue)
    else:
        entries = catalogue.of_kind(KINDS[args.what]).values()
        lines = (
            _table(args.what, entries) if args.markdown else (line for entry in entries for line in _describe(entry))
        )
    for line in lines:
        print(line)
    return 0


def _describe(entry: CatalogueEntry) -> Iterator[str]:
    facts: dict[str, Callable[[CatalogueEntry], Iterator[str]]] = {
        "dataset": _dataset_facts,
        "algorithm": _algorithm_facts,
    }
    yield entry.name
    yield f"    {entry.summary}"
    if entry.card.paper:
        yield f"    {entry.card.paper}"
    yield from (f"    {line}" for line in facts.get(entry.kind, _other_facts)(entry))
    yield from (f"    {line}" for line in _space(entry.space))
    yield ""


def _table(what: str, entries: Iterable[CatalogueEntry]) -> Iterator[str]:
    """A Markdown table: for methods objective and paper, for algorithms also cost and notes, for data sets source."""
    rows = [[what, "what it is", "from", *(["passes", "notes"] if what == "algorithms" else [])]]
    for entry in entries:
        rows.append([entry.name, entry.summary, entry.card.source if what == "datasets" else entry.card.paper])
        if what == "algorithms":
            _, *notes = _algorithm_facts(entry)
            rows[-1] += [f"{entry.card.forwards:g} + {entry.card.backwards:g}", "; ".join(notes)]
    return pipes(rows, ["---"] * len(rows[0]), lambda cell: cell.translate(_ESCAPED))


def _algorithm_facts(entry: CatalogueEntry) -> Iterator[str]:
    card = entry.card
    yield f"cost: {card.forwards:g} forward, {card.backwards:g} backward passes a step"
    needs = [f"{card.min_domains} training domains"] if card.min_domains > 1 else []
    needs += [NEEDS[need.what] + with_values(need.when) for need in needs_of(card) if need.what not in (DOMAINS, EAGER)]
    if needs:
        yield f"needs {' and '.join(needs)}"
    if card.transductive:
        yield "transductive: a prediction depends on the other inputs predicted with it"
    for what, why in card.no_feedback.items():
        yield f"no average can set {FEEDBACK[what]}: it {why}"
    if card.syncs:
        yield f"a step waits for the device: {card.syncs}"
    if card.unlike_domainbed:
        yield f"DomainBed's: {card.unlike_domainbed}"
    if card.experimental:
        yield f"experimental: {card.experimental}"


def _other_facts(entry: CatalogueEntry) -> Iterator[str]:
    card = entry.card
    if entry.kind == "average":
        when = "at every evaluation" if card.when == "always" else "when training is over"
        yield f"evaluated: {when}; cost: {card.copies:g} copies of the model in memory"
        if card.feeds_back:
            yield f"changes {' and '.join(FEEDBACK[what] for what in card.feeds_back)}, so it watches a run of its own"
    elif entry.kind == "merger":
        result = "several networks, logits averaged" if card.ensemble else "one network"
        models = f"models averaged by {card.average}" if card.average else "models at their best validation"
        runs = "each run by itself" if card.each else f"at least {card.min_members} runs of a trial"
        yield f"merges: {runs}, of {models}, into {result}"
    else:
        yield f"cost: {card.forwards:g} forward, {card.backwards:g} backward a batch at test time"


def _dataset_facts(entry: CatalogueEntry) -> Iterator[str]:
    card = entry.card
    yield f"domains: {', '.join(card.domains) or 'the folders or values found'}"
    classes = f"{len(card.classes)} classes" if card.classes else "classes as found"
    shape = " x ".join(map(str, card.input_shape))
    yield f"{classes}; {card.input_kind} {shape}; {card.steps} steps, evaluated every {card.checkpoint_freq}"
    if card.of_domainbed:
        steps, every = (card.of_domainbed.get(name, getattr(card, name)) for name in ("steps", "checkpoint_freq"))
        yield f"under the domainbed presets {steps} steps, evaluated every {every}"
    if card.parts or card.counts:
        yield f"examples: {_counts(card.parts or card.counts)}"
    for name, counts in card.generations.items():
        yield f"examples: {_counts(counts)}: {name}"
    yield f"protocol: {_protocol(card)}"
    if card.unsupported:
        yield f"not supported: {card.unsupported}"
    yield f"from: {card.source}"
    if card.mirrors:
        yield f"or from: {', '.join(card.mirrors)}"
    yield f"licence: {card.licence}"
    if card.folder:
        yield f"lies in: DATA_DIR/{card.folder}"
    for file, why in card.known_bad.items():
        yield f"known: {file}: {why}"
    if card.note:
        yield f"note: {card.note}"


def _counts(counts: Mapping[str, int]) -> str:
    return f"{sum(counts.values()):,} ({', '.join(f'{n:,}' for n in counts.values())})"


def _protocol(card: DatasetCard) -> str:
    if card.parts:
        folds = f" in {len(card.domains)} folds" if len(card.domains) > 1 else ""
        return f"its own split into {', '.join(card.parts)}{folds}; scored by {card.metric}"
    if card.tested:
        return f"{' and '.join(card.tested)} is tested, the others train; scored by {card.metric}"
    return f"leave one domain out; scored by {card.metric}"


def _space(space: Space) -> Iterator[str]:
    for spec in space:
        help_text = f"  ({spec.help})" if spec.help else ""
        options = f"{{{', '.join(map(str, spec.options))}}}" if spec.options else spec.within
        within = f" in {options}" if options else ""
        yield f"{spec.name} = {_choice(spec.default, spec.draw)}{within}{help_text}"
        for trait, (default, draw) in spec.variants.items():
            yield f"    {trait}: {_choice(default, draw)}"


def _choice(default: Value, draw: Draw | None) -> str:
    return f"{default} ~ {draw}" if draw else str(default)


def _sweeps(folder: Path | None, catalogue: Catalogue) -> Iterator[str]:
    """Yield a block of lines for each sweep file, of the package or of a folder."""
    from dgbench.plan.asking import shipped_sweeps  # planning takes long to import, and the other lists do without

    if folder is not None and not folder.is_dir():
        raise UserError(f"--sweeps_dir {folder}: there is no such folder")
    files = shipped_sweeps() if folder is None else {str(file): file for file in sorted(folder.glob("*.toml"))}
    for name, file in files.items():
        yield name
        for line in takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines()):
            yield f"    {line.lstrip('# ')}"
        yield from (f"    {line}" for line in _requests(file, catalogue))
        yield ""


def _requests(file: Path, catalogue: Catalogue) -> Iterator[str]:
    """Yield lines on the rows, data sets and training runs that a sweep file asks for, as far as it says them."""
    from dgbench.plan.asking import count_training_runs, declare, read_sweep_file  # as above

    asked = read_sweep_file(file)
    for key in ("algorithms", "datasets"):
        if names := asked.get(key):
            yield from textwrap.wrap(f"{key}: {', '.join(names)}", _WIDTH, subsequent_indent="    ")
    with suppress(UserError):  # a file may leave to flags what counting needs
        runs = count_training_runs(declare(asked, catalogue)[0], catalogue)
        yield from [f"training runs: {runs:,}"] if runs else []


if __name__ == "__main__":
    sys.exit(cli.run(main))
