"""From measured times of some runs to those of all: the arithmetic, with numbers that are worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.core.run import Run
from dgbench.launchers.pace import Rehearsal, by_finished, by_rehearsals, key_of, makespan
from dgbench.plan.work import Work, Workload
from tests.conftest import MakePlan

SINGLES = LeaveOneDomainOut(pairs=False)
Pair = tuple[Run, Work]


@pytest.fixture
def runs(make_plan: MakePlan, catalogue: Catalogue) -> dict[str, Pair]:
    """A run of each method, with its work."""
    plan = make_plan("ERM", "SAM", "GAM", "ERM+SWAD", "DiWA", "EoA", "T3A", protocol=SINGLES, hparams=2)
    workload = Workload(plan, catalogue)
    return {run.method.name: (run, workload.of(run)) for run in plan.runs}


def rehearsal(pair: Pair, step: float) -> Rehearsal:
    return Rehearsal(*pair, start=0.5, step=step, example=0.001, save=0.02, norms=0.1, size=1e6)


def rest(work: Work) -> float:
    """Seconds of a run beside its steps, by `rehearsal`."""
    return 0.5 + 0.001 * work.forwards + 0.02 * work.evaluations + 0.1 * work.measured


def test_a_rehearsed_method_takes_its_own_steps(runs: dict[str, Pair]) -> None:
    erm, sam = runs["ERM"], runs["SAM"]
    found = by_rehearsals([erm, sam], [rehearsal(erm, 0.1), rehearsal(sam, 0.25)])
    assert found == pytest.approx([0.1 * 11 + rest(erm[1]), 0.25 * 11 + rest(sam[1])])
    bigger = erm[1]._replace(passes=3 * erm[1].passes)
    (seconds,) = by_rehearsals([(erm[0], bigger)], [rehearsal(erm, 0.1)])
    assert seconds == pytest.approx(0.3 * 11 + rest(erm[1])), "in proportion, where there is one size"


def test_steps_of_others_lie_on_the_line_through_the_measured_ones(runs: dict[str, Pair]) -> None:
    erm, sam, gam = runs["ERM"], runs["SAM"], runs["GAM"]
    assert (sam[1].passes, gam[1].passes) == pytest.approx((2 * erm[1].passes, 4 * erm[1].passes))
    (seconds,) = by_rehearsals([gam], [rehearsal(erm, 0.11), rehearsal(sam, 0.19)])
    assert seconds == pytest.approx((0.03 + 4 * 0.08) * 11 + rest(gam[1])), "0.03 s don't grow with the passes"


def test_runs_that_train_nothing_start_and_predict(runs: dict[str, Pair]) -> None:
    erm = runs["ERM"]
    for name in ("DiWA", "EoA", "T3A"):
        (seconds,) = by_rehearsals([runs[name]], [rehearsal(erm, 0.1)])
        assert seconds == pytest.approx(rest(runs[name][1])), name
    views = runs["DiWA"][1].evaluated
    assert (runs["EoA"][1].forwards, runs["T3A"][1].forwards) == (2 * views, 2 * views), "two members; best and last"


def test_a_data_set_without_a_rehearsal_goes_by_the_others(runs: dict[str, Pair]) -> None:
    run, work = runs["ERM"]
    other = dataclasses.replace(run, dataset="Other"), work
    assert key_of(other[0]).place != key_of(run).place
    assert by_rehearsals([other], [rehearsal((run, work), 0.1)]) == by_rehearsals(
        [(run, work)], [rehearsal((run, work), 0.1)]
    )


def test_finished_runs_tell_the_time_of_their_method_and_by_their_line_that_of_others(runs: dict[str, Pair]) -> None:
    erm, sam, gam = runs["ERM"], runs["SAM"], runs["GAM"]
    per_work = 2.0 / erm[1].all
    assert by_finished([erm, sam], [(*erm, 2.0)]) == pytest.approx([2.0, sam[1].all * per_work])
    line = [(*erm, 1 + erm[1].all), (*sam, 1 + sam[1].all)]
    assert by_finished([gam], line) == pytest.approx([1 + gam[1].all], rel=1e-3)
    slow = by_finished([erm, sam], [(*erm, 2.0), (*sam, 10.0)])
    assert slow == pytest.approx([2.0, 10.0], rel=1e-6)


def test_slots_share_the_sum_and_wait_for_the_last() -> None:
    assert makespan([], 2) == 0
    assert makespan([3.0] * 4, 1) == 12
    assert makespan([3.0] * 100, 2) == 150 + 0.75
    assert makespan([1.0, 50.0], 2) == 50, "no run is shared out"
