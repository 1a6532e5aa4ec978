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
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--device", "cpu", "--quick", "--parts", "parity", "step", "loader", "augment"]
    )
    importlib.import_module("gpu").main()
    out = capsys.readouterr().out
    assert "  3 algorithms, 0 of which draw; of the others 3 within 0.001" in out
    assert re.search(r"^  SAM +0\.0e\+00 +0\.0$", out, re.M), "a distance, and waits a step"
    assert len(re.findall(r"^  .{38} +[\d.]+ ms +[\d.]+ +[\d.]+ GB$", out, re.M)) == 4
    assert "  deterministic takes " in out
    assert re.search(r"^  \d processes: [\d,]+ images a second$", out, re.M)
    assert re.search(r"^  a step on loaded images [\d.]+ ms, on one minibatch [\d.]+ ms: [\d.]+$", out, re.M)
    (apart,) = re.findall(r"^  apart by ([\d.]+) levels of 255 on average", out, re.M)
    assert 0 < float(apart) < 0.6, "the same draws on both paths, within rounding"
