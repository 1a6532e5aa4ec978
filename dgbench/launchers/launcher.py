"""Define launchers, the ways to execute the runs of a sweep, and choose one by name and options.

A launcher is a frozen dataclass in a file of its own; its fields are its options. The shipped ones are in `SHIPPED`.
Others are found by an entry point in the group `dgbench.launchers`, or as a file that `--launcher FILE.py` names.
"""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

from dgbench.catalogue.entry import import_source
from dgbench.core.errors import Problems, UserError
from dgbench.core.plain import from_plain
from dgbench.core.wording import shorten, unknown_name
from dgbench.launchers.base import GRACE
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.options import OPTIONS
from dgbench.store.files import read_object, write_json
from dgbench.store.sealed import CorruptFile

SHIPPED = {
    "here": "dgbench.launchers.here",
    "local": "dgbench.launchers.machine",
    "ray": "dgbench.launchers.ray",
    "slurm": "dgbench.launchers.slurm",
}
"""Name -> module of the launchers that the package brings."""
DEFAULT = "local"
"""Name of the launcher of a launch that asks for none."""
FILE = "launcher.json"
"""Name of the file in a sweep's folder that holds the launcher of its last jobs, for `status` and `cancel`."""
GROUP = "dgbench.launchers"
"""Group of the entry points by which installed packages add launchers: a name, and the module that defines it."""


@dataclass(frozen=True, kw_only=True)
class Launcher(ABC):
    """A way to execute the runs of a sweep. The fields of a subclass are its options, each with a default.

    Options are given as `--launcher NAME FIELD=VALUE ...`, or in the table `[launcher]` of a sweep file. Fields are of
    type str, int, float or bool, of one of these or None, or `tuple[str, ...]` for lines that may be given repeatedly.
    The docstring below a field is its help in `dgbench list launchers`.
    """

    name: ClassVar[str]
    """The word after `--launcher`."""
    detaches: ClassVar[bool] = False
    """Whether the command may end before the runs do, as `--detach` asks."""
    least: ClassVar[Mapping[str, float]] = {}
    """Field of a subclass -> its least value; a subclass of that one repeats its items."""
    jobs: int | None = None
    """Runs at once in one place (a machine, or a job of a queue); None: one a core, or one a GPU slot."""
    jobs_per_gpu: int | str = 1
    """Runs at once on each GPU; auto: as many as its memory and the cores hold."""
    grace: float = GRACE
    """Seconds that runs have to save their state when they are stopped."""
    ttl: float | None = None
    """Seconds without a sign of life after which a process on another machine counts as gone; None: as in earlier
    launches of the sweep, or by the type of its file system."""

    def __post_init__(self) -> None:
        """Raise UserError if numbers are out of range."""
        problems = Problems()
        for field in ("jobs", "jobs_per_gpu", "grace", "ttl"):
            value = getattr(self, field)
            if value is not None and (wrong := OPTIONS[field].problem(value)):
                problems.add(wrong)
        for field, least in self.least.items():
            if not getattr(self, field) >= least:
                problems.add(f"launcher {self.name}: {field} must be at least {least}, not {getattr(self, field)}")
        problems.raise_if_any()

    def check(self, sweep: Sweep) -> None:
        """Find problems before anything is written, such as commands or packages that the launcher needs and lacks.

        Raises:
            UserError: The sweep can't be executed this way; the message lists all problems.
        """
        return

    def preview(self, sweep: Sweep, *, rehearse: bool) -> Iterator[str]:
        """Yield lines that describe a launch before it is confirmed.

        Args:
            sweep: As planned; its folder may not exist.
            rehearse: Whether a few steps may be made to estimate the time.
        """
        yield from ()

    @abstractmethod
    def execute(self, sweep: Sweep, *, detach: bool = False) -> int:
        """Execute the unfinished runs of a sweep, whose folder is written.

        Args:
            sweep: The sweep.
            detach: Whether to return as soon as all is submitted; only for launchers that `detaches`.

        Returns:
            The exit code of the command; see docs/launching.md.
        """

    def queue(self, root: Path) -> Iterator[str]:
        """Yield lines on a sweep's jobs in a queue, for `status`; nothing without a queue."""
        yield from ()

    def cancel(self, root: Path) -> Iterator[str]:
        """End a sweep's jobs in a queue, for `cancel`, and yield lines on it; nothing without a queue."""
        yield from ()


def launcher_names() -> list[str]:
    """Return the names that `--launcher` takes besides files."""
    return sorted({*SHIPPED, *(point.name for point in entry_points(group=GROUP))})


def find_launcher(name: str) -> type[Launcher]:
    """Return the launcher of that name, or the one that a file defines.

    Args:
        name: A name of `launcher_names`, or the path of a Python file.

    Raises:
        UserError: There is none, or it can't be imported.
    """
    installed = {point.name: point.value for point in entry_points(group=GROUP)}
    module, file = SHIPPED.get(name) or installed.get(name, ""), Path(name).resolve()
    if not module and file.suffix != ".py":
        raise UserError(unknown_name("launcher", name, launcher_names(), "one of yours is named by its file, FILE.py"))
    if not module and not file.is_file():
        raise UserError(f"--launcher {name}: there is no such file")
    try:
        found = import_source(module, file)
    except ImportError as error:
        raise UserError(f"--launcher {name} can't be used: {error}") from None
    own = [
        value
        for value in vars(found).values()
        if isinstance(value, type) and issubclass(value, Launcher) and value.__module__ == found.__name__
    ]
    if len(own) != 1:
        raise UserError(f"--launcher {name}: {module or file} defines {len(own)} launchers, not one")
    return own[0]


