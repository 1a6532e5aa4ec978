"""The helper behind `make mutants`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mutants import ROOT, mirrored_tests, mutants

SOURCE = """
def clamp(value: int, most: int = 5) -> int:
    "Never above 5."
    if not value:
        raise ValueError(f"{value + 1}")
    for item in [value]:
        print(item)
        break
    else:
        return None
    return value if value < most and True else -most * 2
"""


def test_each_place_is_changed_alone_but_for_words_and_types() -> None:
    changes = {change for _, change, _ in mutants(SOURCE)}
    assert changes == {
        "5 -> 6",
        "if not value: -> if not not value:",
        "not value -> not not value",
        "print(item) -> ...",
        "break -> continue",
        "return value if value < most and True else -most * 2 -> return None",
        "value if value < most and True else -most * 2 -> value if not (value < most and True) else -most * 2",
        "value < most and True -> value < most or True",
        "value < most -> value <= most",
        "True -> False",
        "-most * 2 -> -most / 2",
        "-most -> +most",
        "2 -> 3",
    }


def test_each_mutant_is_the_module_with_one_change() -> None:
    whole = [
        (line, change, source) for line, change, source in mutants(SOURCE) if change == "value < most -> value <= most"
    ]
    ((line, _, source),) = whole
    assert line == 11
    namespace: dict[str, object] = {}
    exec(source, namespace)
    assert "value <= most and True else -most * 2" in source
    assert "not value" in source


def test_tests_are_in_the_mirrored_place() -> None:
    assert mirrored_tests(Path("dgbench/core/space.py")) == ["tests/core/test_space.py"]
    assert mirrored_tests(Path("dgbench/plan/asking.py")) == ["tests/plan"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tests", "survives"), [("tests/core/test_stats.py", False), ("tests/core/test_wording.py", True)]
)
def test_what_the_named_tests_do_not_notice_is_printed(tests: str, survives: bool) -> None:
    words = [sys.executable, "tests/support/mutants.py", "dgbench/core/stats.py", "--most", "1", "--tests", tests]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    *lines, last = done.stdout.splitlines()
    assert [line.partition(": dgbench/core/stats.py:")[0] for line in lines] == ["survives"] * survives, done.stderr
    assert last == f"{1 - survives} of 1 mutants of dgbench/core/stats.py caught by {tests}"
    assert done.returncode == survives
