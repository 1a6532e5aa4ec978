"""List algorithms, data sets, settings and more, a line each, or describe those that are named.

dgbench list algorithms --search sharp
dgbench list algorithms SAM VREx
dgbench list --by tag
dgbench list --tag flat
dgbench list settings precision
dgbench list backbones --search convnext
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from dgbench import cli
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.describe import algorithm_facts, describe, reference_of
from dgbench.catalogue.entry import CatalogueEntry
from dgbench.catalogue.rows import parse_row
from dgbench.core import setting
from dgbench.core.attribute_docs import attribute_docs
from dgbench.core.cards import TAGS
from dgbench.core.errors import Problems, UserError
from dgbench.core.grid import columns, pipes
from dgbench.core.optimizers import LEFT_OUT, OPTIMIZERS
from dgbench.core.presets import DEFAULT, TABLES, read_preset
from dgbench.core.setting import FIELD_NAMES, PRESETS
from dgbench.core.wording import count_nouns, unknown_name, with_article
from dgbench.networks.backbones import ALIASES, BUILTIN_BACKBONES
from dgbench.networks.clip_names import check_clip, images_of, is_clip, published_names
from dgbench.networks.describe import alias_summaries, describe_backbone
from dgbench.plan.options import OPTIONS

METHODS = "methods"
"""The list of the entries of all kinds that make predictors."""
KINDS = {
    **{f"{kind}s": kind for kind in ("algorithm", "rule", "average", "merger", "adapter", "dataset")},
    "analyses": "analysis",
}

_WIDTH = 110
"""Characters of a line of many names."""
_ESCAPED = str.maketrans({"|": "\\|", "*": "\\*", "<": "&lt;"})


class Item(NamedTuple):
    """One thing that can be listed."""

    summary: str
    details: Callable[[], Iterable[str]]
    """Called if it is named."""
    tags: tuple[str, ...] = ()
    """Keys of `TAGS`."""
    reference: str = ""
    """Authors and titles of its papers, which a search looks into."""


Items = Mapping[str, Item]
"""By name, in the order of the list."""


def parser() -> cli.Parser:
    """Declare the arguments of the command."""
    found = cli.Parser(prog="dgbench list", doc=__doc__)
    what = f"one of {', '.join(_LISTS)} (default: {METHODS}, which are all that make models)"
    found.add_argument("what", metavar="WHAT", nargs="?", default=METHODS, help=what)
    found.add_argument("names", nargs="*", metavar="NAME", help="print everything about these")
    found.add_argument("--search", metavar="WORD", help="only those that mention it; also timm's backbones")
    found.add_argument("--tag", metavar="TAG", help=f"only methods of an idea, or its first letters: {', '.join(TAGS)}")
    found.add_argument("--by", choices=("tag",), help="group methods by their ideas; some have several")
    found.add_argument("--include", nargs="+", metavar="FILE", help="Python files with further entries; FILE:NAME")
    found.add_argument("--markdown", action="store_true", help="a Markdown table of algorithms, ..., datasets")
    found.add_argument("--sweeps_dir", type=Path, help="folder of TOML files, in place of the shipped sweeps")
    return found


def main(argv: Sequence[str]) -> int:
    """Print the list; return 0."""
    args = parser().parse_args(argv)
    if args.what not in _LISTS:
        raise UserError(unknown_name("list", args.what, _LISTS))
    if (args.tag is not None or args.by) and _kinds(args.what) <= {"dataset"}:
        raise UserError(f"--tag and --by look at methods, and {args.what} are none")
    catalogue = Catalogue(args.include or ())
    if args.markdown:
        if args.what not in KINDS:
            raise UserError(f"--markdown makes tables of {', '.join(KINDS)}, not of {args.what}")
        lines = _table(args.what, catalogue.of_kind(KINDS[args.what]).values())
    else:
        items = _OTHERS.get(args.what, _entries)(args, catalogue)
        lines = _by_tag(args, items) if args.by else _listed(args, items)
    for line in lines:
        print(line)
    return 0


def _listed(args: Any, items: Items) -> Iterator[str]:
    """Yield the details of the named items, or a line of each that the search finds."""
    if args.names:
        problems = Problems()
        for name in (name for name in args.names if name not in items):
            problems.add(unknown_name(f"name in the list of {args.what}", name, items))
        problems.raise_if_any()
        for name in dict.fromkeys(args.names):
            yield name
            yield from (f"    {line}".rstrip() for line in items[name].details())
            yield ""
        return
    yield from _lines(_found(args, items))


def _lines(items: Items, before: str = "") -> Iterator[str]:
    """Yield a line for each item, cut to the width of a terminal."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for cells in columns([[name, item.summary] for name, item in items.items()]):
        line = before + cells.rstrip()
        yield line if width is None or len(line) <= width else f"{line[: width - 1]}…"


