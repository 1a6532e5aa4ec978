"""Write classes that a notebook or script defines to files, which every process of a sweep can include.

Runs are executed by other processes, maybe on other machines, and a class lives in this one alone. So its source goes
to a file of its own, with an import for each name that it reads, and that file is included as any other: workers, a
resumed run and a later launch import the same class, and the hash of its source stands in the records.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import linecache
import symtable
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from dgbench.api.own_data import OwnData
from dgbench.api.own_network import weights_of
from dgbench.core.errors import Problems, UserError
from dgbench.core.imports import digest_of
from dgbench.core.wording import format_value, shorten, with_article
from dgbench.store.files import absent_folders, write_atomic

FOLDER = ".included"
"""Name of the folder of these files; hidden, so that it is not taken for a sweep or for part of one."""


class IncludedClasses:
    """The classes among the arguments of one call, and the files that stand for them."""

    def __init__(self, folder: Path, *, apart: bool) -> None:
        """Begin without classes.

        Args:
            folder: Folder that `FOLDER` will lie in.
            apart: Whether each version of a class has a file of its own; otherwise a later one replaces it, as an
                edited file does.
        """
        self._folder, self._apart = folder / FOLDER, apart
        self._files: dict[str, bytes | None] = {}
        """What is included -> the content to write there; None for a file that exists."""
        self._weights: dict[str, bytes] = {}
        """File of weights -> its content."""

    def named(self, value: Any) -> Any:
        """Return the name of a class, and include it, or of own data; return any other value as it is.

        Raises:
            UserError: The class can't be written to a file; with the reason.
        """
        if isinstance(value, OwnData):
            return value.name
        if isinstance(value, type):
            self._include(value, alone=_is_domainbeds(value), apart=self._apart)
            return value.__name__
        return value

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return keyword arguments with the names of classes in place of classes, and with `include` completed."""
        found = {name: value for name, value in given.items() if name != "include"}
        if not isinstance(backbone := found.get("backbone"), str | None):
            found |= self._network(backbone, found)
        for name, value in found.items():
            found[name] = [*map(self.named, value)] if isinstance(value, list | tuple) else self.named(value)
        files = given.get("include") or ()
        files = [file for file in (files if isinstance(files, list | tuple) else [files]) if not self._takes(file)]
        if files or self._files:
            found["include"] = [*files, *self._files]
        return found

    def _takes(self, value: Any) -> bool:
        return isinstance(value, type) and bool(self.named(value))

    def _network(self, value: Any, given: Mapping[str, Any]) -> dict[str, str]:
        """Return the arguments for a network that is a class or module, and include its class.

        Raises:
            UserError: It is neither, or can't be written to files.
        """
        torch = sys.modules.get("torch")  # whoever has a module has imported it
        cls = value if isinstance(value, type) else type(value)
        if torch is None or not issubclass(cls, torch.nn.Module):
            raise UserError(
                f"backbone is a name, a class that extends torch.nn.Module, or such a module, not {format_value(value)}"
            )
        found = {"backbone": f"{cls.__name__}@{digest_of(self._include(cls, alone=False, apart=True))}"}
        if value is not cls:
            if given.get("backbone_weights"):
                raise UserError("backbone has weights of its own, and backbone_weights gives others: give the class")
            content = weights_of(value)
            file = self._folder / f"{cls.__name__}-{digest_of(content)}.safetensors"
            self._weights[str(file)] = content
            found["backbone_weights"] = str(file)
        return found

    def _include(self, cls: type, *, alone: bool, apart: bool) -> bytes:
        """Include the file of a class, and return its content.

        Args:
            cls: The class.
            alone: Whether the class alone is included, where it has a file.
            apart: Whether each version of a class without one has a file of its own.
        """
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if cls.__module__ != "__main__" and file:
            self._files[f"{file}:{cls.__name__}" if alone else file] = None
            return Path(file).read_bytes()
        content = source_of(cls).encode()
        version = (hashlib.sha256(content).hexdigest()[:8],) if apart else ()
        self._files[str(self._folder.joinpath(*version, f"{cls.__name__}.py"))] = content
        return content

    @contextmanager
    def written(self) -> Iterator[None]:
        """Write the files; take back new ones if the body refuses its input, so that nothing is left of it."""
        known = {**self._files, **self._weights}
        contents = {Path(name): content for name, content in known.items() if content is not None}
        new = {path: absent_folders(path.parent) for path in contents if not path.exists()}
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
        try:
            yield
        except UserError:
            for path, folders in new.items():
                path.unlink()
                for folder in folders:
                    with suppress(OSError):  # holds something else
                        folder.rmdir()
            raise


def _is_domainbeds(cls: type) -> bool:
    """Return whether a class has the methods of an algorithm for DomainBed, and is not made for dgbench."""
    ours = any(base.__module__.partition(".")[0] == "dgbench" for base in cls.__mro__[1:])
    return not ours and all(callable(getattr(cls, name, None)) for name in ("update", "predict"))


def source_of(cls: type) -> str:
    """Return the text of a module that defines a class as the notebook or script does.

    Args:
        cls: A class of a notebook's cell or of a script. The modules, classes and functions that it reads are imported;
            those of the notebook are copied with it, as are numbers, texts and containers of them.

    Raises:
        UserError: Its source isn't known, or it reads a value that can't be written down; with all such names.
    """
    return _Copy(cls.__module__).of(cls)


