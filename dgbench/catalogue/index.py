"""The index of cards: all that planning and `list` need of entries, in files found by the hash of the source.

Importing a catalogue's files imports torch and takes seconds; reading the index takes milliseconds. An index file is
never changed: other sources or other base classes lead to another file name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from dgbench.catalogue.entry import KINDS, PACKAGE, CatalogueEntry, import_source
from dgbench.core.cards import MODELS, AlgorithmCard, AnalysisCard
from dgbench.core.errors import UserError
from dgbench.core.plain import from_plain
from dgbench.core.space import Checked, space_of
from dgbench.core.wording import with_article


def package_entries() -> list[CatalogueEntry]:
    """Return the entries of the package's own catalogues, from the index if none of their files has changed."""

    def inspect_package() -> Iterator[CatalogueEntry]:
        for folder, *_ in KINDS.values():
            for file in sorted((PACKAGE / folder).glob("[!_]*.py")):
                yield from _inspect(f"dgbench.{folder}.{file.stem}", file)

    return _indexed(str(PACKAGE).encode(), inspect_package)


def entries_of(module: str, file: Path) -> list[CatalogueEntry]:
    """Return the entries that a file defines, from the index if neither it nor the package's catalogues have changed.

    Args:
        module: Dotted name to import; empty for an included file.
        file: Path of the file.

    Raises:
        UserError: An included file can't be imported, or a class has no card.
    """
    return _indexed(module.encode() + str(file).encode() + file.read_bytes(), lambda: _inspect(module, file))


def _indexed(key: bytes, inspect_sources: Callable[[], Iterable[CatalogueEntry]]) -> list[CatalogueEntry]:
    """Read the entries that the index keeps under a key, or find them in their sources and write them down."""
    path = _index_folder() / f"{hashlib.sha256(_base_digest() + key).hexdigest()[:24]}.json"
    # An index that is missing, cut off or of another form is made anew; it can't make a command fail.
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return [_from_index(item) for item in orjson.loads(path.read_bytes())]
    entries = list(inspect_sources())
    _write_index(path, entries)
    return entries


def _inspect(module: str, file: Path) -> Iterator[CatalogueEntry]:
    """Import a file and yield an entry for each class in it that extends a base class of a catalogue."""
    try:
        loaded = import_source(module, file)
    except Exception as error:
        if module or isinstance(error, UserError):
            raise
        raise UserError(f"--include {_place(file, error)}: {type(error).__name__}: {error}") from error
    for name, cls in inspect.getmembers(loaded, inspect.isclass):
        # Classes that the file imports from elsewhere are entries of their own file.
        if cls.__module__ != loaded.__name__ or name.startswith("_"):
            continue
        entry = entry_of_class(cls, str(file), module)
        if entry:
            yield entry


def entry_of_class(cls: type, file: str, module: str = "") -> CatalogueEntry | None:
    """Return the entry that a class makes; None if it extends no base class of a catalogue.

    Args:
        cls: The class.
        file: Path of its source.
        module: Dotted name to import; empty for an included file.

    Raises:
        UserError: The class has no card of its kind.
    """
    # From the last kind on: a rule extends the base of algorithms too.
    for kind, (_, base_module, base_name, card_type) in reversed(KINDS.items()):
        base = getattr(sys.modules.get(base_module), base_name, None)
        # A base class that nothing has imported has no subclasses, so it isn't imported for the question.
        if base is None or not issubclass(cls, base):
            continue
        card = getattr(cls, "card", None)
        if not isinstance(card, card_type):
            raise UserError(
                f"{file}: {cls.__name__}.card must be {with_article(card_type.__name__)}; begin a mere base's name "
                "with _"
            )
        if isinstance(card, AlgorithmCard) and card.baseline and "card" not in vars(cls):
            card = dataclasses.replace(card, baseline=False)  # what extends the baseline is another algorithm
        hparams = getattr(cls, "Hparams", None)
        checks = getattr(hparams, "__post_init__", None) not in (None, Checked.__post_init__)
        space = space_of(hparams) if hparams else ()
        if isinstance(card, AnalysisCard):
            words = {each for product in (*card.passes, (card.examples,)) for each in product if isinstance(each, str)}
            if unknown := sorted(words - {spec.name for spec in space} - {MODELS, ""}):
                raise UserError(f"{file}: card of {cls.__name__} counts by {', '.join(unknown)}, which it has not")
        ruled = kind == "algorithm" and _has_one_loss(cls, base)
        return CatalogueEntry(kind, cls.__name__, file, module, inspect.getdoc(cls) or "", space, checks, card, ruled)
    return None


def _has_one_loss(cls: Any, base: Any) -> bool:
    """Return whether step rules can take an algorithm's steps: it has no `update` of its own, or one made for rules."""
    return bool(cls.card.rule) or cls.update is base.update


def _place(file: Path, error: Exception) -> str:
    """Return `file:line` of an error in an import, or the file alone where the line is not known."""
    if isinstance(error, SyntaxError):
        return f"{file}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"{file}:{lines[-1]}" if lines else str(file)


def _index_folder() -> Path:
    """Return the folder of index files in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dgbench" / "cards"


@cache
def _base_digest() -> bytes:
    """Hash the files that cards and spaces are made of, all catalogues included, as an entry may extend another."""
    modules = (
        "dgbench.catalogue.entry",
        "dgbench.core.cards",
        "dgbench.core.composition",
        "dgbench.core.data_cards",
        "dgbench.core.needs",
        "dgbench.core.space",
        "dgbench.methods.hparams",
        *(base for _, base, *_ in KINDS.values()),
    )
    entries = (file for folder, *_ in KINDS.values() for file in sorted((PACKAGE / folder).glob("*.py")))
    files = (*(PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py") for module in modules), *entries)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def _write_index(path: Path, entries: list[CatalogueEntry]) -> None:
    """Write the index; where the cache folder can't be written, every start pays for the import instead."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed, so that a command that starts meanwhile reads a whole file or none.
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        beside.write_bytes(orjson.dumps(entries))
        beside.replace(path)


def _from_index(item: dict[str, Any]) -> CatalogueEntry:
    """Make an entry from its JSON."""
    return from_plain(CatalogueEntry, {**item, "card": from_plain(KINDS[item["kind"]][3], item["card"])})