def _found(args: Any, items: Items) -> Items:
    """Return the items of the tag that mention the searched word; raise UserError if there are none."""
    tags = [tag for tag in TAGS if tag.startswith(args.tag.casefold())] if args.tag else []
    if args.tag is not None and not tags:
        raise UserError(unknown_name("tag", args.tag, TAGS))
    if tags:
        items = {name: item for name, item in items.items() if set(tags).intersection(item.tags)}
    word = (args.search or "").casefold()
    texts = {name: f"{name} {item.summary} {' '.join(item.tags)} {item.reference}" for name, item in items.items()}
    found = {name: items[name] for name, text in texts.items() if word in text.casefold()}
    if not found:  # a word of cards or docstrings, then
        found = {name: item for name, item in items.items() if word in "\n".join(item.details()).casefold()}
    if not found:
        why = f"--search {args.search}: " if args.search else ""
        of = f" of the tag {args.tag}" if tags else ""
        raise UserError(f"{why}nothing in the list of {args.what}{of}{' mentions it' if why else ''}")
    return found


def _by_tag(args: Any, items: Items) -> Iterator[str]:
    """Yield each idea with the lines of its methods; a method of several ideas comes with each."""
    found = _found(args, items)
    for tag, idea in TAGS.items():
        if own := {name: item for name, item in found.items() if tag in item.tags}:
            yield f"{tag}: {idea}"
            yield from _lines(own, "  ")
            yield ""
    if others := {name: item for name, item in found.items() if not item.tags}:
        yield "without a tag"
        yield from _lines(others, "  ")
        yield ""


def _entries(args: Any, catalogue: Catalogue) -> Items:
    kinds = _kinds(args.what)
    problems = Problems()
    args.names = [part for name in args.names for part in _parts(name, catalogue)]
    for name in args.names:
        if (other := catalogue.entries.get(name)) and other.kind not in kinds:
            lists = next(title for title, kind in KINDS.items() if kind == other.kind)
            problems.add(f"{name} is {with_article(other.kind)}: dgbench list {lists} {name}")
    problems.raise_if_any()
    entries = {
        name: entry for kind in KINDS.values() if kind in kinds for name, entry in catalogue.of_kind(kind).items()
    }
    for name in (name for name in args.names if "+" in name and "algorithm" in kinds and name in catalogue):
        entries[name] = catalogue.get("algorithm", name)
    return {
        name: Item(entry.summary, partial(describe, entry), getattr(entry.card, "tags", ()), reference_of(entry))
        for name, entry in entries.items()
    }


def _parts(name: str, catalogue: Catalogue) -> tuple[str, ...]:
    """Return the names of the entries that a row is made of, an algorithm with its step rule as one."""
    is_row = "+" in name and name in catalogue
    return tuple(part for _, part in parse_row(name, catalogue).entries) if is_row else (name,)


def _kinds(what: str) -> set[str]:
    """Return the kinds of entries in a list; none in a list of other things."""
    return {*KINDS.values()} - {"dataset", "analysis"} if what == METHODS else {KINDS[what]} if what in KINDS else set()


def _table(what: str, entries: Iterable[CatalogueEntry]) -> Iterator[str]:
    """Make a Markdown table: of methods with their papers, of algorithms also cost and notes, of data sets sources."""
    rows = [[what, "what it is", "from", *(["passes", "notes"] if what in ("algorithms", "rules") else [])]]
    for entry in entries:
        rows.append([entry.name, entry.summary, entry.card.source if what == "datasets" else entry.card.paper])
        if what in ("algorithms", "rules"):
            _, *notes = algorithm_facts(entry)
            rows[-1] += [f"{entry.card.forwards:g} + {entry.card.backwards:g}", "; ".join(notes)]
    return pipes(rows, ["---"] * len(rows[0]), lambda cell: cell.translate(_ESCAPED))


