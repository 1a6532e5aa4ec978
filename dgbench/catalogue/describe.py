"""Describe an entry of a catalogue in lines of plain text, from its card and its hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile

from dgbench.catalogue.entry import CatalogueEntry
from dgbench.core.cards import FEEDBACK, TAGS, TAKES, needs_of
from dgbench.core.composition import RuleCard
from dgbench.core.data_cards import DatasetCard
from dgbench.core.needs import NEEDS, with_values
from dgbench.core.space import Draw, Space, Value


def describe(entry: CatalogueEntry) -> Iterator[str]:
    """Yield everything that is known of an entry: paper, docstring, card, hyperparameters."""
    if entry.card.paper:
        yield " ".join(filter(None, (entry.card.paper, entry.card.link)))
        yield ""
    yield from entry.doc.splitlines()
    yield ""
    yield from (f"idea: {tag}, {TAGS[tag]}" for tag in getattr(entry.card, "tags", ()))
    yield from facts_of_card(entry)
    if entry.space:
        yield ""
        yield "hyperparameters: name = default ~ draw of random search"
        yield from (f"    {line}" for line in _space(entry.space))


def reference_of(entry: CatalogueEntry) -> str:
    """Return the paper on an entry's card and the section Reference of its docstring, in one line."""
    _, _, section = entry.doc.partition("\nReference")
    lines = takewhile(lambda line: not line or line.startswith(" "), section.partition("\n")[2].splitlines())
    return " ".join(" ".join([entry.card.paper, *lines]).split())


def facts_of_card(entry: CatalogueEntry) -> Iterator[str]:
    """Yield the content of an entry's card but for its paper: cost, needs, protocol, sources."""
    kinds: Mapping[str, Callable[[CatalogueEntry], Iterator[str]]] = {
        "dataset": _dataset_facts,
        "algorithm": algorithm_facts,
        "rule": algorithm_facts,
    }
    return kinds.get(entry.kind, _other_facts)(entry)


def algorithm_facts(entry: CatalogueEntry) -> Iterator[str]:
    """Yield the content of an algorithm's card: first its cost, then the limits of its use."""
    card = entry.card
    plural = "" if card.forwards == card.backwards == 1 else "es"
    yield f"cost: {card.forwards:g} forward, {card.backwards:g} backward pass{plural} a step"
    needs = [f"{card.min_domains} training domains"] if card.min_domains > 1 else []
    needs += [NEEDS[need.what] + with_values(need.when) for need in needs_of(card) if need.what in NEEDS]
    if needs:
        yield f"needs {' and '.join(needs)}"
    if entry.kind == "algorithm" and not isinstance(card, RuleCard) and "+" not in entry.name:
        yield f"step rules {'can' if entry.ruled else 'cannot'} take its steps"
    if card.rule:
        yield f"its step rule is {card.rule} where a row names no other"
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
        if card.in_order:
            yield f"the order of members matters: {card.in_order}"
        if card.changes_equal:
            yield f"equal members give another model: {card.changes_equal}"
    elif entry.kind == "analysis":
        yield f"measures: {TAKES[card.takes]}"
        yield from (f"    {name}: {meaning}" for name, meaning in card.measures.items())
        for name, series in card.series.items():
            yield f"series {name}: {series.title}"
            yield from (f"    {column}: {label}" for column, label in series.labels.items())
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
