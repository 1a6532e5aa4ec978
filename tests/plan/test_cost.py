from __future__ import annotations

from collections import Counter

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.core.protocol import IN, OUT, LeaveOneDomainOut, View
from dgbench.core.setting import setting
from dgbench.plan.cost import Cost, cost_of, refuse_large_predictions, refuse_small_domains
from dgbench.plan.request import Overrides
from dgbench.plan.work import view_size
from tests.conftest import MakeFacts, MakePlan

SINGLES = LeaveOneDomainOut(pairs=False)


def test_runs_are_counted_by_kind_and_method(make_plan: MakePlan, catalogue: Catalogue) -> None:
    cost = cost_of(make_plan("ERM", "SAM+SWAD", "DiWA", "T3A", protocol=SINGLES, hparams=3, trials=2), catalogue)
    assert cost.runs == {("train", "ERM"): 24, ("train", "SAM"): 24, ("merge", "DiWA"): 8, ("adapt", "T3A"): 24}
    assert cost.steps == 48 * 11


def test_a_runs_cost_worked_out_by_hand(make_plan: MakePlan, catalogue: Catalogue) -> None:
    alone = cost_of(make_plan("ERM", protocol=SINGLES, hparams=1), catalogue)
    assert alone.passes == 4 * (3 * 32 * 11)
    views = 3 * 20 + 80 + 20
    evaluations = 3
    assert alone.evaluated == 4 * views * evaluations, "after steps 0, 5 and 10"
    assert cost_of(make_plan("SAM", protocol=SINGLES, hparams=1), catalogue).passes == 2 * alone.passes
    uneven = cost_of(make_plan("DANN", protocol=SINGLES, hparams=1), catalogue).passes
    assert uneven == pytest.approx((1 + 2 * 0.5) / 3 * alone.passes), "a backward pass is worth two forward"
    watched = cost_of(make_plan("ERM", "SMA", "SWAD", protocol=SINGLES, hparams=1), catalogue)
    assert watched.evaluated == 4 * views * (2 * evaluations + 1), "one average always, one at the end"
    adapted = cost_of(make_plan("ERM", "T3A", protocol=SINGLES, hparams=1), catalogue)
    assert adapted.evaluated == 4 * views * (evaluations + 2), "the best model and the last"


def test_an_analysis_costs_what_its_card_says(make_plan: MakePlan, catalogue: Catalogue) -> None:
    found = make_plan("ERM", "ERM+Curvature", "ERM+Diversity", protocol=SINGLES, hparams=3)
    cost = cost_of(found, catalogue)
    examples = 3 * 80 + 3 * 20 + 80 + 20  # training views, their validation parts and the test domain
    curvature = 4 * 3 * examples * 6 * (20 + 100)
    assert cost.analyzed == curvature + 4 * examples * 2.5 * 3, "density_draws is 1 where it is not named"
    assert f"{cost.analyzed / 1e6:,.1f} million examples passed through models by analyses, about" in cost.lines()
    fewer = Overrides(parts={"Curvature": {"examples": 10, "draws": 20}})
    own = make_plan("ERM+Curvature", protocol=SINGLES, hparams=1, overrides=fewer)
    assert cost_of(own, catalogue).analyzed == 4 * 8 * 10 * 6 * 40
    assert cost_of(make_plan("ERM", protocol=SINGLES), catalogue).analyzed == 0


def test_training_views_cost_where_they_are_evaluated(make_plan: MakePlan, catalogue: Catalogue) -> None:
    found = make_plan("ERM", protocol=SINGLES, hparams=1, how=setting(evaluate="all"))
    assert cost_of(found, catalogue).evaluated == 4 * 400 * 3


def test_it_is_told_in_words(make_plan: MakePlan, catalogue: Catalogue) -> None:
    lines = list(cost_of(make_plan("ERM", "DiWA", hparams=200, trials=2), catalogue).lines())
    assert [line.split() for line in lines[:3]] == [
        ["4,020", "runs"],
        ["4,000", "train", "ERM"],
        ["20", "merge", "DiWA"],
    ]
    assert lines[3] == "44,000 optimizer steps"


def test_the_models_that_stay_on_disk_are_counted(make_plan: MakePlan, catalogue: Catalogue) -> None:
    merged = make_plan("ERM", "ERM+SWAD", "DiWA", protocol=SINGLES, hparams=3)
    assert cost_of(merged, catalogue).kept == 4 * 3, "a merger reads the best"
    assert cost_of(merged, catalogue, save_models="all").kept == 4 * (3 * 2 * 2 + 2)
    assert cost_of(merged, catalogue, save_models="best").kept == 4 * (3 * 2 + 1), "half as many"
    adapted = make_plan("DiWA", "EoA", "T3A", "DiWA+T3A", protocol=SINGLES, hparams=3)
    cost = cost_of(adapted, catalogue)
    assert cost.kept == 4 * (3 * (2 + 1) + 2), "an adapter the last too, also of what DiWA made"
    assert list(cost.lines())[-1] == "44 models kept on disk"
    assert cost_of(adapted, catalogue, save_models="all").kept == 4 * (3 * 2 * 2 + 2), "an ensemble has no weights"
    alone = cost_of(make_plan("ERM", protocol=SINGLES), catalogue)
    assert (alone.kept, list(alone.lines())[-1][-9:]) == (0, "evaluated")


