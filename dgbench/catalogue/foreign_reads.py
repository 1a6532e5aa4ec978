"""Find the hyperparameters that a class written for DomainBed is sure to read, in its source, before anything is made.

Reads are `hparams["name"]` and `self.hparams["name"]` in `__init__`, `update` and `predict`, and in functions called
from there: own methods, methods of base classes, and functions that are given `hparams`. What stands under a condition
may never be read and is left out. So a name that is found is missed for certain where it has no value, and a launch can
refuse it before any run starts.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any

_ENTRANCES = ("__init__", "update", "predict")
"""Methods that every run calls."""
_CONDITIONAL = (ast.While, ast.Try, ast.Lambda, ast.FunctionDef, ast.ClassDef)
"""Statements whose body may not be executed."""


def surely_read(cls: type) -> tuple[str, ...]:
    """Return the names of the hyperparameters that any run of the class reads, in the order of the source.

    Names that the class sets itself are left out.
    """
    search = _Search()
    for name in _ENTRANCES:
        search.enter_method(cls, name)
    return tuple(name for name in search.read if name not in search.written)


class _Search:
    """A walk through the functions that a class calls, each once, and the names it has found."""

    def __init__(self) -> None:
        self.read: dict[str, None] = {}
        self.written: set[str] = set()
        self.seen: set[tuple[type | None, FunctionType]] = set()

    def enter_method(self, cls: type, name: str, after: type | None = None) -> None:
        """Search a method of a class.

        Args:
            cls: The class, whose order of base classes decides.
            name: Name of the method.
            after: The base class inside which `super()` is called, so that the search begins behind it; None: at `cls`.
        """
        owners = cls.__mro__[cls.__mro__.index(after) + 1 :] if after else cls.__mro__
        owner = next((owner for owner in owners if name in vars(owner)), None)
        function = inspect.unwrap(vars(owner)[name]) if owner else None
        if isinstance(function, FunctionType):
            self._enter(function, cls, owner)

    def _enter(self, function: FunctionType, cls: type | None, owner: type | None) -> None:
        """Search a function, unless that was done or it belongs to torch."""
        if (cls, function) in self.seen or (function.__module__ or "").partition(".")[0] == "torch":
            return
        self.seen.add((cls, function))
        try:
            (made,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        except (OSError, TypeError, SyntaxError, ValueError):  # made without a file, or in an odd way
            return
        for node in _unconditional(getattr(made, "body", ())):
            if isinstance(node, ast.Subscript) and _is_hparams(node.value) and isinstance(node.slice, ast.Constant):
                name = str(node.slice.value)
                self.read.update({name: None} if isinstance(node.ctx, ast.Load) else {})
                self.written.update([] if isinstance(node.ctx, ast.Load) else [name])
            elif isinstance(node, ast.Call):
                self._follow(node, function, cls, owner)

    def _follow(self, call: ast.Call, function: FunctionType, cls: type | None, owner: type | None) -> None:
        """Search a called function that is a method of the object or gets the hyperparameters as an argument."""
        called = call.func
        if isinstance(called, ast.Attribute) and cls:
            if isinstance(called.value, ast.Name) and called.value.id == "self":
                return self.enter_method(cls, called.attr)
            if isinstance(called.value, ast.Call) and getattr(called.value.func, "id", "") == "super":
                return self.enter_method(cls, called.attr, after=owner)
        handed = any(_is_hparams(value) for value in (*call.args, *(keyword.value for keyword in call.keywords)))
        target = _named(called, function.__globals__) if handed else None
        if isinstance(target, type):
            self.enter_method(target, "__init__")
        elif isinstance(target, FunctionType):
            self._enter(target, None, None)
        return None


def _is_hparams(node: ast.AST) -> bool:
    """Return whether an expression is `hparams` or an attribute of that name."""
    return (isinstance(node, ast.Name) and node.id == "hparams") or (
        isinstance(node, ast.Attribute) and node.attr == "hparams"
    )


def _named(node: ast.AST, names: dict[str, Any]) -> Any:
    """Return the value of `name` or `module.name`; None for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return getattr(names.get(node.value.id), node.attr, None)
    return None


def _unconditional(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Yield the nodes that are evaluated whenever the function is called and ends well."""
    for node in body:
        if isinstance(node, _CONDITIONAL):
            continue
        if isinstance(node, ast.If | ast.IfExp):
            yield from _unconditional([node.test])
            if any(isinstance(inner, ast.Return) for inner in ast.walk(node)):
                return
        elif isinstance(node, ast.BoolOp):
            yield from _unconditional(node.values[:1])
        else:
            yield node
            yield from _unconditional(list(ast.iter_child_nodes(node)))
            if any(isinstance(inner, ast.Return) for inner in ast.walk(node)):
                return
