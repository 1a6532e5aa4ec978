"""Pages of the catalogues: one an entry, from its card, its hyperparameters and its docstring, and one a kind."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import PACKAGE, CatalogueEntry
from dgbench.core.cards import FEEDBACK, TAGS, TAKES, Card, needs_of
from dgbench.core.needs import DECLINED, DOMAINS, NEEDS, with_values
from dgbench.core.space import Draw, HparamSpec, Space, Value
from docs._pages import datasets
from docs._pages.datasets import Facts
from docs._pages.docstrings import Doc, escaped, indented, inline, parse, table

KINDS = {
    "algorithm": (
        "algorithms",
        "Algorithms",
        "An algorithm trains one model on minibatches, one from each training domain. Passes are examples that go "
        "forward + backward through the featurizer in a step, by those of the minibatches. "
        "The title of a column sorts by it.",
    ),
    "rule": (
        "rules",
        "Step rules",
        "A step rule says how to step, given an algorithm's loss: `CORAL+SAM` descends CORAL's loss as SAM descends, "
        "`SAM` alone is of ERM ([names of rows](../rows.md)). A rule takes the steps of every algorithm that has one "
        "loss; a step costs the passes of both, multiplied.",
    ),
    "average": (
        "averages",
        "Averages",
        "An average watches a run's weights along its training, as in `ERM+SWAD` ([names of rows](../rows.md)). Those "
        "that change the training have a run of their own; all others watch the run that `ERM` trains anyway. "
        "Copies are models held in memory.",
    ),
    "merger": (
        "mergers",
        "Mergers",
        "A merger makes one predictor of finished runs, as in `ERM+DiWA` ([names of rows](../rows.md)). Merged are "
        "models at their best validation accuracy, or those of the average in the column `of`.",
    ),
    "adapter": (
        "adapters",
        "Adapters",
        "An adapter predicts a test domain's inputs batch by batch and may change the model by them, without labels, "
        "as in `ERM+T3A` ([names of rows](../rows.md)). Passes are forward + backward, for each test batch; "
        "some adapters are shown the training data first.",
    ),
    "analysis": (
        "analyses",
        "Analyses",
        "An analysis measures finished models beyond their scores: `dgbench analyze Sharpness runs/mine` "
        "([how, and when not to trust it](../analysis.md)). Its numbers stand in no table of results.",
    ),
    "dataset": (
        "datasets",
        "Data sets",
        "A data set has several domains with the same classes, or splits of its own. Where a cell is empty your files "
        "decide. How to get them: [data](../data.md).",
    ),
}
"""Kind -> folder of its pages, title and first paragraph of the index."""


def pages(catalogue: Catalogue) -> dict[str, str]:
    """Return the path in docs/ -> Markdown of every page."""
    found = {"methods.md": by_idea(catalogue)}
    for kind, (folder, _, _) in KINDS.items():
        entries = catalogue.of_kind(kind)
        found[f"{folder}/index.md"] = index(kind, entries)
        shared = catalogue.get("algorithm", catalogue.baseline).space if kind in ("algorithm", "rule") else ()
        found |= {f"{folder}/{name}.md": page(entry, shared) for name, entry in entries.items()}
    return found


def by_idea(catalogue: Catalogue) -> str:
    """List the methods of each idea, with links to their pages."""
    sections = [
        "# Methods by idea",
        "Each method stands below the ideas that its paper builds on, so some stand below several. "
        "`dgbench list --by tag` prints this list, `dgbench list --tag flat` a part of it.",
    ]
    for tag, idea in TAGS.items():
        rows = [
            (f"[{entry.name}]({KINDS[entry.kind][0]}/{entry.name}.md)", entry.kind, parse(entry.doc).summary)
            for entry in catalogue.entries.values()
            if tag in getattr(entry.card, "tags", ())
        ]
        sections += [f"## {tag}", f"{_capitalized(idea)}.", table(("method", "kind", "idea"), rows)]
    return "\n\n".join(sections) + "\n"


def page(entry: CatalogueEntry, shared: Space) -> str:
    """Describe an entry; its hyperparameters that are in `shared` are listed apart."""
    doc = parse(entry.doc)
    sections = [f"# {entry.name}", doc.summary, doc.text, table(("", ""), list(_facts(entry)), "facts")]
    sections += _sections(doc)
    sections += _hyperparameters(entry, shared)
    if entry.kind == "dataset":
        sections += datasets.contents(entry)
    code = f"<div data-search-exclude markdown>\n\n```python\n{Path(entry.file).read_text()}```\n\n</div>"
    sections.append(f'??? quote "Source: {_file(entry)}"\n\n{indented(code)}')
    return "\n\n".join(section for section in sections if section) + "\n"


def _sections(doc: Doc) -> list[str]:
    """Return the sections of a docstring: the references, then all that departs from them, below one heading."""
    references = [text for title, text in doc.sections.items() if title.startswith("Reference")]
    departures = []
    for title, text in doc.sections.items():
        if title == "Departures":
            departures.append(_capitalized(text))
        elif not title.startswith("Reference"):
            gap = "\n\n" if text.startswith(("- ", "* ")) else " "
            departures.append(f"**{_capitalized(re.sub('Departures? ', '', title))}:**{gap}{text}")
    return [
        *(["## Reference", *references] if references else []),
        *(["## Departures", *departures] if departures else []),
    ]


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _facts(entry: CatalogueEntry) -> Facts:
    facts: Mapping[str, Callable[[CatalogueEntry], Facts]] = {
        "algorithm": _algorithm,
        "rule": _algorithm,
        "average": _average,
        "merger": _merger,
        "adapter": _adapter,
        "analysis": _analysis,
        "dataset": datasets.facts,
    }
    if entry.card.paper:
        yield "Paper", paper(entry.card)
    if tags := getattr(entry.card, "tags", ()):
        yield "Ideas", ", ".join(f"[{tag}](../methods.md#{tag})" for tag in tags)
    yield from facts[entry.kind](entry)
    yield "Source", f"`{_file(entry)}`"


def paper(card: Card, *, short: bool = False) -> str:
    """Name a card's paper, as a link where its address is known; `short`: without its title."""
    split = [name.split(", ") for name in card.paper.split("; ")]
    name = "; ".join(f"{words[0]}, {words[-1]}" for words in split if len(words) > 1) if short else card.paper
    return f"[{inline(name)}]({card.link})" if card.link else inline(name)


