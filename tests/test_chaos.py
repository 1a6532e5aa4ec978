"""The short form of `python -m benchmarks.chaos`: what it finds in an hour is in results/reliability.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos.kills import JOBS, disturbed
from benchmarks.chaos.sandbox import Harm, Sandbox, finish, request, same

ROWS = ("ERM+SWAD", "ERM+DiWA", "ERM+T3A")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_of_the_server_and_of_everything_change_no_byte_and_leave_no_orphan(tmp_path: Path) -> None:
    whole = Sandbox(tmp_path / "whole", request(ROWS))
    finish(whole.launch(*JOBS), 0)
    for victim in ("server", "all"):
        with Sandbox(tmp_path / victim, whole.words) as sandbox:
            assert disturbed(sandbox, victim, 0.5, early=False), "killed while runs were under way"
            assert sandbox.end() == 0
            same(sandbox, whole)
    records = sandbox.folders()[0].path / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b"0.", b"1.", 1))
    with pytest.raises(Harm, match="the records of"):
        same(sandbox, whole)
