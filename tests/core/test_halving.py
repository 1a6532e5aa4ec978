"""Successive halving: which runs go on is decided by their scores alone."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbench.core.halving import Bracket, Outlook, Spent, Standing, add_up, expected, outlooks, rungs, spent, standings
from dgbench.core.setting import setting


@pytest.mark.parametrize(
    ("steps", "freq", "runs", "found"),
    [
        (5001, 300, 20, (300, 600, 1800)),  # DomainBed's PACS: 5001 / 27, / 9, / 3
        (5001, 300, 3, (1800,)),
        (5001, 300, 4, (600, 1800)),
        (15001, 1000, 60, (1000, 2000, 5000)),  # 60 -> 20 -> 7 -> 3 -> 1, of which the first two fall together
        (5001, 300, 1, ()),
        (300, 100, 9, (100,)),  # neither the first evaluation nor the last
        (101, 100, 9, ()),
    ],
)
def test_rungs_are_the_evaluated_steps_nearest_to_thirds_of_thirds(
    steps: int, freq: int, runs: int, found: tuple[int, ...]
) -> None:
    evaluated = setting(steps=steps, checkpoint_freq=freq).evaluation_steps
    assert rungs(evaluated, runs) == found


def test_the_best_third_goes_on_once_all_are_there() -> None:
    bracket = Bracket(("a", "b", "c", "d"), (10, 20), 31)
    all_but_d: dict[str, dict[int, float]] = {"a": {10: 0.5}, "b": {10: 0.75}, "c": {10: -math.inf}}
    waits = Standing(10, awaited=("d",))
    assert standings(bracket, all_but_d) == {"a": waits, "b": waits, "c": waits, "d": Standing(10)}
    reached = {**all_but_d, "d": {10: 0.5}}
    dropped = Standing(10, dropped=True)
    # Of the equal scores of a and d the earlier draw's goes on.
    assert standings(bracket, reached) == {"a": Standing(20), "b": Standing(20), "c": dropped, "d": dropped}
    reached["a"] = {10: 0.5, 20: 0.625}
    assert standings(bracket, reached)["a"] == Standing(20, awaited=("b",))
    reached["b"] = {10: 0.75, 20: 0.5}
    end = standings(bracket, reached)
    assert (end["a"], end["b"]) == (Standing(None), Standing(20, dropped=True))


def test_runs_of_repeats_hand_in_their_scores_and_go_on_to_the_end() -> None:
    bracket = Bracket(("a", "b", "c"), (10,), 31, whole=("c",))
    assert standings(bracket, {})["c"] == Standing(10)
    assert standings(bracket, {"c": {10: 0.0}})["c"] == Standing(None), "it waits for nothing"
    reached = {"a": {10: 1.0}, "b": {10: 0.5}, "c": {10: 0.0}}
    assert standings(bracket, reached) == {"a": Standing(None), "b": Standing(10, dropped=True), "c": Standing(None)}


def test_the_outlook_counts_only_steps_that_the_search_will_train() -> None:
    bracket = Bracket(("a", "b", "c", "d"), (9, 19), 100, readers={"a": ("t",), "c": ("u",)})
    # Four to step 10, two to 20, one to 100.
    assert outlooks(bracket, {}) == {
        **dict.fromkeys("abcd", Outlook(0.0, 0.35)),
        **dict.fromkeys("tu", Outlook(0.0, 0.25)),
    }
    assert sum(outlooks(bracket, {})[run].goal for run in bracket.runs) * 100 == bracket.budget
    reached = {run: {9: score} for run, score in zip("abcd", (0.5, 0.25, 0.125, 0.0), strict=True)}
    found = outlooks(bracket, reached)
    assert (found["a"], found["t"]) == (Outlook(0.1, 0.6), Outlook(0.0, 0.5)), "one of two goes on from step 20"
    assert (found["c"], found["u"]) == (Outlook(0.1, 0.1), Outlook(0.0, 0.0))
    assert (found["a"].left, found["c"].left) == (0.5, 0.0)
    reached |= {"a": {9: 0.5, 19: 0.5}, "b": {9: 0.25, 19: 0.75}}
    found = outlooks(bracket, reached)
    assert (found["a"], found["b"], found["t"].goal) == (Outlook(0.2, 0.2), Outlook(0.2, 1.0), 0.0)


def test_the_outlook_of_a_run_that_is_trained_anyway_is_all_of_its_work() -> None:
    bracket = Bracket(("a", "b", "c"), (9,), 100, whole=("c",))
    assert outlooks(bracket, {})["c"] == Outlook(0.0, 1.0)
    assert outlooks(bracket, {"c": {9: 0.0}})["c"] == Outlook(0.1, 1.0)


SCORES = st.one_of(st.sampled_from([0.0, 0.5, 1.0, -math.inf]), st.floats(0, 1))
BRACKETS = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(SCORES, min_size=3, max_size=3), min_size=n, max_size=n),
        st.sampled_from([(), (2,), (2, 5), (2, 5, 11)]),
        st.randoms(use_true_random=False),
    )
)


def search(bracket: Bracket, scores: list[list[float]], order: random.Random) -> tuple[dict[str, int], set[str]]:
    """Steps made by each run, and the runs dropped, if a random run that may train does so until none may."""
    reached: dict[str, dict[int, float]] = {run: {} for run in bracket.runs}
    made = dict.fromkeys(bracket.runs, 0)
    dropped: set[str] = set()
    while True:
        found = standings(bracket, reached)
        now = {run for run, standing in found.items() if standing.dropped}
        assert dropped <= now, "a dropped run stays dropped"
        dropped = now
        ready = [
            run
            for run, standing in found.items()
            if not (standing.dropped or standing.awaited) and made[run] < bracket.steps
        ]
        if not ready:
            return made, dropped
        run = order.choice(ready)
        until = found[run].until
        made[run] = bracket.steps if until is None else until + 1
        if until is not None:
            reached[run][until] = scores[int(run)][bracket.rungs.index(until)]


@given(BRACKETS)
def test_whichever_run_is_first_the_same_runs_end_and_the_budget_is_kept(
    drawn: tuple[list[list[float]], tuple[int, ...], random.Random],
) -> None:
    scores, steps, order = drawn
    bracket = Bracket(tuple(map(str, range(len(scores)))), steps, 30)
    made, dropped = search(bracket, scores, order)
    assert (made, dropped) == search(bracket, scores, random.Random(0))
    assert sum(made.values()) == bracket.budget
    ended = [run for run, count in made.items() if count == 30]
    assert len(ended) == bracket.survivors == len(scores) - len(dropped)
    (budget,) = spent([bracket], made)
    assert [budget] == expected([bracket])
    assert budget.ended == len(ended)


@given(BRACKETS)
def test_no_dropped_run_was_better_where_it_was_compared(
    drawn: tuple[list[list[float]], tuple[int, ...], random.Random],
) -> None:
    scores, steps, order = drawn
    bracket = Bracket(tuple(map(str, range(len(scores)))), steps, 30)
    made, dropped = search(bracket, scores, order)
    for one, other in itertools.product(dropped, bracket.runs):
        if made[other] > made[one]:
            rung = steps.index(made[one] - 1)
            ranks = [(-scores[int(run)][rung], int(run)) for run in (other, one)]
            assert ranks[0] < ranks[1]


def test_the_line_below_tables() -> None:
    brackets = [Bracket(tuple("abcdefghijklmnopqrst"), (300, 600, 1800), 5001)] * 2
    (budget,) = expected(brackets)
    assert str(budget) == (
        "successive halving (eta 3, rungs at steps 300, 600, 1,800): 29,840 of 200,040 steps trained (15 %), "
        "2 of 40 runs to the end"
    )
    assert add_up([budget, Spent(3, (5,), 1, 2, 0, 1), budget])[0] == Spent(3, (300, 600, 1800), 59680, 400080, 4, 80)
