"""The index of cards: what planning and `list` need of an entry, kept by the hash of its source."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from dgbench.catalogue.entry import KINDS, PACKAGE, Entry, import_source
from dgbench.core.cards import Need
from dgbench.core.errors import UserError
from dgbench.core.space import Checked, Draw, HparamSpec, space_of


def entries_of(module: str, file: Path) -> list[Entry]:
    """The entries that a file defines, from the index if the file and the base classes are what they were."""
    digest = hashlib.sha256(_base_digest() + module.encode() + str(file).encode() + file.read_bytes()).hexdigest()[:24]
    cached = _index_folder() / f"{digest}.json"
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return [_from_json(item) for item in orjson.loads(cached.read_bytes())]
    entries = list(_inspect(module, file))
    _write_index(cached, entries)
    return entries


def _inspect(module: str, file: Path) -> Iterator[Entry]:
    try:
        loaded = import_source(module, file)
    except Exception as error:
        if module or isinstance(error, UserError):
            raise
        raise UserError(f"--include {_place(file, error)}: {type(error).__name__}: {error}") from error
    for name, cls in inspect.getmembers(loaded, inspect.isclass):
        if cls.__module__ != loaded.__name__ or name.startswith("_"):
            continue
        for kind, (_, base_module, base_name, card_type) in KINDS.items():
            base = getattr(sys.modules.get(base_module), base_name, None)
            if base is None or not issubclass(cls, base):
                continue
            card = getattr(cls, "card", None)
            if not isinstance(card, card_type):
                raise UserError(f"{file}: {name}.card must be a {card_type.__name__}; begin a mere base's name with _")
            hparams = getattr(cls, "Hparams", None)
            checks = getattr(hparams, "__post_init__", None) not in (None, Checked.__post_init__)
            space = space_of(hparams) if hparams else ()
            yield Entry(kind, name, str(file), module, inspect.getdoc(cls) or "", space, checks, card)


def _place(file: Path, error: Exception) -> str:
    """The file, and where in it importing went wrong, if that is known."""
    if isinstance(error, SyntaxError):
        return f"{file}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"{file}:{lines[-1]}" if lines else str(file)


def _index_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dgbench" / "cards"


@cache
def _base_digest() -> bytes:
    """Changes when files that cards and spaces are made of change: an entry may extend another of the package."""
    modules = (
        "dgbench.catalogue.entry",
        "dgbench.core.cards",
        "dgbench.core.space",
        *(base for _, base, *_ in KINDS.values()),
    )
    entries = (file for folder, *_ in KINDS.values() for file in sorted((PACKAGE / folder).glob("*.py")))
    files = (*(PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py") for module in modules), *entries)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def _write_index(path: Path, entries: Sequence[Entry]) -> None:
    """Keep the index; where the cache folder can't be written, every start pays for the import instead."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        beside.write_bytes(orjson.dumps([_to_json(entry) for entry in entries]))
        beside.replace(path)
    except OSError:
        return


def _to_json(entry: Entry) -> dict[str, Any]:
    space = [
        {
            **{f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)},
            "draw": spec.draw and str(spec.draw),
            "variants": {trait: [default, draw and str(draw)] for trait, (default, draw) in spec.variants.items()},
        }
        for spec in entry.space
    ]
    fields = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry)}
    return {**fields, "space": space, "card": dataclasses.asdict(entry.card)}


def _item(item: Any) -> Any:
    """Revive one item of a card's tuple, all of which are plain but for needs."""
    return Need(**item) if isinstance(item, dict) else item


def _from_json(data: dict[str, Any]) -> Entry:
    def draw(text: str | None) -> Draw | None:
        return Draw.parse(text) if text else None

    space = tuple(
        HparamSpec(
            **{
                **spec,
                "draw": draw(spec["draw"]),
                "variants": {trait: (default, draw(text)) for trait, (default, text) in spec["variants"].items()},
                "options": tuple(spec["options"]),
            }
        )
        for spec in data["space"]
    )
    card_type = KINDS[data["kind"]][3]
    card = card_type(**{k: tuple(map(_item, v)) if isinstance(v, list) else v for k, v in data["card"].items()})
    return Entry(**{**data, "space": space, "card": card})
