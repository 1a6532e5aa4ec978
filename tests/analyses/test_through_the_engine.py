"""Every analysis over real runs: what is planned, recorded and read, and that no table changes."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dgbench
from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.core.run import BEST, MODEL
from dgbench.execute.analyze import views_of
from dgbench.execute.batch_norm import inputs_for
from dgbench.execute.context import open_context
from dgbench.execute.models import find_model
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.planfile import read_plan
from dgbench.report.frames import SweepResults
from tests.support.in_process import execute_all, records_of, sweep_of

mpl.use("agg")
from matplotlib import pyplot

CARDS = {name: entry.card for name, entry in Catalogue().of_kind("analysis").items()}
ANALYSES = tuple(CARDS)
SMALL = {
    "Sharpness": {"examples": 40, "m": 20, "steps": 2},
    "Curvature": {"examples": 40, "steps": 3, "draws": 2},
    "Alignment": {"examples": 60, "batch_size": 25},
    "Diversity": {"examples": 60},
    "LayerSharpness": {"examples": 40, "draws": 2},
    "Features": {"examples": 40, "points": 5},
    "HeadHessians": {"examples": 40, "steps": 3, "draws": 4},
    "Landscape": {"examples": 40, "points": 3, "grid": 3, "plane": "hessian", "steps": 2},
    "Landscape3": {"examples": 40, "grid": 3},
    "Connectivity": {"examples": 40, "points": 3, "layer_points": 1},
    "RowConnectivity": {"examples": 40, "points": 3, "layer_points": 1, "lines": 2},
    "StartConnectivity": {"examples": 40, "points": 3},
}
COMPARED = ("ERM", "ERM+SMA", "ERM+DiWA")
"""Rows of which analyses that compare rows get a model each."""


def cards_of(takes: str) -> list[str]:
    """The analyses that take these models."""
    return [name for name, card in CARDS.items() if card.takes == takes]


def place_of(name: str) -> str:
    """The row that an analysis measured, as results name it."""
    return ", ".join(COMPARED) if name in cards_of("rows") else "ERM"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two runs of ERM with all analyses, and one analysis of an average and of a merged model."""
    rows = ["SAM", *(f"ERM+{name}" for name in ANALYSES), "ERM+SMA+Alignment", "ERM+DiWA+Alignment"]
    rows += [f"{row}+{name}" for row in COMPARED[1:] for name in cards_of("rows")]
    return execute_all(
        sweep_of(
            tmp_path_factory.mktemp("analyses"),
            *rows,
            n_hparams=2,
            setting={"steps": 13, "checkpoint_freq": 6},
            hparams=SMALL | {"SMA": {"start": 3}},
        )
    )


@pytest.fixture(scope="module")
def results(sweep: Sweep) -> SweepResults:
    return dgbench.load_results(sweep.root)


@pytest.mark.slow
def test_a_row_is_measured_and_stays_the_row_that_it_was(sweep: Sweep) -> None:
    assert sweep.plan.rows == ("SAM", *dict.fromkeys(["ERM", "ERM+SMA", "ERM+DiWA"]))
    assert {row for row, _ in sweep.plan.candidates} == {*sweep.plan.rows}
    measured = {(row, name): len(runs) for (row, _, name), runs in sweep.plan.analyses.items()}
    expected = {(place_of(name), name): 1 if name in cards_of("trial") else 2 for name in ANALYSES}
    assert measured == expected | {
        ("ERM+SMA", "Alignment"): 2,
        ("ERM+DiWA", "Alignment"): 1,
    }
    table = read_plan(sweep.root)
    assert {place: [table.runs[i].id for i in positions] for place, positions in table.analyses.items()} == {
        place: [run.id for run in runs] for place, runs in sweep.plan.analyses.items()
    }


@pytest.mark.parametrize("name", ANALYSES)
def test_every_measure_of_the_card_is_found_and_is_a_number(name: str, results: SweepResults) -> None:
    frame, card = results.analyses, CARDS[name]
    found = frame[(frame["analysis"] == name) & (frame["row"] == place_of(name))]
    assert {*found["measure"]} == {*card.measures}
    for series, drawn in card.series.items():
        points = results.series(name, series)
        assert {*drawn.labels} <= {*points}
        assert points[list(drawn.values) or [drawn.x, drawn.y]].notna().any().all()
    defined = found[~found["measure"].isin(["ratio_error", "q_statistic"])]
    assert np.isfinite(defined["value"]).all()
    if name == "HeadHessians":
        assert {*found["role"]} == {"held out", "all"}
    elif name != "Alignment":
        assert {*found["role"]} >= {"training", "held out"}