def _sweeps(args: Any, catalogue: Catalogue) -> Items:
    """List the sweep files of the package, or of a folder."""
    from dgbench.plan.sweep_file import (  # planning imports much that other lists don't need
        read_sweep_file,
        shipped_sweeps,
    )

    folder = args.sweeps_dir
    if folder is not None and not folder.is_dir():
        raise UserError(f"--sweeps_dir {folder}: there is no such folder")
    files = shipped_sweeps() if folder is None else {str(file): file for file in sorted(folder.glob("*.toml"))}
    return {name: _sweep(file, read_sweep_file(file), catalogue) for name, file in files.items()}


def _sweep(file: Path, asked: Mapping[str, Any], catalogue: Catalogue) -> Item:
    from dgbench.plan.asking import count_training_runs, declare  # as in `_sweeps`
    from dgbench.plan.grid import with_points

    lines = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    comment = [line.lstrip("# ") for line in lines]
    rows, datasets, runs = asked.get("algorithms", ()), asked.get("datasets", ()), None
    with suppress(UserError):  # a file may leave to flags what counting needs
        rows = with_points(asked, catalogue).get("algorithms", ())
        # Values don't change the number of runs, and to check the name of one of timm's networks takes timm and torch.
        counted = {key: value for key, value in asked.items() if key not in TABLES}
        runs = count_training_runs(declare(counted, catalogue)[0], catalogue)
    counts = [
        count_nouns(len(rows), "row"),
        datasets[0] if len(datasets) == 1 else count_nouns(len(datasets), "data set"),
        *([count_nouns(runs, "training run")] if runs else []),
    ]

    def details() -> Iterator[str]:
        yield from comment
        for key, names in (("algorithms", rows), ("datasets", datasets)):
            yield from textwrap.wrap(f"{key}: {', '.join(names)}", _WIDTH, subsequent_indent="    ") if names else ()
        if runs:
            yield f"training runs: {runs:,}"
        yield f"file: {file}"

    return Item(f"{', '.join(counts)}. {' '.join(comment[:1])}", details)


def _backbones(args: Any, catalogue: Catalogue) -> Items:
    """List our networks and the names that stand for others; of timm's those that are named or searched for."""
    asked = [name for name in args.names if name not in (*ALIASES, *BUILTIN_BACKBONES)]
    found = {name: Item(summary, partial(list, [summary])) for name, summary in alias_summaries().items()}
    for name, facts in BUILTIN_BACKBONES.items():
        found[name] = Item(f"ours, takes {' or '.join(facts.takes)}", partial(describe_backbone, name))
    for name, file in catalogue.networks.items():
        short = name.partition("@")[0]
        found[short] = Item(f"of {file.name}, {name}, if it is a network", partial(list, [f"{name}, in {file}"]))
    if args.search or asked:
        import timm  # with torch, so only where its networks are looked for

        tagged = timm.list_models(f"*{args.search}*", pretrained=True) if args.search else []
        for name in dict.fromkeys((*tagged, *asked)):
            if config := timm.get_pretrained_cfg(name):
                size = " x ".join(map(str, config.input_size))
                weights = "pretrained" if config.has_weights else "without weights"
                found[name] = Item(f"timm's, {weights}, for images of {size}", partial(describe_backbone, name))
    clips = published_names(args.search) if args.search else filter(is_clip, asked)
    for name in clips:
        check_clip(name)
        size = " x ".join(map(str, images_of(name)))
        found[name] = Item(f"open_clip's, with a text tower, for images of {size}", partial(describe_backbone, name))
    if not args.search and not args.names:
        found["clip:..."] = Item(
            "a CLIP of open_clip, with its text tower: `--search clip:` finds them, clip:./folder is one of yours",
            lambda: (),
        )
        found["..."] = Item("every network of timm, `--search` finds them, and language models of a hub", lambda: ())
    return found


def _optimizers(args: Any, catalogue: Catalogue) -> Items:
    """List the optimizers, each with its meaning, and after them those that are left out, with the reason."""
    found = {name: Item(what, partial(list, [what])) for name, what in OPTIMIZERS.items()}
    return found | {
        name: Item(f"(left out) {why}", partial(list, [f"left out: it {why}"])) for name, why in LEFT_OUT.items()
    }