class _Copy:
    """The text of a module, definition by definition, each after those that it reads."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._namespace = vars(sys.modules[module])
        self._imports: dict[str, str] = {}
        self._definitions: dict[str, str] = {}
        self._begun: set[str] = set()
        self._problems = Problems()

    def of(self, cls: type) -> str:
        self._define(cls.__name__, cls)
        self._problems.raise_if_any()
        parts = [f'"""{cls.__name__}, as a notebook or script defined it."""']
        if "annotations" in self._namespace:  # `from __future__ import annotations`
            parts.append("from __future__ import annotations")
        parts += ["\n".join(sorted(self._imports.values())), *self._definitions.values()]
        return "\n\n".join(filter(None, parts)) + "\n"

    def _define(self, name: str, value: type | FunctionType) -> None:
        """Add the source of a class or function after those of the names that it reads."""
        self._begun.add(name)
        source = self._definition(value)
        if source is None:
            self._problems.add(f"the source of {name} is not known: write it to a file, and give that as include")
            return
        for read in _names_read(source):
            if read not in self._begun and read in self._namespace:
                self._add(read, self._namespace[read], name)
            elif read not in self._namespace and not hasattr(builtins, read):
                self._problems.add(f"{name} reads {read}, which is not defined")
        self._definitions[name] = source

    def _add(self, name: str, value: Any, reader: str) -> None:
        """Add the line or source that gives a name its value."""
        self._begun.add(name)
        if name == "annotations":
            return
        if isinstance(value, ModuleType):
            self._imports[name] = _line_of_module(name, value)
        elif isinstance(value, type | FunctionType) and value.__module__ == self._module:
            if value.__name__ == name or value.__name__ not in self._begun:
                self._define(value.__name__, value)
            if value.__name__ != name:
                self._definitions[name] = f"{name} = {value.__name__}"
        elif _is_literal(value):
            self._definitions[name] = f"{name} = {value!r}"
        elif line := _import_of(name, value, self._module):
            self._imports[name] = line
        else:
            kind = with_article(type(value).__name__)
            self._problems.add(
                f"{reader} reads {name}, {kind} of this notebook or script ({shorten(repr(value), 60)}), which other "
                "processes lack: make it within the class, or write both to a file, and give that as include"
            )

    def _definition(self, value: type | FunctionType) -> str | None:
        """Return the source of a class or function with its decorators; None if it isn't known."""
        functions = [value] if isinstance(value, FunctionType) else list(vars(value).values())
        codes = [function.__code__ for function in functions if self._is_own(function)]
        # Functions that a decorator made have no file.
        places = [(code.co_filename, code.co_firstlineno) for code in codes if linecache.getlines(code.co_filename)]
        # Without a function of its own nothing tells where a class was defined: the last of its name counts that is not
        # of another module.
        others = {getattr(module, "__file__", None) for name, module in [*sys.modules.items()] if name != self._module}
        for file, line in places or [(file, None) for file in reversed(list(linecache.cache)) if file not in others]:
            lines = linecache.getlines(file)  # which has the cells of notebooks too
            with suppress(SyntaxError):
                for node in reversed(ast.parse("".join(lines)).body):
                    if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == value.__name__:
                        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                        last = node.end_lineno or first
                        if line is None or first <= line <= last:
                            return "".join(lines[first - 1 : last]).rstrip()
        return None

    def _is_own(self, value: Any) -> bool:
        return isinstance(value, FunctionType) and value.__globals__ is self._namespace


def _names_read(source: str) -> list[str]:
    """Return the global names that a definition reads, its annotations included."""
    found = dict[str, None]()
    waiting = [symtable.symtable(source, "<source>", "exec")]
    while waiting:
        table = waiting.pop()
        whole = table.get_type() == "module"
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or (whole and not symbol.is_assigned())):
                found[symbol.get_name()] = None
        waiting += reversed(table.get_children())
    return [name for name in found if not name.startswith("__")]


def _line_of_module(name: str, module: ModuleType) -> str:
    return f"import {name}" if module.__name__ == name else f"import {module.__name__} as {name}"


def _import_of(name: str, value: Any, but: str) -> str:
    """Return the line that imports a value from a module other than `but`; empty if none is known to have it."""
    own, home = getattr(value, "__name__", name), getattr(value, "__module__", None)
    # The shortest name is the one that people import from; some functions of torch don't know their module.
    for module in [home, *sorted(sys.modules, key=lambda module: (module.count("."), module))]:
        if module in sys.modules and module != but and not module.startswith("_"):
            names = vars(sys.modules[module])
            there = own if names.get(own, vars) is value else _name_of(value, names)
            if there:
                return f"from {module} import {there}" + (f" as {name}" if there != name else "")
    return ""


def _name_of(value: Any, names: Mapping[str, Any]) -> str:
    """Return the public name of a value among a module's; empty if it has none there."""
    return next((name for name, found in list(names.items()) if found is value and not name.startswith("_")), "")


def _is_literal(value: Any) -> bool:
    """Return whether the text of a value gives an equal one."""
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError):
        return False
