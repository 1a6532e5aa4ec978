"""Classes of a notebook: written to files that other processes include."""

from __future__ import annotations

import dataclasses
import importlib
import linecache
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import dgbench
from dgbench.algorithms import ERM
from dgbench.api.classes import FOLDER, IncludedClasses, source_of
from dgbench.core.imports import digest_of
from dgbench.launchers.prepare import reopen
from dgbench.plan.declaration import read_site
from dgbench.store.folder import Store

BRIEF = {"steps": 4, "checkpoint_freq": 2, "hparams": {"batch_size": 16}, "device": "cpu", "threads": 1, "quiet": True}
HEAD = """
import dataclasses
import numpy as np
import torch.nn.functional as F
from torch import exp, float64 as f64
from dgbench.algorithms import ERM
FACTOR = {"of": [2.0, None]}
"""
MINE = """
class Mine(ERM):
    '''Minimize a multiple of the loss.'''

    card = dataclasses.replace(ERM.card, baseline=False)

    def loss(self, batches):
        return scaled(super().loss(batches))
"""
SCALED = """
def scaled(value):
    exponent = exp(value.detach() * 0)
    return [FACTOR["of"][0] * exponent * part for part in [value]][0]
"""


class Twofold(ERM):
    """Minimize the loss."""


class Foreign:
    """A class for DomainBed."""

    def update(self, minibatches: Any, unlabeled: Any = None) -> Any:
        """Take a step."""

    def predict(self, x: Any) -> Any:
        """Return logits."""


Cell = Callable[[str], dict[str, Any]]


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cell]:
    """Execute the text of a cell as a notebook does; its names are those of `__main__`."""
    notebook, numbers = ModuleType("__main__"), count()
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    names = list[str]()

    def execute(text: str) -> dict[str, Any]:
        names.append(f"/tmp/ipykernel/{next(numbers)}.py")
        linecache.cache[names[-1]] = (len(text), None, text.splitlines(keepends=True), names[-1])
        exec(compile(text, names[-1], "exec"), vars(notebook))
        return vars(notebook)

    yield execute
    for name in names:
        del linecache.cache[name]


def imported(text: str) -> dict[str, Any]:
    """Execute a text as a module of its own."""
    module = sys.modules["mine"] = ModuleType("mine")
    try:
        exec(text, vars(module))
    finally:
        del sys.modules["mine"]
    return vars(module)


def test_the_file_of_a_class_has_all_that_the_class_reads(cell: Cell) -> None:
    cell(HEAD)
    cell(SCALED)
    text = source_of(cell(MINE)["Mine"])
    found = imported(text)
    value = torch.tensor(3.0, dtype=torch.float64)
    assert found["scaled"](value) == 6
    assert issubclass(found["Mine"], importlib.import_module("dgbench.algorithms").ERM)
    assert "numpy" not in text, "nothing reads it"
    assert text.index("def scaled") < text.index("class Mine")


def test_decorators_annotations_and_renamed_imports_come_along(cell: Cell) -> None:
    cell(HEAD)
    text = """
from typing import NamedTuple as Tuple

def doubled(cls):
    cls.twice = 2
    return cls

class Pair(Tuple):
    first: "int"
    second: np.ndarray = F.relu

Both = Pair

@doubled
@dataclasses.dataclass
class Mine:
    pair: Both

    def kind(self) -> f64:
        return f64
"""
    found = imported(source_of(cell(text)["Mine"]))
    assert found["Mine"].twice == 2
    assert [field.name for field in dataclasses.fields(found["Mine"])] == ["pair"]
    assert found["Mine"](found["Pair"](1)).kind() is torch.float64


def test_the_last_version_counts(cell: Cell) -> None:
    cell(HEAD)
    cell("class Mine(ERM):\n    number = 1\n")
    cell("class Mine(ERM):\n    number = 2\n")
    assert imported(source_of(cell("")["Mine"]))["Mine"].number == 2


def test_all_that_can_not_be_written_is_said_at_once(cell: Cell) -> None:
    text = """
import io
log = io.StringIO()
class Mine:
    def loss(self, batches):
        return log, absent, open, [part for part in batches]
"""
    with pytest.raises(dgbench.UserError) as refusal:
        source_of(cell(text)["Mine"])
    first, second = refusal.value.problems
    assert first.startswith("Mine reads log, a StringIO of this notebook or script (<_io.StringIO")
    assert second == "Mine reads absent, which is not defined"


def test_a_class_without_a_known_source_is_refused(cell: Cell) -> None:
    cell("Mine = type('Mine', (), {})")
    with pytest.raises(dgbench.UserError, match="the source of Mine is not known: write it to a file"):
        source_of(cell("")["Mine"])


def test_a_class_of_a_module_is_included_from_its_file() -> None:
    classes = IncludedClasses(Path("nowhere"), apart=True)
    assert classes.named(Foreign) == "Foreign"
    assert classes.named(Twofold) == "Twofold"
    assert classes.options({"include": "own.py"}) == {"include": ["own.py", f"{__file__}:Foreign", __file__]}


def test_a_class_of_a_notebook_is_trained(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cell(HEAD)
    cell(SCALED)
    mine = cell(MINE)["Mine"]
    first = dgbench.train(mine, "RotatedDigits", test=75, **BRIEF)
    assert first.row == "Mine"
    assert (reopen(first.folder).catalogue.get("algorithm", "Mine")).card.baseline is False
    assert dgbench.train(mine, "RotatedDigits", test=75, **BRIEF).folder == first.folder
    mine = cell(MINE.replace("scaled(", "3 * scaled("))["Mine"]
    assert dgbench.train(mine, "RotatedDigits", test=75, **BRIEF).folder != first.folder, "another version of it"
    both = dgbench.train("Mine+EMA", "RotatedDigits", test=75, include=[mine], output_dir="runs/a", **BRIEF)
    file = tmp_path / f"runs/a/{FOLDER}/Mine.py"
    assert (both.row, read_site(both.folder).include) == ("Mine+EMA", (str(file),))
    hashes = []
    for trial, factor in enumerate((5, 7), 1):
        mine = cell(MINE.replace("scaled(", f"{factor} * scaled("))["Mine"]
        last = dgbench.train(mine, "RotatedDigits", test=75, output_dir="runs/a", trial_seed=trial, **BRIEF)
        run = next(run for run in reopen(last.folder).plan.runs if run.trial == trial)
        hashes.append((Store(last.folder).folder(run.id).summary() or {})["sources"]["Mine"])
        assert hashes[-1] == f"Mine.py {digest_of(file.read_bytes())}", "the edited class, not the first"
    assert len(set(hashes)) == 2


def test_nothing_is_left_of_a_class_in_a_call_that_is_refused(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cell(HEAD)
    cell(SCALED)
    mine = cell(MINE)["Mine"]
    with pytest.raises(dgbench.UserError):
        dgbench.train(mine, "RotatedDigits", test=76, **BRIEF)
    with pytest.raises(dgbench.UserError):
        dgbench.sweep("runs/a", algorithms=["ERM", mine], datasets="RotatedDigit")
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_takes_classes_among_its_algorithms(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dgbench.api.sweep._start", lambda *_: None)
    cell(HEAD)
    cell(SCALED)
    launched = dgbench.sweep(
        "runs/a", algorithms=["ERM", cell(MINE)["Mine"]], datasets="RotatedDigits", n_hparams=1, n_trials=1
    )
    assert {run.method.name for run in reopen(launched.folder).plan.runs} == {"ERM", "Mine"}
