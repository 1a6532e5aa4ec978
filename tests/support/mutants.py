"""Change a module in one small place at a time, and see whether its tests notice.

    make mutants MODULE=dgbench/core/space.py [TESTS="tests/core/test_space.py tests/plan"] [MOST=40]
    python tests/support/mutants.py FILE [--tests tests/core/test_space.py] [--every 3] [--most 40] [--lines 38 40]

Works on a copy of the working tree in a temporary folder, so that the tree itself is never broken. The tests run one
mutant after another, on one core, each in a fork of a process that has imported torch. A mutant that the tests don't
notice is printed at once with its line: write the test that would, or see that the change makes no difference.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 300
"""Seconds after which a run of the tests hangs."""
_COMPARISONS: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In},
}
_OPERATIONS: dict[type, type] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr},
}


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, what was changed, the changed source) for each place of a module that can be changed.

    Messages, docstrings, annotations and imports stay as they are.
    """
    tree = ast.parse(source)
    for number, node in enumerate(_changeable(tree)):
        for change in _changes(node):
            changed = copy.deepcopy(tree)
            target = list(_changeable(changed))[number]
            before = _first_line(target)
            change(target)
            yield node.lineno, f"{before} -> {_first_line(target)}", ast.unparse(changed)


def _first_line(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0]


def _changeable(tree: ast.Module) -> Iterator[ast.expr | ast.stmt]:
    """Yield the nodes that may be changed, in an order that a copy of the tree has too."""
    left_out = set[int]()
    for node in ast.walk(tree):
        skipped: list[ast.AST | None] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            skipped = [node.returns, *(arg.annotation for arg in ast.walk(node.args) if isinstance(arg, ast.arg))]
        elif isinstance(node, ast.AnnAssign):
            skipped = [node.annotation]
        elif isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert):
            skipped = [node]
        for top in skipped:
            left_out.update(id(inner) for inner in ast.walk(top)) if top is not None else None
    for node in ast.walk(tree):
        if isinstance(node, ast.expr | ast.stmt) and id(node) not in left_out:
            yield node


def _changes(node: Any) -> list[Callable[[Any], None]]:
    """List what can be done to a node."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        return [lambda node: node.ops.__setitem__(0, _COMPARISONS[type(node.ops[0])]())]
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _OPERATIONS:
        return [lambda node: setattr(node, "op", _OPERATIONS[type(node.op)]())]
    if isinstance(node, ast.BoolOp):
        return [lambda node: setattr(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return [lambda node: setattr(node, "op", ast.UAdd())]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return [lambda node: setattr(node, "operand", ast.UnaryOp(ast.Not(), node.operand))]
    if isinstance(node, ast.IfExp | ast.If | ast.While):
        return [lambda node: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return [lambda node: setattr(node, "value", not node.value)]
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return [lambda node: setattr(node, "value", node.value + 1)]
    if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        return [lambda node: setattr(node, "value", ast.Constant(None))]
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return [lambda node: setattr(node, "value", ast.Constant(...))]
    if isinstance(node, ast.Break | ast.Continue):
        return [lambda node: setattr(node, "__class__", ast.Continue if isinstance(node, ast.Break) else ast.Break)]
    return []


def mirrored_tests(module: Path) -> list[str]:
    """Find the tests in the mirrored place: `tests/core/test_space.py`, or all of the folder where there are none."""
    inside = module.relative_to("dgbench")
    mirrored = Path("tests", *inside.parts[:-1], f"test_{inside.stem.lstrip('_')}.py")
    return [str(mirrored if (ROOT / mirrored).is_file() else mirrored.parent)]


def main() -> int:
    """Make the mutants, run the tests on each, print those that survive; return 1 if any does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path, help="a file below dgbench/")
    parser.add_argument(
        "--tests", nargs="+", help="files or folders; default: the test file in the mirrored place, or its folder"
    )
    parser.add_argument("--every", type=int, default=1, help="take each Nth mutant alone")
    parser.add_argument("--most", type=int, default=10**9, help="stop after so many mutants")
    parser.add_argument(
        "--lines", nargs="+", type=int, help="take the mutants of these lines alone: those that survived"
    )
    args = parser.parse_args()
    module = args.module.resolve().relative_to(ROOT) if args.module.is_absolute() else args.module
    tests = args.tests or mirrored_tests(module)
    _get_ready()
    chosen = list(mutants((ROOT / module).read_text()))[:: args.every][: args.most]
    chosen = [mutant for mutant in chosen if args.lines is None or mutant[0] in args.lines]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "*_cache*"))
        if not _pass(tree, tests):
            print(f"{' '.join(tests)} fail without any change")
            return 1
        survivors = 0
        for number, (line, change, source) in enumerate(chosen, 1):
            (tree / module).write_text(source)
            if _pass(tree, tests):
                survivors += 1
                print(f"survives: {module}:{line}: {change}", flush=True)
            elif sys.stdout.isatty():
                print(f"{number} of {len(chosen)}", end="\r", flush=True)
    caught = len(chosen) - survivors
    print(f"{caught} of {len(chosen)} mutants of {module} caught by {' '.join(tests)}")
    return int(survivors > 0)


def _get_ready() -> None:
    """Import once, before forking, what nearly all tests import."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a fork has none of its parent's threads
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    for name in ("torch", "torchvision", "hypothesis", "xdist"):
        importlib.import_module(name)


def _pass(tree: Path, tests: list[str]) -> bool:
    """Run the tests on a tree; a run that hangs has noticed."""
    child = os.fork()
    if not child:
        _run_tests(tree, tests)
    patience = time.monotonic() + PATIENCE
    while time.monotonic() < patience:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_tests(tree: Path, tests: list[str]) -> NoReturn:
    """Run the tests in this process, a fork, silently, and end it."""
    code = 1
    try:
        os.setsid()
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        os.chdir(tree)
        sys.path[0] = os.environ["PYTHONPATH"] = str(tree)
        # Plain assertions: to rewrite them, as pytest does for its messages, would take longest of all.
        code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--assert=plain", *tests])
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