def _selectors(args: Any, catalogue: Catalogue) -> Items:
    """List the ways of choosing models."""
    from dgbench.report.select import Selector  # imports numpy, which the other lists do without
    from dgbench.report.selectors import ALL_SELECTORS

    def details(selector: Selector) -> Iterator[str]:
        yield f"in tables: {selector.label}"
        yield f"reads {selector.reads.format(metric='accuracy')}"
        yield f"of a training run: {selector.steps}; of a run that adapts: {selector.of_adapted}"
        yield ""
        yield from inspect.cleandoc(type(selector).__doc__ or "").splitlines()

    return {
        name: Item(f"reads {found.reads.format(metric='accuracy')}, {found.steps}", partial(details, found))
        for name, found in ALL_SELECTORS.items()
    }


def _presets(args: Any, catalogue: Catalogue) -> Items:
    """List the presets by their titles; describe one by its values with their sources."""

    def details(name: str) -> Iterator[str]:
        preset = read_preset(name)
        for text in (preset.title, preset.about, *(f"not known: {text}" for text in preset.unknown)):
            yield from textwrap.wrap(" ".join(text.split()), _WIDTH)
        yield from columns([[place, str(value), preset.source_of(place)] for place, value in preset.values()])
        yield "all settings:"
        yield from columns([[field, str(getattr(PRESETS[name], field))] for field in FIELD_NAMES])

    return {name: Item(read_preset(name).title, partial(details, name)) for name in PRESETS}


def _settings(args: Any, catalogue: Catalogue) -> Items:
    """List the fields of a setting, each with its default and meaning."""
    meanings = attribute_docs(Path(setting.__file__).read_text(encoding="utf-8"), "Setting")
    hints = get_type_hints(setting.Setting, include_extras=True)

    def details(name: str) -> Iterator[str]:
        yield from meanings.get(name, "").splitlines()
        yield f"values: {_values(hints[name])}"
        yield f"changed by: --{name}" if name in OPTIONS else f"changed by: --set {name}=VALUE"
        values = {preset: getattr(PRESETS[preset], name) for preset in PRESETS}
        yield from (f"in the preset {p}: {v!r}" for p, v in values.items() if p == DEFAULT or v != values[DEFAULT])

    found = {}
    for name in FIELD_NAMES:
        first = re.split(r"(?<=\.)\s", meanings.get(name, ""), maxsplit=1)[0]
        found[name] = Item(f"{getattr(PRESETS[DEFAULT], name)!r:<11} {' '.join(first.split())}", partial(details, name))
    return found


def _values(hint: Any) -> str:
    """Return the values that a field of a setting may have, `fp32, bf16`, or its type."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return ", ".join(map(str, get_args(kind))) if get_origin(kind) is Literal else str(kind.__name__)


def _launchers(args: Any, catalogue: Catalogue) -> Items:
    """List the launchers, each with its options."""
    from dgbench.launchers.launcher import (  # with planning, which the other lists do without
        find_launcher,
        launcher_names,
    )

    def details(name: str) -> Iterator[str]:
        kind = find_launcher(name)
        meanings = dict[str, str]()
        for part in kind.__mro__:
            if part.__module__ != "builtins" and dataclasses.is_dataclass(part):
                source = Path(inspect.getfile(part)).read_text(encoding="utf-8")
                meanings = attribute_docs(source, part.__name__) | meanings
        yield from inspect.cleandoc(kind.__doc__ or "").splitlines()
        yield ""
        for field in dataclasses.fields(kind):
            given = "" if field.default in (None, "", ()) else f" ({field.default})"
            yield f"{field.name}{given}: {' '.join(meanings.get(field.name, '').split())}"

    return {
        name: Item(inspect.cleandoc(find_launcher(name).__doc__ or "").partition("\n")[0], partial(details, name))
        for name in launcher_names()
    }


_OTHERS: Mapping[str, Callable[[Any, Catalogue], Items]] = {
    "sweeps": _sweeps,
    "backbones": _backbones,
    "optimizers": _optimizers,
    "selectors": _selectors,
    "presets": _presets,
    "settings": _settings,
    "launchers": _launchers,
}
"""What else than entries of a catalogue is listed."""
_LISTS = (METHODS, *KINDS, *_OTHERS)
"""Everything that can be listed."""

if __name__ == "__main__":
    sys.exit(cli.run(main))