def _algorithm(entry: CatalogueEntry) -> Facts:
    card = entry.card
    if entry.kind == "rule":
        yield "In rows", f"`{entry.name}`, `CORAL+{entry.name}`"
    elif entry.ruled:
        yield (
            "Step rules",
            "[can take its steps](../rules/index.md)" + (f"; alone it has {card.rule}" if card.rule else ""),
        )
    plural = "pass" if (card.forwards, card.backwards) == (1, 1) else "passes"
    yield "Cost", f"{card.forwards:g} forward and {card.backwards:g} backward {plural} a step"
    yield from _needs(entry)
    if card.penalties:
        base = f"; at 0 {card.base or 'ERM'} remains{escaped(with_values(card.without))}"
        yield "Penalties", ", ".join(f"`{name}`" for name in card.penalties) + (base if card.base is not None else "")
    if card.taught:
        yield "Teacher", "learns from the logits of another row's best model, named by `teacher`"
    if card.transductive:
        yield "Transductive", "a prediction depends on the other inputs predicted with it"
    for what, why in card.no_feedback.items():
        yield "Averages", f"none can set {FEEDBACK[what]}: it {inline(why)}"
    if card.syncs:
        yield "On a GPU", f"a step waits for the device: {inline(card.syncs)}"
    if card.unlike_domainbed:
        yield "DomainBed's", inline(card.unlike_domainbed)
    if card.experimental:
        yield "Experimental", inline(card.experimental)


