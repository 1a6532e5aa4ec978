"""The law of the house: a package imports only from packages below its line, and nothing imports in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import ROOT

PACKAGE = ROOT / "dgbench"
LAYERS = (
    ("public",),
    ("commands", "api"),
    ("launchers", "report"),
    ("plan", "execute", "conformance"),
    ("catalogue", "algorithms", "rules", "averaging", "merging", "adaptation", "analyses"),
    ("methods", "datasets", "models"),
    ("data",),
    ("networks", "store"),
    ("core",),
)
"""From the top down. Packages of one line do not import each other."""
LEVEL = {room: -number for number, line in enumerate(LAYERS) for room in line}
CATALOGUES = ("algorithms", "rules", "averaging", "merging", "adaptation", "analyses", "datasets")
MOST_FLAT_FILES = 19  # a file for each command, what they share, and `testing`
MOST_FLOORS = 8


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "templates"}
"""All but what `dgbench new` prints: that is a user's file, above everything."""


def room_of(module: str) -> str:
    """The package that a module lies in; `commands`, of files directly in `dgbench`; `public`, of its list of names."""
    if module == "dgbench":
        return "public"
    parts = module.split(".")
    if parts[-1] == "__main__":  # the command of a package
        return "commands"
    return parts[1] if len(parts) > 2 or (PACKAGE / parts[-1]).is_dir() else "commands"


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of everything of dgbench that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield node.lineno, module if module in FILES else node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


IMPORTS = {
    module: [(line, to) for line, to in imports_of(path) if to in FILES and to != module]
    for module, path in FILES.items()
}


def forbidden(module: str, target: str) -> bool:
    """Whether a module may not import another."""
    here, there = room_of(module), room_of(target)
    return here != there and LEVEL[there] >= LEVEL[here]


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """Node -> 1 more than the highest of those that it points to; raises ValueError with a circle."""
    found: dict[str, int] = {}

    def visit(node: str, way: tuple[str, ...]) -> int:
        if node in way:
            raise ValueError(" -> ".join((*way[way.index(node) :], node)))
        if node not in found:
            found[node] = 1 + max((visit(other, (*way, node)) for other in sorted(graph[node])), default=0)
        return found[node]

    for node in graph:
        visit(node, ())
    return found


@pytest.mark.parametrize("module", FILES)
def test_a_package_imports_only_what_lies_below_it(module: str) -> None:
    assert room_of(module) in LEVEL, "give the package its place in LAYERS"
    wrong = [f"{FILES[module]}:{line}: {target}" for line, target in IMPORTS[module] if forbidden(module, target)]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    floors({module: {target for _, target in found} for module, found in IMPORTS.items()})


def test_the_packages_stand_on_few_floors() -> None:
    rooms: dict[str, set[str]] = {room: set() for room in LEVEL}
    for module, found in IMPORTS.items():
        rooms[room_of(module)] |= {room_of(target) for _, target in found} - {room_of(module)}
    assert max(floor for room, floor in floors(rooms).items() if room != "public") <= MOST_FLOORS
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_FLAT_FILES


@pytest.mark.parametrize("room", [room for room in LEVEL if room not in (*CATALOGUES, "commands", "public")])
def test_each_package_says_what_it_is_and_imports_nothing(room: str) -> None:
    face = ast.parse((PACKAGE / room / "__init__.py").read_text())
    said = ast.get_docstring(face) or ""
    assert len(face.body) == 1, "a docstring and no import"
    assert "Read first: `" in said
    assert len(said.splitlines()) <= 15


def unexplained(path: Path) -> Iterator[int]:
    """Lines of imports inside functions that neither the file's docstring nor a comment explains.

    Such a comment stands on the line, above it, or at an import that it follows.
    """
    text = path.read_text()
    if "only inside functions" in " ".join((ast.get_docstring(ast.parse(text)) or "").split()):
        return
    lines = text.splitlines()
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef):
            continue
        explained = 0
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                first, last = node.lineno - 1, node.end_lineno or node.lineno
                near = "\n".join(lines[max(0, first - 2) : last])
                if "#" in near or explained >= first - 3 > 0:
                    explained = last
                else:
                    yield node.lineno


@pytest.mark.parametrize("module", [module for module in FILES if room_of(module) not in CATALOGUES])
def test_an_import_inside_a_function_says_why_it_is_there(module: str) -> None:
    assert [f"{FILES[module]}:{line}" for line in unexplained(FILES[module])] == []


def test_the_law_notices() -> None:
    assert forbidden("dgbench.core.run", "dgbench.store.folder")
    assert forbidden("dgbench.plan.planner", "dgbench.execute.job"), "side by side"
    assert forbidden("dgbench.report.signature", "dgbench"), "the public list is for others"
    assert not forbidden("dgbench.sweep", "dgbench.core.run")
    with pytest.raises(ValueError, match="a -> b -> a"):
        floors({"a": {"b"}, "b": {"a"}})
    assert floors({"a": {"b"}, "b": set(), "c": {"a", "b"}}) == {"a": 2, "b": 1, "c": 3}
