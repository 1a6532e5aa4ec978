from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import parse_rows
from dgbench.core.errors import UserError
from dgbench.core.protocol import Explicit, LeaveOneDomainOut, Protocol, SingleSource
from dgbench.core.run import BEST, LAST, MODEL, Run
from dgbench.core.setting import PRESETS, setting
from dgbench.core.space import choice
from dgbench.data.facts import resolve_setting
from dgbench.plan.plan import Plan
from dgbench.plan.planner import plan
from dgbench.plan.request import Overrides, Request, setting_below
from tests.conftest import MakeFacts, MakePlan

TEN = ("ERM", "VREx", "SAM", "Fish", "HGP", "ERM+SWAD", "ERM+SMA", "ERM+DiWA", "ERM+EoA", "ERM+T3A")
ON_ERM = (
    "ERM",
    "ERM+SWAD",
    "SMA",
    "DiWA",
    "ERM+DiWARestricted",
    "ERM+SWAD+DiWA",
    "EoA",
    "ERM+SWAD+EoA",
    "T3A",
    "SWAD+T3A",
    "DiWA+T3A",
    "SMA+DiWA+T3A",
)
SINGLES = LeaveOneDomainOut(pairs=False)


def kinds(found: Plan) -> Counter[tuple[str, str]]:
    return Counter((run.kind, run.method.name) for run in found.runs)


def spot(run: Run) -> tuple[Any, ...]:
    return run.dataset, run.fold, run.trial