def test_the_disk_that_predictions_take(make_plan: MakePlan, catalogue: Catalogue) -> None:
    plan = make_plan("ERM+SMA", "T3A", protocol=SINGLES, hparams=1, outputs=10)
    train, adapt = 4 * 160 * (4 * 10 + 16) * 2, 4 * 160 * (4 * 10 + 16)
    assert cost_of(plan, catalogue).predictions == 0
    chosen = cost_of(plan, catalogue, save_predictions="chosen")
    assert chosen.predictions == 2 * (train + adapt), "by validation and the last"
    each = cost_of(plan, catalogue, save_predictions="all")
    assert each.predictions == chosen.predictions + 3 * train + 2 * adapt, "after steps 0, 5 and 10, and both adapted"
    assert list(chosen.lines())[-1] == "0.2 MB of predictions kept on disk, at most"


def test_examples_are_counted_in_millions_only_where_there_are_some() -> None:
    told = list(Cost(Counter(), passes=2_345_678.0, evaluated=4_200).lines())
    assert told[-2:] == [
        "2.3 million examples passed forward and backward in training",
        "4,200 examples evaluated",
    ]


def test_parts_have_domainbeds_sizes(make_facts: MakeFacts) -> None:
    facts = make_facts(2, counts=(99, 7))
    sizes = {str(view): view_size(facts, view, 0.2) for view in (View(d, p) for d in "ab" for p in (IN, OUT))}
    assert sizes == {"a/in": 80, "a/out": 19, "b/in": 6, "b/out": 1}


def test_domains_smaller_than_a_batch_are_told_once_with_the_way_out(make_plan: MakePlan) -> None:
    found = make_plan("ERM", "SAM", counts=(100, 39, 40, 0), hparams=1, trials=2)
    with pytest.raises(UserError) as caught:
        refuse_small_domains(found)
    nothing = "Toy: a holdout of 0.2 leaves nothing in part 'in' of domain d (0 examples): give it more"
    assert caught.value.problems == (nothing,)
    found = make_plan("ERM", counts=(100, 39, 30, 0), hparams=1, overrides=Overrides(fixed={"batch_size": 33}))
    with pytest.raises(UserError) as caught:
        refuse_small_domains(found)
    assert caught.value.problems == (
        nothing,
        "Toy: domain b has 32, domain c has 24 examples to train on, fewer than a batch of 33: give a smaller one, "
        "--set batch_size=24",
    )


def test_the_largest_batch_of_a_search_counts(make_plan: MakePlan) -> None:
    found = make_plan("ERM", counts=(40, 40, 40, 40), hparams=20)
    largest = max(int(run.method.hparams["batch_size"]) for run in found.runs)
    assert largest > 32
    with pytest.raises(UserError, match=f"has 32 examples to train on, fewer than a batch of {largest}"):
        refuse_small_domains(found)


def test_a_held_out_domain_may_be_small(make_plan: MakePlan) -> None:
    found = make_plan("ERM", counts=(5, 100, 100, 100), hparams=1, protocol=LeaveOneDomainOut(only=("a",)))
    refuse_small_domains(found)


def test_domains_too_small_for_the_holdout_are_named_by_planning(make_plan: MakePlan) -> None:
    few = Overrides(fixed={"batch_size": 2})
    with pytest.raises(UserError) as caught:
        refuse_small_domains(make_plan("ERM", counts=(100, 4, 5, 1), hparams=1, overrides=few))
    assert [problem for problem in caught.value.problems if "holdout" in problem] == [
        "Toy: a holdout of 0.2 leaves nothing in part 'out' of domain b (4 examples), part 'out' of domain d "
        "(1 examples): give them more"
    ]
    with pytest.raises(UserError) as caught:
        refuse_small_domains(make_plan("ERM", counts=(100, 4, 5, 3), hparams=1, overrides=few))
    assert "give them more" in caught.value.problems[0]
    assert "--holdout_fraction 0.334 or more leaves some, or " in caught.value.problems[0]
    tiny = setting(holdout_fraction=1e-9)
    with pytest.raises(
        UserError, match=r"a holdout of 1e-09 leaves nothing in part 'out' of domain b \(100 examples\)"
    ):
        refuse_small_domains(make_plan("ERM", hparams=1, how=tiny))
    enough = setting(holdout_fraction=0.25)
    refuse_small_domains(make_plan("ERM", counts=(100, 4, 5, 4), hparams=1, overrides=few, how=enough))


def test_logits_that_no_machine_holds_are_not_saved(make_plan: MakePlan) -> None:
    refuse_large_predictions(make_plan("ERM", counts=(100_000,) * 4, hparams=1, outputs=1_000))
    with pytest.raises(UserError) as caught:
        refuse_large_predictions(make_plan("ERM", "SAM", counts=(100_000,) * 4, hparams=2, outputs=50_000))
    (told,) = caught.value.problems
    assert told.startswith("--save_predictions keeps 50,000 logits of each example of ")
    assert told.endswith(", 48 GB a model: leave it out"), "of two folds out of four domains, held out whole"