def _average(entry: CatalogueEntry) -> Facts:
    card = entry.card
    yield "In rows", f"`ERM+{entry.name}`"
    yield "Evaluated", "at every evaluation" if card.when == "always" else "once, when training is over"
    yield "Cost", f"{card.copies:g} copies of the model in memory"
    yield (
        "Training",
        (
            f"changes {' and '.join(FEEDBACK[what] for what in card.feeds_back)}, so the row trains a run of its own"
            if card.feeds_back
            else "unchanged: the row costs no further run"
        ),
    )
    yield (
        "Batch norm",
        "statistics are averaged like the weights"
        if card.batch_norm == "averaged"
        else "statistics are measured anew for the averaged weights",
    )


def _merger(entry: CatalogueEntry) -> Facts:
    card = entry.card
    yield "In rows", f"`ERM+{entry.name}`"
    runs = (
        "each run by itself, with the weights that it started from"
        if card.each
        else f"at least {card.min_members} runs of {'all trials' if card.all_trials else 'a trial'}"
    )
    models = f"averaged by {card.average}" if card.average else "at their best validation accuracy"
    yield "Merges", f"{runs}; models {models}"
    yield "Result", "several networks whose logits are averaged" if card.ensemble else "one network"
    yield (
        "Start",
        "members must start from the same weights" if card.shared_init else "members may start from different weights",
    )
    if card.all_trials:
        yield (
            "Selection",
            "nothing can be validated, as each example was trained on in some trial: there is one model and no error",
        )
    if card.in_order:
        yield "Order of members", f"matters: {card.in_order}"
    if card.changes_equal:
        yield "Equal members", f"give another model: {card.changes_equal}"
    yield from _needs(entry)


def _adapter(entry: CatalogueEntry) -> Facts:
    card = entry.card
    yield "In rows", f"`ERM+{entry.name}`"
    yield "Cost", f"{card.forwards:g} forward and {card.backwards:g} backward passes a test batch"
    if card.needs_source:
        yield "Sees", "the training examples, before the first test batch"
    if card.needs_features:
        yield "Works on", "the features of one network, so not on an ensemble"
    yield from _needs(entry)


def _analysis(entry: CatalogueEntry) -> Facts:
    card = entry.card
    rows = f" --rows{' ROW' * (card.models or 2)}" if card.takes == "rows" else ""
    yield "Command", f"`dgbench analyze {entry.name} runs/mine{rows}`"
    yield "Measures", TAKES[card.takes]
    yield from ((f"`{name}`", meaning) for name, meaning in card.measures.items())
    for name, series in card.series.items():
        columns = ", ".join(f"`{column}` ({label})" for column, label in series.labels.items())
        yield f"Series `{name}`", f"{inline(series.title)}: {columns}"
    if card.needs_features:
        yield "Works on", "the features and the classifier of a network, so not on classes for DomainBed"
    yield from _needs(entry)


def _needs(entry: CatalogueEntry) -> Facts:
    needs = [f"{entry.card.min_domains} training domains"] if getattr(entry.card, "min_domains", 1) > 1 else []
    for need in needs_of(entry.card):
        when = escaped(with_values(need.when))
        if need.what in DECLINED:
            needs.append(f"training without {DECLINED[need.what]}{when}: it {inline(need.why)}")
        elif need.what == DOMAINS:
            least = f"as many as `{need.least}`" if isinstance(need.least, str) else str(need.least)
            needs.append(f"{least} training domains{when}")
        else:
            needs.append(f"{NEEDS[need.what]}{when}")
    if needs:
        yield "Needs", "; ".join(needs)


def _hyperparameters(entry: CatalogueEntry, shared: Space) -> list[str]:
    own = [spec for spec in entry.space if spec not in shared]
    inherited = [spec for spec in entry.space if spec in shared]
    found = ["## Hyperparameters"] if entry.space else []
    if own:
        found += [_hparams_docstring(entry), _space(own)]
    if inherited:
        names = ", ".join(spec.name for spec in inherited)
        found.append(f'??? note "Those of every algorithm: {names}"\n\n{indented(_space(inherited))}')
    return found


