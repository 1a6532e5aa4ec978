"""Launchers are chosen by name, file and table, with options that are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dgbench.core.errors import UserError
from dgbench.launchers import slurm
from dgbench.launchers.launcher import (
    SHIPPED,
    choose_launcher,
    find_launcher,
    last_launcher,
    launcher_names,
    remember_launcher,
)
from dgbench.launchers.machine import Local
from dgbench.launchers.slurm import Slurm

OWN = """
from dataclasses import dataclass
from dgbench.launchers.launcher import Launcher

@dataclass(frozen=True, kw_only=True)
class Own(Launcher):
    name = "own"
    lines: tuple[str, ...] = ()
    share: float = 0.5
    loud: bool = False

    def execute(self, sweep, *, detach=False):
        return 0
"""


def refused(*args: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        choose_launcher(*args)
    return caught.value.problems


def test_every_shipped_launcher_has_the_name_that_it_is_called_by() -> None:
    assert set(SHIPPED) <= set(launcher_names())
    assert [find_launcher(name).name for name in SHIPPED] == list(SHIPPED)


def test_flags_win_over_the_table_option_by_option() -> None:
    table = {"name": "slurm", "partition": "gpu", "time": "4:00:00", "jobs": 2, "setup": "module load cuda"}
    found = choose_launcher(["partition=cpu", "setup=a", "setup=b", "workers=3"], table, {"jobs": 5})
    assert found == Slurm(partition="cpu", time="4:00:00", jobs=5, setup=("a", "b"), workers=3)
    assert choose_launcher([], table, {}) == choose_launcher(["slurm"], table, {})
    assert choose_launcher([], table, {}).jobs == 2
    assert choose_launcher(["local"], table, {}) == Local(), "the table is another launcher's"
    assert choose_launcher([], {}, {}) == Local()


def test_the_time_to_live_of_leases_is_an_option_of_all_launchers() -> None:
    for name in SHIPPED:
        assert find_launcher(name)().ttl is None
        assert choose_launcher([], {"name": name, "ttl": 180}, {}).ttl == 180
        assert choose_launcher(["ttl=90"], {"name": name, "ttl": 180}, {}).ttl == 90
        assert choose_launcher(["ttl=90"], {"name": name, "ttl": 180}, {"ttl": 120.0}).ttl == 120
    assert choose_launcher([], {"ttl": 180}, {}) == Local(ttl=180)
    assert refused([], {"ttl": 5}, {}) == ("--ttl must be at least 10, not 5",)


def test_a_file_of_ones_own_is_a_launcher(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    found: Any = choose_launcher([str(file), "lines=x", "lines=y=z", "share=1", "loud=True"], {}, {"grace": 3.0})
    assert (found.lines, found.share, found.loud, found.grace) == (("x", "y=z"), 1.0, True, 3.0)
    remember_launcher(tmp_path, found)
    with pytest.raises(UserError, match="is a file: add --launcher"):
        last_launcher(tmp_path)
    assert last_launcher(tmp_path, [str(file)]) == found
    file.with_name("none.py").write_text("x = 1")
    assert refused([str(file.with_name("none.py"))], {}, {})[0].endswith("defines 0 launchers, not one")
    file.with_name("bad.py").write_text("import not_there_at_all")
    assert "can't be used: No module named" in refused([str(file.with_name("bad.py"))], {}, {})[0]


def test_what_is_wrong_is_refused_all_at_once(tmp_path: Path) -> None:
    assert refused(["slrum"], {}, {}) == ("unknown launcher 'slrum': did you mean 'slurm'?",)
    assert refused([str(tmp_path / "x.py")], {}, {}) == (f"--launcher {tmp_path / 'x.py'}: there is no such file",)
    words = ["slurm", "partitio=x", "gpu", "time=1", "time=2", "workers=many", "cpus=-1"]
    assert refused(words, {}, {"jobs": 0}) == (
        "--launcher slurm: write OPTION=VALUE, not gpu",
        "--launcher slurm: time is given twice",
        "unknown option of the launcher slurm 'partitio': did you mean 'partition'?",
        "launcher slurm: workers: 'many' is not int",
        "launcher slurm: cpus must be at least 0, not -1",
        "--jobs must be at least 1, not 0",
    )
    assert refused(["slurm", "gpus=1", "gres=gpu:1"], {}, {}) == ("launcher slurm: give either gpus or gres",)


def test_the_last_launcher_is_remembered(tmp_path: Path) -> None:
    assert last_launcher(tmp_path) is None
    asked = Slurm(partition="gpu", setup=("module load cuda",), time="1:00")
    remember_launcher(tmp_path, asked)
    assert last_launcher(tmp_path) == asked
    (tmp_path / "launcher.json").write_text("{")
    with pytest.raises(UserError, match=r"launcher.json is damaged: .*: remove it"):
        last_launcher(tmp_path)


def test_slurm_is_asked_once_for_its_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "jobs.json").write_text('{"jobs": [{"id": "6"}, {"id": 7}]}')
    asked = list[str]()
    shown = "7|7_0|RUNNING|n1|None\n7|7_1|FAILED|n2|None\n6|6_0|FAILED|n2|None\n5|5_0|FAILED|n3|another sweep's"
    monkeypatch.setattr(slurm, "_run", lambda *command: (asked.append(command[0]), shown)[1])
    running, ended = Slurm().queue(tmp_path)
    assert running == "slurm: 1 running (n1 1), 0 pending"
    assert ended.startswith("slurm: 7_1 ended on n2: FAILED: no output (log: ")
    assert asked == ["squeue"]


@pytest.mark.parametrize("content", ["{", "{}", '{"jobs": ["7"]}', '{"jobs": [{}]}'])
def test_a_damaged_list_of_slurms_jobs_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "jobs.json").write_text(content)
    with pytest.raises(UserError, match=r"jobs\.json is damaged: .*: remove it, and cancel jobs by scancel"):
        list(Slurm().queue(tmp_path))