def test_the_alignment_is_that_of_gradients_taken_by_hand(sweep: Sweep) -> None:
    (run, *_) = sweep.plan.analyses["ERM", "RotatedDigits", "Alignment"]
    (source,) = run.inputs
    context = open_context(run, sweep.store, sweep.site, sweep.catalogue, {}, None)
    saved = find_model(sweep.store.folder(source.run).path, MODEL, BEST)
    algorithm = context.algorithm()
    algorithm.load_state_dict(saved.load(context.device), strict=False)
    algorithm.eval()
    (record,) = records_of(sweep.store.folder(run.id))
    assert record["step"] == saved.step
    data, gradients = views_of(context, algorithm), []
    for view in data.training:
        assert context.data.size(view) > 60, "a part of each view is drawn"
        ((x, y),) = data.examples(view, 60, 60)
        loss = F.cross_entropy(algorithm(x), y)
        grads = torch.autograd.grad(loss, [p for p in algorithm.parameters() if p.requires_grad])
        gradients.append(torch.cat([g.flatten() for g in grads]).double())
    inner = [float(a @ b) for i, a in enumerate(gradients) for b in gradients[:i]]
    assert record["measures"]["inner"] == pytest.approx(np.mean(inner), rel=1e-4)


def test_live_batch_norm_is_measured_on_the_first_minibatches(sweep: Sweep) -> None:
    (run, *_) = sweep.plan.analyses["ERM", "RotatedDigits", "Alignment"]
    context = open_context(run, sweep.store, sweep.site, sweep.catalogue, {}, None)
    algorithm: Any = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.LazyLinear(10))
    algorithm.network = SimpleNamespace(prepare=lambda x: x.float())
    inputs = list(islice(inputs_for(algorithm, context.data, context.trained), 3))
    algorithm(inputs[0])
    algorithm.eval()
    weights = dict(algorithm.state_dict())
    measured = views_of(context, algorithm).statistics(weights, 2)
    assert measured["0.running_mean"] == pytest.approx(np.mean([float(x.mean()) for x in inputs[:2]]), rel=1e-5)
    assert measured["2.weight"] is weights["2.weight"]
    assert not algorithm.training


def test_scores_beside_a_measure_are_those_of_the_measured_model(sweep: Sweep, results: SweepResults) -> None:
    frame = results.analyses
    for run in sweep.plan.analyses["ERM+SMA", "RotatedDigits", "Alignment"]:
        line = frame[(frame["run"] == run.id)].iloc[0]
        (source,) = run.inputs
        (record,) = [
            record
            for record in records_of(sweep.store.folder(source.run))
            if record["predictor"] == "SMA" and record["step"] == line["step"]
        ]
        (test,) = run.fold.test
        assert line["out_of_domain"] == record["views"][str(test)]["accuracy"]
        validated = [record["views"][str(view)]["accuracy"] for view in run.fold.validation]
        assert line["in_domain"] == pytest.approx(np.mean(validated))
    assert frame[frame["analysis"] == "Diversity"]["in_domain"].isna().all()


def test_figures_show_the_correlations(results: SweepResults) -> None:
    found = results.agreement()
    axes = results.plot.agreement()
    for one, suffix in zip(axes, ("", "_gap"), strict=True):
        (marks,) = (line for line in one.lines if line.get_gid())
        assert marks.get_xdata() == pytest.approx(found[f"tau{suffix}"].dropna().to_numpy())
    names = (found["analysis"] == "Alignment").sum()  # others measured two runs, of which there is nothing to see
    for figure, lowest in (("measures", 0), ("gaps", -100)):
        axes = getattr(results.plot, figure)()
        assert len(axes) == names
        own = results.analyses
        own = own[(own["analysis"] == "Alignment") & (own["measure"] == "cosine")]
        (shown,) = (one for one in axes if one.get_title() == "cosine")
        points = sorted(x for line in shown.lines for x in line.get_xdata())
        assert points == pytest.approx(sorted(own["value"]))
        assert all(lowest <= y <= 100 for line in shown.lines for y in line.get_ydata())
    pyplot.close("all")


def test_executed_again_an_analysis_finds_the_same(sweep: Sweep, tmp_path: Path) -> None:
    again = execute_all(
        sweep_of(
            tmp_path / "again",
            "ERM+Sharpness",
            n_hparams=2,
            setting={"steps": 13, "checkpoint_freq": 6},
            hparams={"Sharpness": SMALL["Sharpness"]},
        )
    )
    (one, _) = again.plan.analyses["ERM", "RotatedDigits", "Sharpness"]
    (first, _) = sweep.plan.analyses["ERM", "RotatedDigits", "Sharpness"]
    # The runs below differ in the average that watches them, and in nothing else.
    mine, theirs = (records_of(s.store.folder(run.id)) for s, run in ((again, one), (sweep, first)))
    assert mine[0]["views"].keys() == theirs[0]["views"].keys()
    for view, found in mine[0]["views"].items():
        assert found == pytest.approx(theirs[0]["views"][view], rel=1e-6), view


@pytest.mark.parametrize(
    ("row", "n_hparams", "why"),
    [
        ("ERM+Ensemble+Sharpness", 2, "measures the weights of one network, Ensemble has several"),
        ("ERM+T3A+Sharpness", 2, "measures finished weights, which T3A goes on changing"),
        ("ERM+Sharpness+DiWA", 2, "in the wrong order: write"),
        ("ERM+Diversity", 1, "give --n_hparams 2 or more"),
    ],
)
def test_what_can_not_be_measured_is_refused(row: str, n_hparams: int, why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=why):
        sweep_of(tmp_path, row, n_hparams=n_hparams)
