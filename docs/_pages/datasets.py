"""Pages of data sets: the facts on their cards, their domains and their classes."""

from __future__ import annotations

from collections.abc import Iterator

from dgbench.catalogue.entry import CatalogueEntry
from dgbench.core.data_cards import TASKS
from docs._pages.docstrings import indented, inline, table

Facts = Iterator[tuple[str, str]]
"""Name -> Markdown."""


def facts(entry: CatalogueEntry) -> Facts:
    """Yield the facts on a data set's card, name -> Markdown."""
    card = entry.card
    if card.unsupported:
        yield "Not supported", inline(card.unsupported)
    yield "Domains", str(len(card.domains)) if card.domains else "as found in the files"
    if counts := card.parts or card.counts:
        yield "Examples", f"{sum(counts.values()):,}"
    yield "Classes", str(len(card.classes)) if card.classes else "as found in the files"
    yield "Inputs", f"{card.input_kind}, {' x '.join(map(str, card.input_shape))}"
    yield "Task", TASKS[card.task]
    yield "Protocol", _protocol(entry)
    yield "Score", card.metric
    yield "Steps", f"{card.steps:,}, evaluated every {card.checkpoint_freq}"
    if card.of_domainbed:
        steps, every = (card.of_domainbed.get(name, getattr(card, name)) for name in ("steps", "checkpoint_freq"))
        yield "DomainBed presets", f"{steps:,} steps, evaluated every {every}"
    yield "Licence", inline(card.licence)
    yield "From", _linked(card.source)
    for mirror in card.mirrors:
        yield "Or from", _linked(mirror)
    if card.folder:
        yield "Place", f"`DATA_DIR/{card.folder}`"
    if card.duplicates:
        count = sum(card.duplicates.values())
        yield (
            "Duplicates",
            f"{count:,} further files of the archives, which a published list names; `download` removes them",
        )
    if card.domains_per_step:
        yield "Domains a step", f"{card.domains_per_step} of those that train, drawn anew each time"
    for file, why in card.known_bad.items():
        yield "Known", f"`{file}`: {inline(why)}"
    for corpus, why in card.shares.items():
        yield "Shared with pretraining", f"{corpus}: {inline(why)}"
    if card.note:
        yield "Note", inline(card.note)


def _protocol(entry: CatalogueEntry) -> str:
    card = entry.card
    if card.parts:
        folds = f", in {len(card.domains)} folds" if len(card.domains) > 1 else ""
        return f"its own split into {', '.join(card.parts)}{folds}"
    if card.tested:
        return f"{' and '.join(card.tested)} is tested, the other domains train"
    return "leave one domain out"


def _linked(source: str) -> str:
    """Return a source as Markdown, with its addresses as links."""
    return " ".join(
        f"<{word}>" if word.startswith(("http://", "https://")) else inline(word) for word in source.split()
    )


def contents(entry: CatalogueEntry) -> list[str]:
    """List a data set's domains and classes."""
    card = entry.card
    found = []
    if card.counts:
        rows = [(f"`{domain}`", f"{card.counts[domain]:,}") for domain in card.domains or card.counts]
        found += ["## Domains", table(("domain", "examples"), rows)]
    elif card.domains:
        found += ["## Domains", ", ".join(f"`{domain}`" for domain in card.domains)]
    if card.parts:
        found += ["## Parts", table(("part", "examples"), [(f"`{part}`", f"{n:,}") for part, n in card.parts.items()])]
    for name, counts in card.generations.items():
        found += [
            f"## {name}",
            table(("domain", "examples"), [(f"`{domain}`", f"{n:,}") for domain, n in counts.items()]),
        ]
    if card.classes:
        names = ", ".join(f"`{name}`" for name in card.classes)
        many = len(card.classes) > 40
        found += ["## Classes", f'??? note "All {len(card.classes)}"\n\n{indented(names)}' if many else names]
    return found
