"""What `import dgbench` offers: the names of the public list, and the classes of the catalogues."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dgbench
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import KINDS
from tests.support.places import ROOT

FOLDERS = {kind: folder for kind, (folder, *_) in KINDS.items()}


def in_another_process(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_each_public_name_is_the_one_that_type_checkers_see() -> None:
    tree = ast.parse(Path(dgbench.__file__ or "").read_text())
    typed = {
        alias.name: f"{node.module}"
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert typed == dgbench._HOMES
    assert sorted(typed) == dgbench.__all__
    for name in dgbench.__all__:
        assert getattr(dgbench, name) is not None
    assert set(dgbench.__all__) <= set(dir(dgbench))
    with pytest.raises(AttributeError, match="no attribute 'Algorithmus'"):
        _ = dgbench.Algorithmus  # type: ignore[attr-defined]


def test_names_that_need_no_torch_come_without_it() -> None:
    light = "Catalogue, AlgorithmCard, Dataset, UserError, hparam, uniform, setting, read_results, load_results"
    assert in_another_process(f"import sys; from dgbench import {light}; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_of_a_catalogue_is_in_its_folders_module(kind: str, catalogue: Catalogue) -> None:
    module = getattr(dgbench, FOLDERS[kind])
    entries = catalogue.of_kind(kind)
    assert dir(module) == sorted(entries)
    for name, entry in entries.items():
        if not (Path(module.__path__[0]) / f"{name}.py").is_file():  # `folder.folder`: the file comes first, as ever
            assert getattr(module, name) is entry.load()


def test_a_class_is_imported_as_from_any_package() -> None:
    code = (
        "from dgbench.algorithms import ERM; from dgbench.datasets import PACS; import dgbench.rules.sam; "
        "from dgbench.merging import diwa; from dgbench import averaging; from dgbench.datasets import _images; "
        "print(ERM.__name__, PACS.__name__, dgbench.rules.sam.SAM is dgbench.rules.SAM, "
        "diwa.__name__, averaging.SWAD.__name__, _images.__name__)"
    )
    assert in_another_process(code) == "ERM PACS True dgbench.merging.diwa SWAD dgbench.datasets._images"


def test_an_unknown_class_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'ERMM'"):
        from dgbench.algorithms import ERMM  # noqa: F401


def test_the_links_at_the_root_stay_for_eyes_only(tmp_path: Path) -> None:
    """The module of a catalogue is `dgbench.datasets`: who imports `datasets` gets another project's, or none."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("whose = 'theirs'")
    code = "import dgbench.datasets; import datasets; print(datasets.whose, dgbench.datasets is datasets)"
    assert in_another_process(code, PYTHONPATH=str(tmp_path)) == "theirs False"


def test_every_command_is_a_module_to_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dgbench.list", "algorithms"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "\nERM " in f"\n{done.stdout}"