def _hparams_docstring(entry: CatalogueEntry) -> str:
    """Read the docstring of the entry's `Hparams` from its file: it says whose the defaults and draws are."""
    for node in ast.walk(ast.parse(Path(entry.file).read_text())):
        if isinstance(node, ast.ClassDef) and node.name == entry.name:
            for inner in node.body:
                if isinstance(inner, ast.ClassDef) and inner.name == "Hparams":
                    return parse(ast.get_docstring(inner) or "").whole
    return ""


def _space(space: list[HparamSpec]) -> str:
    rows = []
    for spec in space:
        limits = [f"`{option}`" for option in spec.options] or ([f"`{spec.within}`"] if spec.within else [])
        values = ", ".join([spec.type, *limits])
        rows.append((f"`{spec.name}`", *_choice(spec.default, spec.draw), values, inline(spec.help)))
        for trait, (default, draw) in spec.variants.items():
            rows.append((f"with `{trait}`", *_choice(default, draw), "", ""))
    return table(("name", "default", "drawn from", "values", "meaning"), rows, "hparams")


def _choice(default: Value, draw: Draw | None) -> tuple[str, str]:
    shown = f'`"{default}"`' if isinstance(default, str) else f"`{default}`"
    return shown, f"`{draw}`" if draw else "not drawn"


def _file(entry: CatalogueEntry) -> str:
    return str(Path(entry.file).relative_to(PACKAGE.parent))


def index(kind: str, entries: Mapping[str, CatalogueEntry]) -> str:
    """List all entries of a kind in a table that readers can sort, with the departures of DomainBed's versions."""
    _, title, text = KINDS[kind]
    rows = []
    for name, entry in entries.items():
        cells = {
            "name": f"[{name}]({name}.md)",
            "idea": parse(entry.doc).summary,
            "paper": paper(entry.card, short=True),
        }
        rows.append({**cells, **_columns(entry)})
    listed = table(tuple(rows[0]), [tuple(row.values()) for row in rows], "sortable")
    sections = ["---\nhide: [toc]\n---", f"# {title}", text, listed]
    departing = [entry for entry in entries.values() if getattr(entry.card, "unlike_domainbed", "")]
    if departing:
        departures = [(f"[{entry.name}]({entry.name}.md)", inline(entry.card.unlike_domainbed)) for entry in departing]
        sections += [
            "## Where DomainBed's differs",
            "DomainBed has an algorithm of these names too, which departs from its paper. These follow the paper:",
            table(("name", "DomainBed's"), departures),
        ]
    return "\n\n".join(sections) + "\n"


def _columns(entry: CatalogueEntry) -> dict[str, str]:
    """Return further columns of the index: title -> cell."""
    card = entry.card
    match entry.kind:
        case "algorithm" | "rule":
            return {"passes": f"{card.forwards:g} + {card.backwards:g}", "domains ≥": str(card.min_domains)}
        case "average":
            evaluated = "each time" if card.when == "always" else "at the end"
            return {"evaluated": evaluated, "own run": "yes" if card.feeds_back else "", "copies": f"{card.copies:g}"}
        case "merger":
            return {"of": card.average, "result": "ensemble" if card.ensemble else "network"}
        case "adapter":
            return {
                "passes": f"{card.forwards:g} + {card.backwards:g}",
                "training data": "yes" if card.needs_source else "",
            }
        case "analysis":
            return {"of": f"a {card.takes}".replace("a rows", "rows"), "measures": ", ".join(card.measures)}
        case _:
            counts = card.parts or card.counts
            return {
                "domains": str(len(card.domains) or ""),
                "classes": str(len(card.classes) or ""),
                "examples": f"{sum(counts.values()):,}" if counts else "",
                "inputs": card.input_kind,
            }
