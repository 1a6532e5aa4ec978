"""The catalogues: what algorithms, averages, mergers, adapters and data sets there are.

An entry is found in the package's folders, by entry point, or in a file that the user includes (`file.py`, or
`file.py:Name` for a class written for another suite), all through `Catalogue`. What planning and `list` need of an
entry (its card and search space) is kept in a small index file keyed by the hash of the entry's source, so that they
don't import torch; the class is imported when a run needs it. Of another suite's classes nothing is kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar

import orjson

from dgbench import cards
from dgbench.errors import UserError, unknown
from dgbench.setting import Setting
from dgbench.space import Checked, Draw, HparamSpec, Space, Value, resolve, space_of

KINDS = {
    "algorithm": ("algorithms", "dgbench.algorithm", "Algorithm", cards.AlgorithmCard),
    "average": ("averaging", "dgbench.average", "Average", cards.AverageCard),
    "merger": ("merging", "dgbench.merger", "Merger", cards.MergerCard),
    "adapter": ("adaptation", "dgbench.adapter", "Adapter", cards.AdapterCard),
    "dataset": ("datasets", "dgbench.dataset", "Dataset", cards.DatasetCard),
}
"""kind -> folder, module and name of the base class, class of the card."""

GROUPS = {
    "dgbench.algorithms": "algorithm",
    "dgbench.averages": "average",
    "dgbench.mergers": "merger",
    "dgbench.adapters": "adapter",
    "dgbench.datasets": "dataset",
}
"""Entry-point groups; an entry point names a module, whose classes are found as in a file."""

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """One class of a catalogue, as far as it is known without importing it."""

    kind: str
    name: str
    file: str
    module: str
    """Dotted name to import; empty for an included file, which is imported by its path."""
    doc: str
    space: Space
    checks: bool
    """Its `Hparams` check more than what the space says: what values must be to each other."""
    card: Any
    """The card of its kind (`dgbench.cards`)."""

    features: ClassVar[bool] = True
    """Of an algorithm: its predictor is a network's features and its classifier, which adapters work on."""

    @property
    def summary(self) -> str:
        """First line of the docstring: for a method, its objective."""
        return self.doc.strip().partition("\n")[0]

    @property
    def source(self) -> str:
        """Name and hash of the file that it is from, `mine.py 0123456789ab`; empty for what the package holds."""
        return source_of(Path(self.file))

    def load(self) -> Any:
        """The class itself; imports its file."""
        return getattr(import_source(self.module, Path(self.file)), self.name)

    def check(self, hparams: Mapping[str, Value]) -> None:
        """Refuse values that its `Hparams` do, of which each by itself is right; imports its file if that must be."""
        if self.checks:
            try:
                self.load().Hparams(**hparams)
            except UserError as error:
                raise UserError(*(f"{self.name}: {problem}" for problem in error.problems)) from None

    @property
    def open(self) -> bool:
        """It takes hyperparameters of any name, not only those of its space."""
        return False

    def takes(self, name: str) -> bool:
        """Whether a hyperparameter of that name means something to it."""
        return self.open or any(spec.name == name for spec in self.space)

    def resolve(
        self,
        dataset: str,
        *,
        traits: Iterable[str],
        hparams_seed: int,
        trial: int,
        fixed: Mapping[str, Value],
        draws: Mapping[str, Draw],
    ) -> dict[str, Value]:
        """The values of one hyperparameter seed in one trial on a data set; the rest as for `space.resolve`."""
        traits = (*traits, dataset)
        return resolve(self.space, traits=traits, hparams_seed=hparams_seed, trial=trial, fixed=fixed, draws=draws)

    def refusals(self, setting: Setting, hparams: Mapping[str, Value]) -> Iterator[str]:
        """What of a setting an algorithm can't follow with such hyperparameters, in the user's words."""
        if setting.compile and self.card.no_compile and cards.holds(self.card.no_compile_with, hparams):
            values = cards.with_values(self.card.no_compile_with)
            yield f"{self.name}{values} can't be trained with compile true: it {self.card.no_compile}"


