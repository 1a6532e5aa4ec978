"""The benchmark for GPUs runs through on a CPU, so that minutes of a GPU aren't lost to a slip in the script."""

from __future__ import annotations

import importlib
import re
import sys

import pytest

from tests.support.places import ROOT


@pytest.mark.slow
def test_each_part_prints_its_lines_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--quick", "--parts", "parity", "step", "loader"])
    importlib.import_module("gpu").main()
    out = capsys.readouterr().out
    assert "  3 algorithms, furthest: " in out
    assert len(re.findall(r"^  .{38} +[\d.]+ ms +[\d.]+ +[\d.]+ GB$", out, re.M)) == 4
    assert re.search(r"^  \d processes: [\d,]+ images a second$", out, re.M)
