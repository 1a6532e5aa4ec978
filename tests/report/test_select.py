"""Each selector on accuracies small enough to choose by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from dgbench.core.errors import UserError
from dgbench.core.protocol import Explicit, FixedSplit, Fold, LeaveOneDomainOut, Protocol, SingleSource, View
from dgbench.core.run import ALL_TRIALS
from dgbench.report.results import Candidate, Gap, Results, Series, Spot
from dgbench.report.select import Outcome, Pick
from dgbench.report.selectors import SELECTORS, default_selectors, selectors

DOMAINS = ("a", "b", "c")
A, B, C = range(3)
"""Positions of the folds that hold out one domain; those that hold out two follow: ab, ac, bc."""
AB, AC, BC = 3, 4, 5


def series(fold: Fold, steps: Sequence[int], run: str = "r", **views: Sequence[float]) -> Series:
    """Accuracies by view and step (`a_in=[...]`), 0 where nothing is said."""
    table = np.zeros((len(steps), len(fold.evaluated)))
    for name, values in views.items():
        table[:, fold.evaluated.index(View(*name.split("_")))] = values
    return Series(run, tuple(steps), fold.evaluated, table)


def results(
    candidates: Mapping[tuple[int, int], Mapping[int, Mapping[str, Sequence[float]] | Gap | Series]],
    protocol: Protocol | None = None,
    steps: Sequence[int] = (0, 10, 20),
) -> Results:
    """One row, one data set; (fold, trial) -> hyperparameter seed -> accuracies by view."""
    protocol = protocol or LeaveOneDomainOut()
    folds = tuple(protocol.folds(DOMAINS))
    made: dict[Spot, dict[int, Candidate]] = {
        (fold, trial): {
            seed: one if isinstance(one, Gap | Series) else series(folds[fold], steps, f"run{fold}.{seed}", **one)
            for seed, one in seeds.items()
        }
        for (fold, trial), seeds in candidates.items()
    }
    return Results(protocol.name, "p", 0, ("ERM",), {"D": tuple(range(len(folds)))}, folds, {("ERM", "D"): made})


def gap(fold: int, seed: int, state: str = "missing") -> Gap:
    held_out = list(LeaveOneDomainOut().folds(DOMAINS))[fold].held_out
    return Gap("", "ERM", "D", held_out, seed, 0, state)


def choose(name: str, found: Results, fold: int = A) -> Outcome:
    return SELECTORS[name].choose(found, "ERM", "D", fold, 0)


def test_training_domain_takes_the_best_mean_over_training_domains() -> None:
    found = results(
        {
            (A, 0): {
                0: {"b_out": [0.1, 0.9, 0.2], "c_out": [0.1, 0.1, 0.2], "a_in": [0.3, 0.4, 0.5], "a_out": [1, 1, 1]},
                1: {"b_out": [0.6, 0.2, 0.2], "c_out": [0.5, 0.2, 0.2], "a_in": [0.7, 0.8, 0.9]},
            }
        }
    )
    assert choose("training-domain", found).pick == Pick(1, 0, "run0.1", 0.55, 0.7, in_domain=0.55)


@pytest.mark.parametrize("name", ["training-domain", "leave-one-domain-out"])
@pytest.mark.parametrize(
    ("values", "step", "value"), [((math.nan, -0.5, math.nan), 10, -0.25), ((math.nan,) * 3, 0, -math.inf)]
)
def test_what_is_no_number_is_the_worst_there_is(name: str, values: list[float], step: int, value: float) -> None:
    lost = [math.nan] * 3
    found = results(
        {
            (A, 0): {1: {"b_out": values, "a_in": [0.1, 0.2, 0.3]}, 0: {"b_out": lost, "a_in": lost}},
            (AB, 0): {1: {"b_in": values}, 0: {"b_in": lost}},
            (AC, 0): {1: {}, 0: {}},
        }
    )
    pick = choose(name, found).pick
    assert pick
    assert (pick.hparams_seed, pick.step, pick.value) == (1, step, value)


def test_training_domain_takes_the_earliest_step_and_the_highest_seed_that_tie() -> None:
    one = {"b_out": [0.1, 0.5, 0.5], "c_out": [0.1, 0.5, 0.5]}
    found = results({(A, 0): {1: {**one, "a_in": [0, 0.2, 0.9]}, 0: {**one, "a_in": [0, 0.1, 0.8]}}})
    pick = choose("training-domain", found).pick
    assert pick
    assert (pick.hparams_seed, pick.step, pick.score) == (1, 10, 0.2)


def test_oracle_reads_the_last_step_alone() -> None:
    found = results(
        {
            (A, 0): {
                0: {"a_out": [0.99, 0.99, 0.3], "a_in": [0.9, 0.9, 0.1], "b_out": [1, 1, 1]},
                1: {"a_out": [0.0, 0.0, 0.4], "a_in": [0.0, 0.0, 0.2]},
            }
        }
    )
    assert choose("oracle", found).pick == Pick(1, 20, "run0.1", 0.4, 0.2, in_domain=0.0)


def test_leave_one_domain_out_reads_the_pairs() -> None:
    found = results(
        {
            (A, 0): {0: {"a_in": [0.1, 0.2, 0.3]}, 1: {"a_in": [0.4, 0.5, 0.6]}},
            (AB, 0): {0: {"b_in": [0.5, 0.9, 0.1], "a_in": [1, 1, 1]}, 1: {"b_in": [0, 0, 0.6]}},
            (AC, 0): {0: {"c_in": [0.5, 0.1, 0.1], "a_in": [1, 1, 1]}, 1: {"c_in": [0, 0, 0.5]}},
            (BC, 0): {0: {"b_in": [1, 1, 1], "c_in": [1, 1, 1]}},
        }
    )
    outcome = choose("leave-one-domain-out", found)
    assert outcome.pick == Pick(1, 20, "run0.1", 0.55, 0.6, in_domain=0.0)
    assert (outcome.complete, outcome.planned) == (2, 2)


def test_leave_one_domain_out_takes_the_earliest_step_and_the_highest_seed_that_tie() -> None:
    seeds = {0: {"a_in": [0.1, 0.2, 0.3]}, 1: {"a_in": [0.4, 0.5, 0.6]}}
    pair = {"b_in": [0.1, 0.8, 0.8], "c_in": [0.1, 0.8, 0.8]}
    ab, ac = {"b_in": pair["b_in"]}, {"c_in": pair["c_in"]}
    found = results({(A, 0): seeds, (AB, 0): {0: ab, 1: ab}, (AC, 0): {0: ac, 1: ac}})
    pick = choose("leave-one-domain-out", found).pick
    assert pick
    assert (pick.hparams_seed, pick.step, pick.score) == (1, 10, 0.5)


def test_leave_one_domain_out_skips_steps_that_a_pair_lacks() -> None:
    folds = tuple(LeaveOneDomainOut().folds(DOMAINS))
    found = results(
        {
            (A, 0): {0: {"a_in": [0.1, 0.2, 0.3]}},
            (AB, 0): {0: {"b_in": [0.5, 0.9, 0.1]}},
            (AC, 0): {0: series(folds[AC], (0, 20), "x", c_in=[0.5, 0.6])},
        }
    )
    pick = choose("leave-one-domain-out", found).pick
    assert pick
    assert (pick.step, pick.value) == (0, 0.5)


def test_leave_one_domain_out_without_a_common_step_says_so() -> None:
    folds = tuple(LeaveOneDomainOut().folds(DOMAINS))
    found = results(
        {
            (A, 0): {0: {"a_in": [0.1, 0.2, 0.3]}},
            (AB, 0): {0: {"b_in": [0.5, 0.9, 0.1]}},
            (AC, 0): {0: series(folds[AC], (7,), "x", c_in=[0.5])},
        }
    )
    outcome = choose("leave-one-domain-out", found)
    assert outcome.pick is None
    assert "no common step" in outcome.gaps[0].why


@pytest.mark.parametrize(
    ("of_single", "of_ab", "of_ac", "chosen"),
    [
        ((10, 20), (0, 20), (5, 20), 10),
        ((10, 20), (0, 20), (20,), 10),
        ((10, 20), (20,), (20,), 10),
        ((20,), (0, 20), (5, 20), 20),
    ],
)
def test_adapted_models_are_matched_by_their_role_best_with_best(
    of_single: Sequence[int], of_ab: Sequence[int], of_ac: Sequence[int], chosen: int
) -> None:
    """Which step was the best is another in each run; of a single model, which is both, the best and the last."""
    folds = tuple(LeaveOneDomainOut().folds(DOMAINS))

    def adapted(fold: int, steps: Sequence[int], **views: tuple[float, float]) -> Series:
        few = {view: values[: len(steps)] for view, values in views.items()}
        return dataclasses.replace(series(folds[fold], steps, f"r{fold}", **few), adapted=True)

    found = results(
        {
            (A, 0): {0: adapted(A, of_single, a_in=(0.1, 0.2))},
            (AB, 0): {0: adapted(AB, of_ab, b_in=(0.6, 0.2))},
            (AC, 0): {0: adapted(AC, of_ac, c_in=(0.4, 0.2))},
        }
    )
    assert choose("leave-one-domain-out", found).pick == Pick(0, chosen, "r0", 0.5, 0.1, in_domain=0.0)
    worse = results(
        {
            (A, 0): {0: adapted(A, (10, 20), a_in=(0.1, 0.2))},
            (AB, 0): {0: adapted(AB, (0, 20), b_in=(0.2, 0.6))},
            (AC, 0): {0: adapted(AC, (20,), c_in=(0.4, 0.4))},
        }
    )
    assert choose("leave-one-domain-out", worse).pick == Pick(0, 20, "r0", 0.5, 0.2, in_domain=0.0)


def test_gaps_are_told_and_the_rest_is_still_chosen_from() -> None:
    found = results({(A, 0): {0: {"b_out": [0, 0.5, 0], "a_in": [0, 0.3, 0]}, 1: gap(A, 1, "failed"), 2: gap(A, 2)}})
    outcome = choose("training-domain", found)
    assert outcome.gaps == (gap(A, 1, "failed"), gap(A, 2))
    assert (outcome.complete, outcome.planned) == (1, 3)
    assert outcome.pick
    assert outcome.pick.score == 0.3


def test_leave_one_domain_out_tells_every_run_that_a_seed_lacks() -> None:
    found = results(
        {
            (A, 0): {0: {"a_in": [0.1, 0.2, 0.3]}, 1: gap(A, 1)},
            (AB, 0): {0: gap(AB, 0, "running"), 1: {"b_in": [1, 1, 1]}},
            (AC, 0): {0: {"c_in": [1, 1, 1]}, 1: gap(AC, 1)},
        }
    )
    outcome = choose("leave-one-domain-out", found)
    assert outcome == Outcome(None, 0, 2, (gap(AB, 0, "running"), gap(A, 1), gap(AC, 1)))


def test_seeds_that_were_never_asked_for_with_two_test_domains_are_no_gaps() -> None:
    one = {"a_in": [0.1, 0.2, 0.3]}
    found = results({(A, 0): {0: one, 1: one}, (AB, 0): {0: {"b_in": [1, 1, 1]}}, (AC, 0): {0: {"c_in": [1, 1, 1]}}})
    outcome = choose("leave-one-domain-out", found)
    assert (outcome.complete, outcome.planned, outcome.gaps) == (1, 1, ())
    assert outcome.pick
    assert outcome.pick.hparams_seed == 0


def test_nothing_there_is_an_outcome_without_gaps() -> None:
    assert choose("oracle", results({})) == Outcome(None, 0, 0, ())


def test_several_test_domains_are_reported_by_their_mean() -> None:
    found = results(
        {(0, 0): {0: {"a_out": [0, 1, 0], "b_in": [0, 0.25, 0], "c_in": [0, 0.75, 0]}}},
        protocol=SingleSource(only=("a",)),
    )
    pick = choose("training-domain", found).pick
    assert pick
    assert (pick.step, pick.score) == (10, 0.5)


def test_validation_domains_are_read_where_there_are_any() -> None:
    explicit = Explicit(train=("a",), val=("b",), test=("c",))
    found = results(
        {(0, 0): {0: {"a_out": [1, 0, 0], "b_in": [0, 0.5, 0], "b_out": [0, 0.5, 0.9], "c_in": [0.1, 0.2, 0.3]}}},
        explicit,
    )
    pick = choose("validation-domain", found).pick
    assert pick
    assert (pick.step, pick.value, pick.score) == (10, 0.5, 0.2)
    assert [selector.name for selector in default_selectors(found)] == list(SELECTORS)


def test_what_a_sweep_cannot_answer_is_said() -> None:
    with_pairs, without = results({}), results({}, LeaveOneDomainOut(pairs=False))
    assert [selector.unavailable(with_pairs, "D") for selector in default_selectors(with_pairs)] == ["", "", ""]
    loo = SELECTORS["leave-one-domain-out"]
    assert loo.unavailable(without, "D") == "the sweep has no folds with two test domains"
    assert loo.unavailable(results({}, SingleSource()), "D") == "the sweep has no folds with one test domain"
    assert "validation" in SELECTORS["validation-domain"].unavailable(with_pairs, "D")


def test_each_selector_says_which_folds_it_reads() -> None:
    found = results({})
    assert SELECTORS["training-domain"].folds_read(found, "D") == (A, B, C)
    assert SELECTORS["leave-one-domain-out"].folds_read(found, "D") == (A, B, C, AB, AC, BC)


def test_unknown_selectors_are_all_told_with_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        selectors(["orakle", "oracle", "training_domain"])
    assert caught.value.problems == (
        "unknown selector 'orakle': did you mean 'oracle'?",
        "unknown selector 'training_domain': did you mean 'training-domain'?",
    )
    assert [s.name for s in selectors(["oracle", "training-domain", "oracle"])] == ["oracle", "training-domain"]


def test_several_test_domains_are_told_apart_and_one_is_not() -> None:
    single = {0: {"a_out": [0.5], "b_in": [0.25], "c_in": [0.75]}}
    several = choose("training-domain", results({(0, 0): single}, SingleSource(only=("a",)), steps=(0,)))
    assert several.pick == Pick(0, 0, "run0.0", 0.5, 0.5, 0.5, by_domain={"b": 0.25, "c": 0.75})
    one = choose("training-domain", results({(A, 0): {0: {"a_in": [0.5]}}}, steps=(0,)))
    assert one.pick == Pick(0, 0, "run0.0", 0.0, 0.5, 0.0, by_domain={})


def test_a_fold_whose_training_domains_were_not_measured_has_no_value_in_them() -> None:
    (fold, *_) = LeaveOneDomainOut().folds(DOMAINS)
    kept = series(fold, (0,), "r", a_in=[0.5], a_out=[0.6])
    for lacking in (fold.source_val, fold.source_val[:1]):
        views = tuple(view for view in kept.views if view not in lacking)
        values = kept.values[:, [kept.views.index(view) for view in views]]
        few = dataclasses.replace(kept, views=views, values=values)
        assert choose("oracle", results({(A, 0): {0: few}})).pick == Pick(0, 0, "r", 0.6, 0.5, in_domain=None)


@pytest.mark.parametrize("name", ["training-domain", "oracle"])
def test_of_the_one_model_of_all_trials_the_last_stands_and_nothing_chose_it(name: str) -> None:
    found = results({(A, ALL_TRIALS): {0: {"a_in": [0.9, 0.1, 0.3], "b_out": [1, 0, 0], "a_out": [1, 0, 0]}}})
    pick = SELECTORS[name].choose(found, "ERM", "D", A, ALL_TRIALS).pick
    assert pick
    assert (pick.step, pick.score) == (20, 0.3)
    assert math.isnan(pick.value)


def test_whether_the_run_diverged_is_said_of_what_was_chosen() -> None:
    (fold, *_) = LeaveOneDomainOut().folds(DOMAINS)
    for diverged in (False, True):
        one = dataclasses.replace(series(fold, (0,)), diverged=diverged)
        pick = choose("training-domain", results({(A, 0): {0: one}})).pick
        assert pick
        assert pick.diverged is diverged


def test_how_many_models_are_compared() -> None:
    folds = tuple(LeaveOneDomainOut().folds(DOMAINS))
    found = results(
        {
            (A, 0): {0: {}, 1: gap(A, 1), 2: {}, 3: {}},
            (AB, 0): {0: {}, 1: {}, 2: gap(AB, 2)},
            (AC, 0): {0: series(folds[AC], (0, 20, 30)), 1: {}, 2: {}, 3: {}},
        }
    )
    of_one, of_pairs = (
        [SELECTORS[name].models(found, "ERM", "D", A, 0, seed) for seed in range(4)]
        for name in ("training-domain", "leave-one-domain-out")
    )
    assert of_one == [3, 0, 3, 3]
    assert of_pairs == [2, 0, 0, None], "two steps in common; a run lacks; a run lacks; never asked for"


def test_the_models_of_a_row_that_are_read_are_named() -> None:
    plain = results({(A, 0): {0: {}}})

    def said(found: Results, name: str) -> str:
        return SELECTORS[name].models_read(found, "ERM", ["D"])

    assert said(plain, "training-domain") == "at every evaluated step"
    assert said(plain, "oracle") == "at the last step only"
    adapted = dataclasses.replace(plain, adapted=frozenset({"ERM"}))
    assert said(adapted, "training-domain") == "of the best model in validation and the last"
    assert said(adapted, "oracle") == "of the last model alone"
    best = " whose members are their runs' best in validation"
    merged = dataclasses.replace(plain, members={"ERM": "3"})
    assert said(merged, "training-domain") == "of each merged model" + best
    assert said(merged, "oracle") == "of the last merged model" + best
    both = dataclasses.replace(adapted, members={"ERM": "3"})
    assert said(both, "oracle") == "of the last model alone" + best
    pooled = dataclasses.replace(results({(A, ALL_TRIALS): {0: {}}}), members={"ERM": "3"})
    assert said(pooled, "oracle") == f"but for the one model of all trials{best}, which nothing was read to choose"


@pytest.mark.parametrize(("validation", "kept"), [("ood", "validation-domain"), ("id", "training-domain")])
def test_data_with_splits_of_their_own_have_the_one_selector_that_reads_their_validation(
    validation: str, kept: str
) -> None:
    protocol = FixedSplit(validation=validation)
    folds = tuple(protocol.folds(("official",), parts=("train", "id_val", "val", "test")))
    found = Results(protocol.name, "p", 0, ("ERM",), {"D": (0,)}, folds, {})
    assert [selector.name for selector in default_selectors(found)] == [kept]