def problems(make: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        make(*args, **kwargs)
    return caught.value.problems


DOMAINS = {
    "ColoredMNIST": 3, "RotatedMNIST": 6, "VLCS": 4, "PACS": 4, "OfficeHome": 4, "TerraIncognita": 4, "DomainNet": 6,
    "SVIRO": 10, "WILDSCamelyon": 5, "WILDSFMoW": 6,
    **dict.fromkeys((f"Spawrious{kind}_{level}" for kind in ("O2O", "M2M") for level in "emh"), 3),
}  # fmt: skip
"""DomainBed's data sets, but for those for debugging."""
PAPER = ("ColoredMNIST", "RotatedMNIST", "VLCS", "PACS", "OfficeHome", "TerraIncognita", "DomainNet")


@pytest.mark.parametrize(
    ("names", "pairs", "runs"),
    [
        (["PACS"], True, 600),
        (["PACS"], False, 240),
        (PAPER, True, 5_280),
        (PAPER, False, 1_860),
        (tuple(DOMAINS), True, 12_900),
        (tuple(DOMAINS), False, 4_200),
    ],
)
def test_sizes_are_those_of_domainbeds_sweeps(
    names: tuple[str, ...], pairs: bool, runs: int, catalogue: Catalogue, make_facts: MakeFacts
) -> None:
    facts = {name: make_facts(DOMAINS[name], name) for name in names}
    request = Request(
        parse_rows(["ERM"], catalogue), tuple(names), LeaveOneDomainOut(pairs), tuple(range(20)), tuple(range(3))
    )
    found = plan([request], facts, dict.fromkeys(facts, setting()), catalogue)
    assert len(found.runs) == runs
    assert len({run.id for run in found.runs}) == runs


def test_all_rows_on_one_algorithm_share_its_runs(make_plan: MakePlan) -> None:
    found = make_plan(*ON_ERM, protocol=SINGLES, hparams=3, trials=2)
    spots = 4 * 2
    assert kinds(found) == {
        ("train", "ERM"): 3 * spots,
        ("merge", "DiWA"): 3 * spots,
        ("merge", "DiWARestricted"): spots,
        ("merge", "EoA"): 2 * spots,
        ("adapt", "T3A"): (3 + 3 + 1 + 1) * spots,
    }
    trained = [run for run in found.runs if run.kind == "train"]
    assert {tuple(part.name for part in run.averages) for run in trained} == {("SMA", "SWAD")}
    assert len({(*spot(run), run.hparams_seed) for run in trained}) == len(trained)


def test_without_further_rows_nothing_watches(make_plan: MakePlan) -> None:
    assert {run.averages for run in make_plan("ERM", "DiWA").runs} == {()}
    by_name = {run.method.name: run.averages for run in make_plan("ERM+SMA", "SAM").runs}
    assert [part.name for part in by_name["ERM"]] == ["SMA"]
    assert by_name["SAM"] == ()


def test_what_feeds_back_has_a_run_of_its_own_that_nothing_else_watches(make_plan: MakePlan) -> None:
    rows = ("ERM", "EMA", "SMA", "SwitchEMA", "SWA", "SWA+DiWA", "SWA+T3A")
    found = make_plan(*rows, protocol=SINGLES, hparams=3)
    trained = [run for run in found.runs if run.kind == "train"]
    watched = Counter(tuple(part.name for part in run.averages) for run in trained)
    assert watched == {("EMA", "SMA"): 12, ("SwitchEMA",): 12, ("SWA",): 12}
    own = {run.id for run in trained if run.averages[0].name == "SWA"}
    assert {candidate.run.id for candidate in found.candidates["SWA", "Toy"]} == own
    derived = [run for run in found.runs if run.kind != "train"]
    assert {(source.run, source.predictor) for run in derived for source in run.inputs} == {(id, "SWA") for id in own}


FOREIGN = """
import torch


class Foreign(torch.nn.Module):
    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super().__init__()

    def update(self, minibatches, unlabeled=None):
        return {}

    def predict(self, x):
        return x
"""


def test_an_average_that_sets_what_an_algorithm_keeps_to_itself_is_refused_with_the_reason(
    make_facts: MakeFacts, make_plan: MakePlan, tmp_path: Path
) -> None:
    file = tmp_path / "algorithms.py"
    file.write_text(FOREIGN)
    catalogue = Catalogue([f"{file}:Foreign"])
    rows = request(catalogue, "Foreign", "Foreign+EMA", "Foreign+SWA", "Foreign+SwitchEMA", "SAM+SWA")
    overrides = Overrides(parts={"Foreign": {"batch_size": 4}})
    found = problems(plan, [rows], {"Toy": make_facts(4)}, {"Toy": setting()}, catalogue, {"Toy": overrides})
    assert found == ("Foreign+SWA: SWA sets the learning rate, but Foreign makes its own optimizers",)
    rows = ("ERMPlusPlus+SwitchEMA", "ERMPlusPlus+EMA", "ERMPlusPlus+SWA", "DCA+SwitchEMA", "SWA")
    sets = "SwitchEMA sets the weights that training goes on from, but"
    assert problems(make_plan, *rows) == (
        f"ERMPlusPlus+SwitchEMA: {sets} ERMPlusPlus predicts by the mean of those that it trains",
        f"DCA+SwitchEMA: {sets} DCA predicts by the mean of the copies that it trains",
    )


@pytest.mark.parametrize("rows", [TEN, ON_ERM])
def test_a_plan_can_be_executed_from_first_to_last(rows: tuple[str, ...], make_plan: MakePlan) -> None:
    found = make_plan(*rows, protocol=SINGLES, hparams=3, trials=2)
    seen: dict[str, Run] = {}
    for run in found.runs:
        assert run.id not in seen
        for source in run.inputs:
            base = seen[source.run]
            assert spot(base) == spot(run)
            assert source.predictor in {MODEL, *(part.name for part in base.averages)}
        seen[run.id] = run
    for cell in found.candidates.values():
        for candidate in cell:
            assert seen[candidate.run.id] is candidate.run
            assert candidate.predictor in {MODEL, *(part.name for part in candidate.run.averages)}


def test_a_merge_takes_the_runs_of_its_trial_in_the_order_of_their_seeds(make_plan: MakePlan) -> None:
    found = make_plan("SAM+SWAD+DiWA", protocol=SINGLES, hparams=4, trials=2)
    trained = {(*spot(run), run.hparams_seed): run for run in found.runs if run.kind == "train"}
    merges = [run for run in found.runs if run.kind == "merge"]
    assert len({spot(run) for run in merges}) == len(merges) == 8
    for run in merges:
        assert [(source.run, source.predictor) for source in run.inputs] == [
            (trained[(*spot(run), seed)].id, "SWAD") for seed in range(4)
        ]
        assert (run.averages, run.hparams_seed, run.method.name) == ((), 0, "DiWA")


def test_an_adapter_stands_on_each_candidate_of_what_it_adapts(make_plan: MakePlan) -> None:
    found = make_plan("SWAD+T3A", "DiWA+T3A", protocol=SINGLES, hparams=3)
    alone, merged = found.candidates["SWAD+T3A", "Toy"], found.candidates["DiWA+T3A", "Toy"]
    assert (len(alone), len(merged)) == (3 * 4, 4)
    by_id = {run.id: run for run in found.runs}
    for candidate in (*alone, *merged):
        (source,) = candidate.run.inputs
        base = by_id[source.run]
        assert (candidate.run.kind, candidate.predictor) == ("adapt", MODEL)
        assert candidate.run.hparams_seed == base.hparams_seed
        assert (base.kind, source.predictor) in {("train", "SWAD"), ("merge", MODEL)}


def test_candidates_of_each_row(make_plan: MakePlan) -> None:
    found = make_plan("ERM", "ERM+SWAD", "EoA", protocol=SINGLES, hparams=3, trials=2)
    assert found.rows == ("ERM", "ERM+SWAD", "EoA")
    cells = {row: found.candidates[row, "Toy"] for row in found.rows}
    assert {row: len(cell) for row, cell in cells.items()} == {"ERM": 24, "ERM+SWAD": 24, "EoA": 8}
    assert {candidate.predictor for candidate in cells["ERM+SWAD"]} == {"SWAD"}
    assert [c.run for c in cells["ERM"]] == [c.run for c in cells["ERM+SWAD"]]


def test_what_others_read_is_known(make_plan: MakePlan) -> None:
    found = make_plan("ERM", "SWAD+T3A", "EoA", "DiWA+T3A", "SAM", protocol=SINGLES)
    read = found.read_by_others
    for run in found.runs:
        trained = {MODEL: {BEST}, "SMA": {BEST}, "SWAD": {BEST, LAST}}
        expected = {"train": trained, "merge": {MODEL: {BEST, LAST}}, "adapt": {}}[run.kind]
        if run.method.name in ("SAM", "EoA"):
            expected = {}
        assert read.get(run.id, {}) == expected, run.name


@pytest.mark.parametrize("rows", [("SWAD+T3A", "SWAD+DiWA"), ("SWAD+DiWA", "SWAD+T3A")])
def test_all_that_several_read_of_one_predictor_is_kept_whoever_comes_first(
    rows: tuple[str, ...], make_plan: MakePlan
) -> None:
    found = make_plan(*rows, protocol=SINGLES)
    trained = [run for run in found.runs if run.kind == "train"]
    assert trained
    assert [found.read_by_others[run.id] for run in trained] == [{"SWAD": {BEST, LAST}}] * len(trained)


def test_members_stand_in_the_order_of_their_seeds_whatever_was_asked_for_first(
    catalogue: Catalogue, make_facts: MakeFacts
) -> None:
    asked = [request(catalogue, "DiWA", hparams=seeds) for seeds in (range(3, 5), range(2))]
    found = plan(asked, {"Toy": make_facts(4)}, {"Toy": setting()}, catalogue)
    by_id = {run.id: run for run in found.runs}
    merged = [run for run in found.runs if run.kind == "merge"]
    assert [[by_id[source.run].hparams_seed for source in run.inputs] for run in merged] == [[0, 1, 3, 4]] * 4


def request(
    catalogue: Catalogue, *rows: str, protocol: Protocol = SINGLES, hparams: range = range(2), trials: range = range(1)
) -> Request:
    return Request(parse_rows(rows, catalogue), ("Toy",), protocol, tuple(hparams), tuple(trials))


def test_requests_grow_and_train_nothing_twice(catalogue: Catalogue, make_facts: MakeFacts) -> None:
    facts = {"Toy": make_facts(4)}
    first = request(catalogue, "ERM", "SAM")
    second = request(catalogue, "ERM", "DiWA", hparams=range(1, 4), trials=range(2))
    small, whole = (
        plan(asked, facts, dict.fromkeys(facts, setting()), catalogue) for asked in ([first], [first, second])
    )
    assert {run.id for run in small.runs} < {run.id for run in whole.runs}
    assert len({run.id for run in whole.runs}) == len(whole.runs)
    assert kinds(whole) == {("train", "ERM"): 4 * (4 + 3), ("train", "SAM"): 8, ("merge", "DiWA"): 8}
    assert whole.rows == ("ERM", "SAM", "DiWA")
    assert len(whole.candidates["ERM", "Toy"]) == 28
    assert {len(run.inputs) for run in whole.runs if run.kind == "merge"} == {3}, "of the seeds asked for DiWA"


def test_folds_that_differ_in_what_validates_are_different_runs(catalogue: Catalogue, make_facts: MakeFacts) -> None:
    asked = [request(catalogue, "ERM", protocol=Explicit(("a",), ("d",), val)) for val in ((), ("b",))]
    found = plan(asked, {"Toy": make_facts(4)}, {"Toy": setting()}, catalogue)
    assert len(found.runs) == 4
    assert {run.fold.target_val for run in found.runs[:2]} != {run.fold.target_val for run in found.runs[2:]}


@settings(max_examples=30, deadline=None)
@given(
    asked=st.lists(
        st.tuples(
            st.lists(st.sampled_from(TEN), min_size=1, max_size=4),
            st.sampled_from([SINGLES, LeaveOneDomainOut(pairs=False, only=("a",)), Explicit(("b", "c"), ("a",))]),
            st.integers(2, 3),
            st.integers(1, 2),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_plan_is_the_union_of_its_requests(
    asked: list[tuple[list[str], Protocol, int, int]], catalogue: Catalogue, make_facts: MakeFacts
) -> None:
    requests = [
        request(catalogue, *rows, protocol=protocol, hparams=range(seeds), trials=range(trials))
        for rows, protocol, seeds, trials in asked
    ]
    facts = {"Toy": make_facts(3)}
    whole = plan(requests, facts, dict.fromkeys(facts, setting()), catalogue)
    ids = [run.id for run in whole.runs]
    assert len(set(ids)) == len(ids)
    place = {id: i for i, id in enumerate(ids)}
    assert all(place[source.run] < place[run.id] for run in whole.runs for source in run.inputs)
    trained = {(run.method.name, *spot(run), run.hparams_seed) for run in whole.runs if run.kind == "train"}
    assert len(trained) == sum(run.kind == "train" for run in whole.runs), "one run, whatever watches it"
    expected = {
        (row.algorithm, "Toy", fold, trial, seed)
        for each in requests
        for row in each.rows
        for fold in each.protocol.folds(facts["Toy"].domains)
        for trial in each.trials
        for seed in each.hparams_seeds
    }
    assert trained == expected
    again = plan(requests + requests[:1], facts, dict.fromkeys(facts, setting()), catalogue)
    assert [run.id for run in again.runs] == ids, "the same request again asks for nothing"


def test_runs_below_have_the_same_setting_but_for_the_network_that_is_named(make_facts: MakeFacts) -> None:
    facts = make_facts(input_shape=(3, 28, 28))
    above = resolve_setting(setting(backbone="SmallCNN", weights="0" * 64, steps=7), facts)
    assert setting_below({"teacher_backbone": ""}, facts, above) is above
    assert setting_below({"teacher_backbone": "SmallCNN"}, facts, above) is above
    below = setting_below({"teacher_backbone": "auto"}, facts, above)
    assert (below.backbone, below.weights, below.steps) == ("MNIST_CNN", "", 7)


def test_values_are_drawn_fixed_and_overridden(make_plan: MakePlan) -> None:
    overrides = Overrides(
        fixed={"weight_decay": 0.25, "rho": 0.5},
        parts={"SAM": {"weight_decay": 0.75}, "SWAD": {"tolerance_ratio": 0.9}},
        draws={"lr": choice(7.0)},
    )
    found = make_plan("ERM+SWAD", "SAM", protocol=SINGLES, overrides=overrides)
    values = {(run.method.name, run.hparams_seed): dict(run.method.hparams) for run in found.runs}
    assert values["ERM", 0] == {"lr": 5e-5, "weight_decay": 0.25, "batch_size": 32, "resnet_dropout": 0.0}
    assert values["ERM", 1]["lr"] == 7.0
    assert (values["SAM", 1]["weight_decay"], values["SAM", 1]["rho"], values["SAM", 0]["rho"]) == (0.75, 0.5, 0.5)
    swad = {run.averages[0].hparams["tolerance_ratio"] for run in found.runs if run.averages}
    assert swad == {0.9}


def test_traits_of_the_data_decide_the_space(make_plan: MakePlan) -> None:
    small = make_plan("ERM", traits=("small_images",), input_shape=(1, 28, 28)).runs[0]
    assert (small.method.hparams["lr"], small.method.hparams["batch_size"]) == (1e-3, 64)
    assert small.setting.backbone == "MNIST_CNN"
    assert (small.setting.steps, small.setting.checkpoint_freq) == (11, 5)


def test_a_run_has_nothing_open(make_facts: MakeFacts) -> None:
    facts = make_facts(input_kind="vectors", input_shape=(7,))
    expected = setting(steps=11, checkpoint_freq=5, backbone="MLP", interpolation="bilinear", channels_last=False)
    assert resolve_setting(setting(), facts) == expected
    asked = setting(steps=3, checkpoint_freq=2, backbone="resnet18", interpolation="bicubic", channels_last=True)
    assert resolve_setting(asked, facts) == asked


@pytest.mark.parametrize(
    ("backbone", "shape", "last"),
    [
        ("MNIST_CNN", (2, 28, 28), True),
        ("SmallCNN", (3, 32, 32), True),
        ("auto", (3, 224, 224), True),
        ("resnet18", (3, 224, 224), True),
        ("MLP", (2, 28, 28), False),
        ("vit_tiny_patch16_224", (3, 224, 224), False),
    ],
)
def test_images_lie_channels_last_where_the_network_convolves(
    backbone: str, shape: tuple[int, ...], last: bool, make_facts: MakeFacts
) -> None:
    facts = make_facts(input_shape=shape)
    assert resolve_setting(setting(backbone=backbone), facts).channels_last is last
    for said in (True, False):
        assert resolve_setting(setting(backbone=backbone, channels_last=said), facts).channels_last is said
    for preset in ("domainbed-2020", "domainbed-2024"):
        assert resolve_setting(setting(preset, backbone=backbone), facts).channels_last is False


def test_images_are_resized_for_the_network_unless_the_setting_says_how(make_facts: MakeFacts) -> None:
    facts = make_facts()

    def found(*preset: str, **changes: Any) -> str:
        return resolve_setting(setting(*preset, **changes), facts).interpolation

    assert found() == found(backbone="resnet50.tv2_in1k") == "bilinear"
    assert found(backbone="vit_small_patch14_dinov2.lvd142m") == found(backbone="domainbed-2024") == "bicubic"
    assert found("domainbed-2024") == found("domainbed-2020", backbone="resnet18") == "bilinear"
    assert found(backbone="resnet18", interpolation="bilinear") == "bilinear"
    assert found(interpolation="bicubic") == "bicubic"


def test_too_few_training_domains_are_told_with_the_way_out(make_plan: MakePlan) -> None:
    assert problems(make_plan, "ERM", "VREx", "Fish+SWAD", domains=3) == tuple(
        f"{name} needs at least 2 training domains; on Toy a fold has 1. "
        "--single_test_envs leaves out the folds with two test domains"
        for name in ("VREx", "Fish")
    )
    assert make_plan("VREx", domains=3, protocol=SINGLES).runs
    (said,) = problems(make_plan, "VREx", domains=2)
    assert said == "VREx needs at least 2 training domains; on Toy a fold has 1"
    assert problems(make_plan, "VREx", domains=2, protocol=SINGLES) == (said,)
    assert problems(make_plan, "VREx", protocol=SingleSource()) == (said,)
    assert len(problems(make_plan, "VREx", domains=4, protocol=SingleSource())) == 1


def test_too_few_members_are_told(make_plan: MakePlan) -> None:
    told = (
        "{} merges the runs of one trial, at least 2; --n_hparams gives 1: "
        "it ends a range that begins at 0 (n_hparams_from 0). Give --n_hparams 2"
    )
    assert problems(make_plan, "ERM", "DiWA", "SAM+EoA", hparams=1) == (told.format("DiWA"), told.format("SAM+EoA"))


def test_merging_needs_runs_that_start_alike(make_plan: MakePlan) -> None:
    (problem,) = problems(make_plan, "ERM", "DiWA", "EoA", "T3A", how=setting("domainbed-2020"))
    assert problem.startswith("DiWA averages weights of runs that must start alike")
    assert problem.endswith('Add --hparams \'{"init": "trial"}\'')
    assert make_plan("DiWA", "EoA", how=setting("domainbed-2020", init="trial")).runs


def test_images_from_files_are_the_same_for_all_runs(make_plan: MakePlan) -> None:
    assert make_plan("EoA", "T3A", how=setting("domainbed-2020")).runs


def test_all_that_cannot_be_planned_is_told_at_once(make_plan: MakePlan) -> None:
    assert len(problems(make_plan, "VREx", "DiWA", domains=3, hparams=1, how=setting("domainbed-2024"))) == 3
    assert problems(make_plan, "ERM", domains=1) == ("Toy: leave-one-domain-out needs at least 2 domains, there is 1",)


def test_what_a_method_needs_of_the_network_is_asked_for_before_anything_runs(make_plan: MakePlan) -> None:
    assert problems(make_plan, "MixStyle", "ERM", input_kind="vectors", input_shape=(7,)) == (
        "MixStyle needs images and a convolutional backbone with maps of several positions before its last stage, "
        "which it would not have on Toy",
    )
    assert make_plan("MixStyle", how=setting(backbone="resnet18")).runs
    linear = {"input_kind": "vectors", "input_shape": (7,), "backbone": "Linear"}
    assert make_plan("ERM", **linear).runs[0].setting.backbone == "Linear"
    nothing_learns = "KNN needs a featurizer that learns, which it would not have on Toy"
    assert problems(make_plan, "MixStyle", "KNN", **linear) == (
        "MixStyle needs images and a convolutional backbone with maps of several positions before its last stage, "
        "which it would not have on Toy",
        nothing_learns,
    )
    assert problems(make_plan, "KNN", how=setting(freeze="featurizer")) == (nothing_learns,)
    assert problems(make_plan, "ERM", how=setting(freeze="embedding"), **linear) == (
        "backbone 'Linear' is a classifier alone, so on Toy freeze can't be 'embedding'",
    )


@pytest.mark.parametrize(
    ("row", "values", "how", "told"),
    [
        ("Hutchinson", {"estimator": "exact"}, {"nonlinear_classifier": True}, " with estimator 'exact' needs a"),
        ("Hutchinson", {"estimator": "probes"}, {"nonlinear_classifier": True}, ""),
        ("ADRMX", {}, {"classifier_init": "linear_probe"}, " needs a classifier that starts at random"),
        ("QTDoG", {}, {"freeze": "featurizer"}, " needs a featurizer that learns"),
        ("GAQAT", {}, {"freeze": "featurizer"}, " needs a featurizer that learns"),
        ("GR", {"form": "double"}, {"compile": True}, " with form 'double' can't be trained with compile"),
        ("GR", {"form": "forward"}, {"compile": True}, ""),
        ("DSU", {}, {"backbone": "vit_small_patch14_dinov2"}, " needs images and a convolutional backbone"),
        ("MIRO", {}, {"backbone": "vit_small_patch14_dinov2"}, ""),
        ("MIRO", {}, {"backbone": "swin_tiny_patch4_window7_224"}, " needs a backbone whose features between"),
        ("TENT", {}, {"backbone": "convnext_atto"}, " with adapts 'batch_norm' needs a network with batch norm"),
        ("TENT", {"adapts": "head"}, {"backbone": "convnext_atto"}, ""),
        ("BNAdapt", {}, {"backbone": "resnet18"}, ""),
        ("SAR", {}, {"backbone": "vgg11"}, " needs a network with normalization layers"),
    ],
)  # fmt: skip
def test_what_can_not_follow_a_setting_is_refused_and_nothing_else(
    row: str, values: dict[str, Any], how: dict[str, Any], told: str, make_plan: MakePlan
) -> None:
    asked = {"how": setting(**how), "overrides": Overrides(parts={row: values}), "hparams": 1}
    if told:
        (problem,) = problems(make_plan, row, **asked)
        assert problem.startswith(row + told)
    else:
        assert make_plan(row, **asked).runs


def test_what_values_need_of_the_inputs_is_asked_for_too(make_plan: MakePlan) -> None:
    vectors = {"input_shape": (7,), "input_kind": "vectors"}
    assert problems(
        make_plan, "UDIM", "ERM", **vectors, overrides=Overrides(parts={"UDIM": {"perturbation": "style"}})
    ) == ("UDIM with perturbation 'style' needs inputs that are images, which it would not have on Toy",)
    assert make_plan("UDIM", **vectors).runs
    for adapter in ("CoTTA", "MEMO"):
        told = f"{adapter} needs inputs that are images, which it would not have on Toy"
        assert problems(make_plan, f"ERM+{adapter}", **vectors) == (told,)


def test_values_may_ask_for_more_training_domains(make_plan: MakePlan) -> None:
    wilds = {"overrides": Overrides(parts={"Fish": {"form": "wilds"}, "MixStyle": {"mixstyle_partner": "crossdomain"}})}
    more = "--single_test_envs leaves out the folds with two test domains"
    assert problems(make_plan, "Fish", **wilds) == (
        f"Fish with form 'wilds' and meta_steps 3 needs at least 3 training domains; on Toy a fold has 2. {more}",
    )
    assert problems(make_plan, "MixStyle", domains=3, **wilds) == (
        f"MixStyle with mixstyle_partner 'crossdomain' needs at least 2 training domains; on Toy a fold has 1. {more}",
    )
    assert problems(make_plan, "Fish", protocol=SINGLES, how=setting(domains_per_step=2), **wilds) == (
        "Fish with form 'wilds' and meta_steps 3 needs at least 3 training domains in a step; on Toy there are 2. "
        "Add --set domains_per_step=3",
    )
    assert make_plan("Fish", protocol=SINGLES, **wilds).runs
    assert make_plan("Fish", "MixStyle", domains=4).runs


def test_an_embedding_that_nobody_knows_can_not_be_frozen(make_plan: MakePlan) -> None:
    assert problems(make_plan, "ERM", how=setting(backbone="vgg11", freeze="embedding")) == (
        "which layers of backbone 'vgg11' read the input is not known, so on Toy freeze can't be 'embedding'",
    )
    assert make_plan("ERM", how=setting(backbone="vit_small_patch14_dinov2", freeze="embedding")).runs


@pytest.mark.parametrize(
    ("how", "facts", "told"),
    [
        (
            {"class_balanced": True},
            {"task": "regression"},
            "class_balanced needs labels that are classes, which Toy has not",
        ),
        (
            {"classifier_init": "linear_probe"},
            {"task": "regression"},
            "classifier_init 'linear_probe' needs labels that are classes, which Toy has not",
        ),
        (
            {"freeze": "featurizer", "backbone": "gpt2-small"},
            {"input_kind": "sequences", "input_shape": (9,)},
            "on Toy the classifier is the language model's own, so freeze can't be 'featurizer': nothing would learn",
        ),
        (
            {"layer_decay": 0.75, "backbone": "MLP"},
            {},
            "layer_decay needs a network of timm, whose layers are known; on Toy the network is 'MLP'",
        ),
        (
            {"compile": True},
            {"input_kind": "graphs", "input_shape": (40, 10)},
            "backbone 'GIN' can't be trained with compile true: it sees other numbers of atoms in each minibatch, and "
            "would be compiled anew for each",
        ),
    ],
)
def test_what_values_of_the_setting_need_is_asked_for_and_of_the_setting_alone(
    how: dict[str, Any], facts: dict[str, Any], told: str, make_plan: MakePlan
) -> None:
    assert problems(make_plan, "ERM", "SAM", how=setting(**how), **facts) == (told,)
    assert make_plan("ERM", "SAM", how=setting(backbone=how.get("backbone", "auto")), **facts).runs


def test_what_a_method_needs_of_the_inputs_is_asked_for_too(make_plan: MakePlan) -> None:
    rows = ("ARM", "BANG", "DSU", "Mixup", "TENT", "UDIM", "VREx", "SAM")
    texts = {"input_kind": "texts", "input_shape": (2, 9), "backbone": "bert-base-cased"}
    told = sorted(problem.partition(", which")[0] for problem in problems(make_plan, *rows, **texts))
    assert told == [
        "ARM needs inputs that are images",
        "BANG needs inputs that are images or vectors",
        "DSU needs images and a convolutional backbone",
        "Mixup needs inputs that are images or vectors",
        "TENT with adapts 'batch_norm' needs a network with batch norm",
        "UDIM needs inputs that are images or vectors",
    ]
    vectors = {"input_kind": "vectors", "input_shape": (9,)}
    told = sorted(problem.partition(", which")[0] for problem in problems(make_plan, *rows, **vectors))
    assert told == [
        "ARM needs inputs that are images",
        "DSU needs images and a convolutional backbone",
        "TENT with adapts 'batch_norm' needs a network with batch norm",
    ]


def test_batch_norm_that_starts_without_statistics_is_live(make_facts: MakeFacts) -> None:
    molecules = make_facts(input_kind="graphs", input_shape=(40, 10))
    for asked in ("frozen", "live"):
        found = resolve_setting(setting(batch_norm=asked), molecules)
        assert (found.backbone, found.batch_norm) == ("GIN", "live")
        assert resolve_setting(setting(batch_norm=asked, weights="0" * 64), molecules).batch_norm == asked
        assert resolve_setting(setting(batch_norm=asked), make_facts()).batch_norm == asked


def test_from_scratch_batch_norm_is_live_and_the_search_space_is_that_of_untrained_networks(
    make_facts: MakeFacts, make_plan: MakePlan
) -> None:
    """Frozen at mean 0, variance 1 and with a rate for pretrained weights, such a network would not learn."""
    facts, scratch = make_facts(input_shape=(3, 64, 64)), {"pretrained": False, "backbone": "resnet18"}
    for preset in PRESETS:
        assert resolve_setting(setting(preset, **scratch), facts).batch_norm == "live"
    for learned in ({**scratch, "pretrained": True}, {"backbone": "resnet18", "weights": "0" * 64}):
        assert resolve_setting(setting(**learned), facts).batch_norm == "frozen"
    without = setting(pretrained=False, backbone="test_vit")
    assert resolve_setting(without, facts).batch_norm == "frozen", "it has none, and its runs keep their ids"
    rates = {"ERM": "lr", "DANN": "lr_d", "ADRMX": "lr", "KNN": "lr", "URM": "urm_discriminator_lr"}
    for row, name in rates.items():
        drawn = {}
        for how, traits in ((setting(**scratch), ()), (setting(), ("small_images",))):
            made = make_plan(row, how=how, traits=traits, hparams=4, input_shape=(3, 64, 64))
            drawn[how] = {run.hparams_seed: run.method.hparams[name] for run in made.runs}
        first, second = drawn.values()
        assert first == second, row
    assert make_plan("ERM", how=without).runs[0].method.hparams["lr"] == 1e-3
    small = make_plan("ERM", how=setting(pretrained=False), input_kind="vectors", input_shape=(9,)).runs[0]
    assert small.method.hparams["lr"] == 5e-5, "ours always start so: what they are shown decides"


def test_a_teacher_from_scratch_has_live_batch_norm_too(make_facts: MakeFacts) -> None:
    facts = make_facts(input_shape=(3, 64, 64))
    above = resolve_setting(setting(backbone="SmallCNN", pretrained=False), facts)
    assert above.batch_norm == "frozen"
    assert setting_below({"teacher_backbone": "resnet18"}, facts, above).batch_norm == "live"
    assert setting_below({"teacher_backbone": "test_vit"}, facts, above).batch_norm == "frozen"


def test_statistics_that_nobody_measured_are_not_frozen_on_demand() -> None:
    with pytest.raises(UserError, match="batch norm has no statistics to freeze: leave out batch_norm 'frozen'"):
        setting("domainbed-2024", pretrained=False, batch_norm="frozen")


def test_rows_that_are_shown_more_than_the_input_at_hand_are_noted(make_plan: MakePlan) -> None:
    found = make_plan("ERM", "ARM", "ARM+SWAD", "T3A").provenance.shown
    assert found == {
        "ARM": "the inputs predicted with it, unlabelled",
        "ARM+SWAD": "the inputs predicted with it, unlabelled",
        "T3A": "the inputs before it, unlabelled",
    }


def test_live_batch_norm_on_batches_of_one_is_refused(make_plan: MakePlan) -> None:
    one, live = Overrides(fixed={"batch_size": 1}), setting(batch_norm="live")
    with pytest.raises(UserError) as caught:
        make_plan("ERM", "SAM", hparams=1, how=live, overrides=one)
    assert list(caught.value.problems) == [
        f"{name} with batch_size 1 on Toy: live batch norm takes statistics of each batch, and one example has none. "
        "Add --set batch_size=2"
        for name in ("ERM", "SAM")
    ]
    make_plan("ERM", hparams=1, overrides=one)
    make_plan("ERM", hparams=1, how=live, overrides=Overrides(fixed={"batch_size": 2}))
    make_plan("ERM", hparams=1, how=setting(batch_norm="live", backbone="vit_tiny_patch16_224"), overrides=one)