class Catalogue:
    """All entries by name. Names are unique over all kinds, so that `SAM+SWAD` says what each word is."""

    def __init__(self, include: Sequence[str | Path] = ()) -> None:
        split = [split_include(str(path)) for path in include]
        files = [(Path(file).resolve(), name) for file, name in split]
        self.include = tuple(f"{file}:{name}" if name else str(file) for file, name in files)
        missing = [str(file) for file, _ in files if not file.is_file()]
        if missing:
            raise UserError(*(f"--include {path}: there is no such file" for path in missing))

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Entries by name; raises `UserError` if two files claim one name."""
        found: dict[str, Entry] = {}
        for entry in self._find():
            if entry.name in found and found[entry.name].file != entry.file:
                raise UserError(f"two files claim the name {entry.name!r}: {found[entry.name].file} and {entry.file}")
            found[entry.name] = entry
        return dict(sorted(found.items(), key=lambda item: item[0].lower()))

    def of_kind(self, kind: str) -> dict[str, Entry]:
        """The entries of one kind."""
        return {name: entry for name, entry in self.entries.items() if entry.kind == kind}

    def get(self, kind: str, name: str) -> Entry:
        """The entry of that kind and name; raises `UserError` with the nearest match."""
        entry = self.entries.get(name)
        if entry is None or entry.kind != kind:
            raise UserError(unknown("data set" if kind == "dataset" else kind, name, self.of_kind(kind)))
        return entry

    @cached_property
    def baseline(self) -> str:
        """The algorithm that a bare average, merger or adapter is of; raises `UserError` if several claim to be it."""
        found = [entry for entry in self.of_kind("algorithm").values() if entry.card.baseline]
        if len(found) > 1:
            claims = " and ".join(f"{entry.name} in {entry.file}" for entry in found)
            raise UserError(f"one algorithm is the baseline, but these cards claim it: {claims}")
        return found[0].name

    def _find(self) -> Iterator[Entry]:
        for folder, *_ in KINDS.values():
            for file in sorted((_PACKAGE / folder).glob("[!_]*.py")):
                yield from _entries(f"dgbench.{folder}.{file.stem}", file)
        for point in _entry_points():
            try:
                spec = importlib.util.find_spec(point.module)
            except ModuleNotFoundError:  # of a package that it would lie in
                spec = None
            if spec is None or spec.origin is None:
                raise UserError(f"entry point {point.name} of group {point.group}: there is no module {point.module}")
            yield from _entries(point.module, Path(spec.origin))
        for path in self.include:
            included, name = split_include(path)
            if name:
                from dgbench.foreign_space import foreign_entry  # which extends this module's Entry

                yield foreign_entry(Path(included), name)
            else:
                yield from _entries("", Path(included))


def source_of(file: Path) -> str:
    """As `Entry.source`, of its file as it is now."""
    if file.is_relative_to(_PACKAGE):
        return ""
    return f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"


def split_include(include: str) -> tuple[str, str]:
    """File and class of `file.py:Name`; the class is empty where a file is included whole."""
    stem, colon, name = include.rpartition(".py:")
    return (f"{stem}.py", name) if colon else (include, "")


def _entry_points() -> Iterable[EntryPoint]:
    return [point for group in GROUPS for point in entry_points(group=group)]


def _entries(module: str, file: Path) -> list[Entry]:
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


def import_source(module: str, file: Path) -> Any:
    """The module of that dotted name, or, if that is empty, what the file defines; each is imported once."""
    if module:
        return importlib.import_module(module)
    name = "dgbench_include_" + hashlib.sha256(str(file).encode()).hexdigest()[:12]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"--include {file}: not a Python file")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    try:
        spec.loader.exec_module(loaded)
    except BaseException:
        del sys.modules[name]
        raise
    return loaded


def _index_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dgbench" / "cards"


@cache
def _base_digest() -> bytes:
    """Changes when files that cards and spaces are made of change: an entry may extend another of the package."""
    names = ("catalogue", "cards", "space", *(base.partition(".")[2] for _, base, *_ in KINDS.values()))
    entries = (file for folder, *_ in KINDS.values() for file in sorted((_PACKAGE / folder).glob("*.py")))
    files = (*(_PACKAGE / f"{name}.py" for name in names), *entries)
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
    card = card_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in data["card"].items()})
    return Entry(**{**data, "space": space, "card": card})
