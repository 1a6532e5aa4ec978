"""What is imported when, and what the engine must not know."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.setting import setting
from dgbench.plan.planfile import tabulate, write_plan
from tests.conftest import MakePlan
from tests.support.places import ROOT

PACKAGE = ROOT / "dgbench"
CATALOGUES = ("algorithms", "rules", "averaging", "merging", "adaptation", "analyses", "datasets")
HEAVY = ("torch", "torchvision", "timm", "sklearn", "pandas", "scipy", "dgbench.networks.network")
WATCHED = """
import json, sys
from dgbench.__main__ import main
code = None
try:
    code = main()
except SystemExit as error:
    code = error.code
print(json.dumps([code, sorted(set(sys.modules) & set({heavy!r}))]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        assert Catalogue().entries
    return folder


def command(cache: Path, *words: str) -> tuple[int, list[str], str]:
    """Exit code, the heavy modules that it imported, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(heavy=HEAVY), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        timeout=120,
    )
    code, heavy = json.loads(done.stderr.splitlines()[-1])
    return code, heavy, done.stdout


def test_importing_the_package_does_nothing() -> None:
    code = (
        "import logging, random, sys; before = random.getstate(); known = set(sys.modules); import dgbench; "
        "folders = ('algorithms', 'rules', 'averaging', 'merging', 'adaptation', 'analyses', 'datasets'); "
        "doors = {f'dgbench.{name}' for name in folders}; "
        "standard = {name for name in set(sys.modules) - known if name.partition('.')[0] in sys.stdlib_module_names}; "
        "new = set(sys.modules) - known - standard; assert new == {'dgbench', *doors}, new; "
        "assert random.getstate() == before; assert not logging.getLogger().handlers"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["sweep", "--help"],
        ["sweep", "launch", "--help"],
        ["sweep", "status", "--help"],
        ["collect", "--help"],
        ["train", "--help"],
        ["logs", "--help"],
        ["export", "--help"],
        ["list", "--help"],
        ["list", "algorithms"],
        ["list", "datasets"],
        ["list", "rules", "SAM"],
        ["list", "sweeps"],
        ["list", "backbones"],
        ["list", "selectors"],
        ["list", "presets"],
        ["list", "settings"],
        ["new", "algorithm", "Mine"],
    ],
    ids=" ".join,
)
def test_commands_that_train_nothing_import_no_torch(words: list[str], warm_cache: Path) -> None:
    code, heavy, said = command(warm_cache, *words)
    assert (code, heavy) == (0, [])
    assert said


def test_a_dry_run_imports_no_torch_and_writes_nothing(warm_cache: Path, tmp_path: Path) -> None:
    asked = ["--algorithms", "ERM", "SAM+SWAD", "EoA", "--datasets", "RotatedDigits", "--dry-run"]
    code, heavy, said = command(warm_cache, "sweep", "launch", *asked, "--output_dir", str(tmp_path / "new"))
    assert (code, heavy) == (0, [])
    assert "2,583 runs" in said
    code, heavy, said = command(warm_cache, "sweep", "launch", *asked, "--json", "--output_dir", str(tmp_path / "new"))
    assert (code, heavy) == (0, [])
    runs = [json.loads(line) for line in said.splitlines()]
    assert len(runs) == len({run["id"] for run in runs}) == 2583
    assert not (tmp_path / "new").exists()


def test_status_imports_no_torch(warm_cache: Path, tmp_path: Path, make_plan: MakePlan) -> None:
    write_plan(tmp_path, tabulate(make_plan("ERM", "DiWA"), setting(), "leave-one-domain-out"))
    code, heavy, said = command(warm_cache, "sweep", "status", "--output_dir", str(tmp_path))
    assert (code, heavy) == (3, []), "3: runs are missing, and no process is at work"
    assert "ERM" in said


def test_wrong_input_imports_no_torch(warm_cache: Path, tmp_path: Path) -> None:
    asked = ["--algorithms", "ERMM", "--datasets", "RotatedDigits", "--jobs", "1"]
    code, heavy, _ = command(warm_cache, "sweep", "launch", *asked, "--output_dir", str(tmp_path / "new"))
    assert (code, heavy) == (2, [])
    asked = ["--algorithms", "ERM", "--datasets", "RotatedDigits", "--jobs", "0"]
    code, heavy, _ = command(warm_cache, "sweep", "launch", *asked, "--output_dir", str(tmp_path / "new"))
    assert (code, heavy) == (2, [])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["algorithms", "datasets", "sweeps"])
def test_the_links_at_the_root_are_for_eyes_only(name: str, tmp_path: Path) -> None:
    assert (ROOT / name).is_symlink()
    assert (ROOT / name).resolve() == PACKAGE / name
    assert not (PACKAGE / name / "__init__.py").exists(), "it would shadow a package of that name"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("whose = 'theirs'")
    code = f"import {name}; assert {name}.whose == 'theirs'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)})


def engine_files() -> list[Path]:
    return [file for file in sorted(PACKAGE.rglob("*.py")) if file.parent.name not in CATALOGUES]


def spoken(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every identifier and string constant, but for docstrings."""
    quiet = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in quiet:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias):
            yield 0, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def tables_of_domainbed(tree: ast.Module) -> Iterator[ast.stmt]:
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id in ("ALGORITHMS", "ENVIRONMENTS") for target in targets):
            yield statement


@pytest.mark.parametrize("file", engine_files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_the_engine_names_no_entry_of_a_catalogue(file: Path, catalogue: Catalogue) -> None:
    # Data sets whose name carries a path are called `folder` and `csv`: everyday words, so they tell nothing.
    words = {name for name, entry in catalogue.entries.items() if not getattr(entry.card, "path", False)}
    tree = ast.parse(file.read_text())
    if file.parent.name == "domainbed":
        for statement in list(tables_of_domainbed(tree)):
            tree.body.remove(statement)
    named = [f"line {line}: {word}" for line, text in spoken(tree) for word in words & set(re.findall(r"\w+", text))]
    assert named == []
