"""Nodes at work and their pace: whom each run is counted for, and how long the rest takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dgbench.report.nodes import Node, Pace, nodes_of, time_left
from dgbench.report.watch import RunStatus

RUN = RunStatus(
    id="",
    name="",
    kind="train",
    algorithm="ERM",
    dataset="Toy",
    held_out=("a",),
    trial=0,
    hparams_seed=0,
    state="missing",
    step=None,
    steps=100,
    share=1.0,
    speed=None,
    left=None,
    host="",
    engine="",
    sign=None,
    seconds=None,
    failure="",
    log="",
)


def look(*changes: dict[str, Any]) -> list[RunStatus]:
    return [replace(RUN, id=str(i), **change) for i, change in enumerate(changes)]


def running(host: str, sign: float, engine: str = "", **more: Any) -> dict[str, Any]:
    return {"state": "running", "host": host, "engine": engine, "sign": sign, **more}


def done(host: str = "n1", sign: float = 0, seconds: float | None = None, **more: Any) -> dict[str, Any]:
    return {"state": "done", "host": host, "sign": sign, "seconds": seconds, **more}


def test_a_node_is_a_machine_or_a_task_on_it_with_the_runs_that_it_holds() -> None:
    found = look(running("n1", 5), running("n1", 7), running("n1", 6, "slurm:3_0"), done(), {"state": "waiting"})
    assert list(nodes_of(found).values()) == [Node("n1", "", 2, 7), Node("n1", "slurm:3_0", 1, 6)]
    assert nodes_of(found)["n1", ""].to_json() == {"node": "n1", "engine": "", "running": 2, "sign": 7}


def test_runs_that_end_while_it_is_watched_count_for_the_node_that_ended_them() -> None:
    now = [100.0]
    pace = Pace(lambda: now[0])
    pace.look(look(done("n1"), running("n1", 10, speed=30.0), running("n2", 9, speed=12.5)))
    assert list(pace.table(12)) == [
        "node  task  holds  last sign  finished",
        "n1          1      2 s ago    0",
        "n2          1      3 s ago    0",
    ]
    assert list(pace.throughput()) == ["throughput: 42.5 steps/s"]
    now[0] = 460
    pace.look(look(done("n1"), done("n1", 300), running("n3", 368, "ray:x"), done("n2", 20)))
    assert list(pace.table(370)) == [
        "node  task   holds  last sign  finished",
        "n3    ray:x  1      2 s ago    0",
        "n1           0      70 s ago   1",
        "n2           0      350 s ago  1",
    ]
    assert list(pace.throughput()) == ["throughput: 20 runs an hour"]
    pace.look(look(done("n1"), {}, running("n3", 370, "ray:x"), done("n2", 20)))
    pace.look(look(done("n1"), done("n3", 390, engine="ray:x"), done("n3", 380, engine="ray:x"), done("n2", 20)))
    assert list(pace.table(400))[1:] == [
        "n1           0      100 s ago  1",
        "n2           0      380 s ago  1",
        "n3    ray:x  0      10 s ago   2",
    ], "one was begun anew and done again"


def test_before_any_run_is_held_there_is_nothing_to_show() -> None:
    pace = Pace()
    pace.look(look({}, done()))
    assert [*pace.table(0), *pace.throughput()] == []


@pytest.mark.parametrize(
    ("states", "seconds"),
    [
        ([{}, {}], None),
        ([done(seconds=10), {}], None),
        ([running("n1", 0), {}], None),
        ([running("n1", 0, left=30.0)], 30),
        ([running("n1", 0, left=30.0), {}], None),
        ([done(seconds=10), done(seconds=20), done(seconds=90), running("n1", 0, left=30.0), {}, {}], 70),
        ([done(seconds=10), running("n1", 0, left=2.0), running("n2", 0), {}, {}], 16),
        ([done(seconds=10), running("n1", 0, left=90.0), running("n2", 0)], 90),
        ([done(seconds=10), done(seconds=2, kind="merge"), running("n1", 0), {"kind": "merge"}], 12),
        ([done(seconds=10), running("n1", 0), {"kind": "merge"}], 20),
        ([done(seconds=10), {"state": "failed"}, running("n1", 0)], 10),
        # A run that a search may drop has less to make, and one that it has dropped tells as well.
        ([done(seconds=10), running("n1", 0), {"share": 0.25}, {"state": "paused", "step": 10, "share": 0.5}], 16.5),
        ([{"state": "dropped", "step": 10, "share": 0.1, "seconds": 2}, running("n1", 0, share=0.5)], 10),
    ],
)
def test_the_time_left_is_that_of_runs_like_those_that_ended(
    states: list[dict[str, Any]], seconds: float | None
) -> None:
    assert time_left(look(*states)) == seconds