def choose_launcher(words: Sequence[str], table: Mapping[str, Any], flags: Mapping[str, Any]) -> Launcher:
    """Make the launcher that a command line and a sweep file ask for.

    Args:
        words: Those after `--launcher`: a name, then `OPTION=VALUE`; without a name, options of the table's launcher.
        table: The table `[launcher]` of a sweep file: `name`, and options. It is ignored if `words` name another.
        flags: Values of the flags that stand for options of all launchers, such as `--jobs`; they win.

    Raises:
        UserError: The launcher, options or values are invalid; all problems are listed.
    """
    named = [word for word in words[:1] if "=" not in word]
    name = str(named[0] if named else table.get("name", DEFAULT))
    kind = find_launcher(name)
    below = {key: value for key, value in table.items() if key != "name"}
    if name != table.get("name", DEFAULT):
        below = {}
    problems = Problems()
    options = {**below, **_read_words(kind, words[len(named) :], problems), **flags}
    known = [field.name for field in dataclasses.fields(kind)]
    for key, value in options.items():
        if key not in known:
            problems.add(unknown_name(f"option of the launcher {kind.name}", key, known))
            continue
        options[key] = _as_lines(kind, key, value)
        with problems.collecting():
            _make(kind, {key: options[key]})  # each by itself, so that all problems are found
    problems.raise_if_any()
    return _make(kind, options)


def _make(kind: type[Launcher], options: Mapping[str, Any]) -> Launcher:
    """Make a launcher of options by name; raise `UserError` if a value has a wrong type or is out of range."""
    try:
        return from_plain(kind, options)
    except TypeError as error:
        raise UserError(f"launcher {kind.name}: {error}") from None


def remember_launcher(root: Path, launcher: Launcher) -> None:
    """Write the launcher of a sweep's jobs to its folder `root`: name, and options that differ from their defaults."""
    name, options = _spelled(launcher)
    write_json(root / FILE, {"name": name, **options})


def words_of(launcher: Launcher) -> list[str]:
    """Return the words after `--launcher` that make an equal launcher."""
    name, options = _spelled(launcher)
    lines = ((key, value) for key, values in options.items() for value in _several(values))
    return [name, *(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in lines)]


def _several(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _spelled(launcher: Launcher) -> tuple[str, dict[str, Any]]:
    """Return the name of a launcher, or the file that defines it, and its options that differ from their defaults."""
    kind, defaults = type(launcher), type(launcher)()
    found = {field.name: getattr(launcher, field.name) for field in dataclasses.fields(launcher)}
    options = {key: value for key, value in found.items() if value != getattr(defaults, key)}
    name = kind.name if kind.name in launcher_names() else str(Path(inspect.getfile(kind)).resolve())
    return name, options


def last_launcher(root: Path, words: Sequence[str] = ()) -> Launcher | None:
    """Return the launcher of a sweep's last jobs, to ask its queue about them; None if there were none.

    Args:
        root: The sweep's folder.
        words: Those after `--launcher`, which name a launcher that is a file: the folder may be shared, and its word is
            not taken for what to execute.

    Raises:
        UserError: The launcher is a file, and `words` don't name it; or the note on it is damaged.
    """
    try:
        table = read_object(root / FILE)
    except FileNotFoundError:
        return choose_launcher(words, {}, {}) if words else None
    except CorruptFile as error:
        raise UserError(f"{error}: remove it, and cancel jobs by the scheduler's own command") from None
    if not words and table.get("name") not in launcher_names():
        raise UserError(f"the launcher of {root} is a file: add --launcher {shlex.quote(str(table.get('name')))}")
    if words and table.get("name") == str(Path(words[0]).resolve()):
        table["name"] = words[0]
    return choose_launcher(words, table, {})


def _read_words(kind: type[Launcher], words: Sequence[str], problems: Problems) -> dict[str, Any]:
    """Convert words `OPTION=VALUE` to the types of the options; add the words that don't fit to `problems`."""
    hints, found = get_type_hints(kind), dict[str, Any]()
    for word in words:
        key, equals, text = word.partition("=")
        types = get_args(hints.get(key)) or (hints.get(key),)
        if not equals:
            problems.add(f"--launcher {kind.name}: write OPTION=VALUE, not {shorten(word, 100)}")
        elif Ellipsis in types:
            found[key] = (*found.get(key, ()), text)
        elif key in found:
            problems.add(f"--launcher {kind.name}: {key} is given twice")
        elif bool in types:
            found[key] = {"true": True, "false": False}.get(text.lower(), text)
        else:
            found[key] = _number(text, types)
    return found


def _number(text: str, types: Sequence[Any]) -> Any:
    """Convert a text to the first number type among `types` that takes it; return it as it is if none does."""
    for kind in (int, float):
        if kind in types:
            try:
                return kind(text)
            except ValueError:
                pass
    return text


def _as_lines(kind: type[Launcher], key: str, value: Any) -> Any:
    """Let a sweep file give one line where several are allowed."""
    return (value,) if isinstance(value, str) and Ellipsis in get_args(get_type_hints(kind)[key]) else value
