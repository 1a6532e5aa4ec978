"""The examples for users do what their docstrings say, by the commands that stand there."""

from __future__ import annotations

import ast
import importlib
import shlex
from pathlib import Path

import pytest

from dgbench import cli
from tests.support.places import ROOT, SHOWN

FILES = sorted(SHOWN.glob("*.py"))
SMALL = {"check": ["--draws", "0"], "train": ["--steps", "30", "--threads", "1", "--device", "cpu"]}


def commands(file: Path) -> list[list[str]]:
    doc = ast.get_docstring(ast.parse(file.read_text())) or ""
    return [shlex.split(line) for line in doc.splitlines() if line.strip().startswith("dgbench ")]


CASES = [(file, words) for file in FILES for words in commands(file)]


def test_there_are_four_and_each_says_how_it_is_run() -> None:
    assert {file.stem for file in FILES} == {"smooth", "two_rates", "median_gradient", "arcs"}
    assert {file for file, _ in CASES} == set(FILES)


@pytest.mark.parametrize(("file", "words"), CASES, ids=[f"{file.stem}-{words[1]}" for file, words in CASES])
def test_its_commands_succeed(file: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert str(file.relative_to(ROOT)) in words
    where = ["--output_dir", str(tmp_path / "out")] if words[1] == "train" else []
    assert cli.run(importlib.import_module(f"dgbench.{words[1]}").main, [*words[2:], *SMALL[words[1]], *where]) == 0
