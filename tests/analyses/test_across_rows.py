"""Analyses that compare rows: one model of each, of the same trial and draw."""

from __future__ import annotations

from pathlib import Path

import pytest

import dgbench
from dgbench import analyze, cli
from dgbench.core.errors import UserError
from dgbench.core.run import BEST
from dgbench.core.site import Site
from dgbench.execute.models import find_model
from dgbench.launchers.reconcile import Sweep
from tests.support.in_process import CPU, execute, execute_all, sweep_of

FILE = """
from dgbench import Analysis, AnalysisCard

class Lengths(Analysis):
    '''Measure the sum of the weights of each row's model.'''

    card = AnalysisCard(paper="", takes="rows", measures={"first": "of the first", "rest": "of all others"})

    def measure(self, models, data):
        assert [model.row for model in models] == ["SAM", "ERM+SMA", "ERM+DiWA"]
        first, *rest = (float(sum(w.double().sum() for w in m.weights().values())) for m in models)
        yield None, {"first": first, "rest": sum(rest)}

class Pairs(Lengths):
    '''Measure the sum of the weights of two rows' models.'''

    card = AnalysisCard(paper="", takes="rows", models=2, measures={"first": "of the first", "rest": "of all others"})
"""
ROWS = ["SAM", "ERM+SMA", "ERM+DiWA"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    file = tmp_path / "own.py"
    file.write_text(FILE)
    return Site(device="cpu", include=(str(file),), save_models="best")


def weights_of(sweep: Sweep, run: str, predictor: str) -> float:
    saved = find_model(sweep.store.folder(run).path, predictor, BEST)
    return float(sum(tensor.double().sum() for tensor in saved.load(CPU).values()))


def test_one_run_for_each_draw_has_a_model_of_each_row(
    tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {
        "n_hparams": 2,
        "site": site,
        "setting": {"steps": 4, "checkpoint_freq": 3},
        "hparams": {"SMA": {"start": 2}},
    }
    sweep = execute_all(sweep_of(tmp_path / "runs", *(f"{row}+Lengths" for row in ROWS), **asked))
    (place, runs), *others = sweep.plan.analyses.items()
    assert (place, others) == (("SAM, ERM+SMA, ERM+DiWA", "RotatedDigits", "Lengths"), [])
    assert [run.hparams_seed for run in runs] == [0, 1]
    seeds = {run.id: run.hparams_seed for run in sweep.plan.runs}
    for run in runs:
        assert [source.predictor for source in run.inputs] == ["model", "SMA", "model"]
        # The merged model is of both draws, so it is compared in each.
        assert [seeds[source.run] for source in run.inputs] == [run.hparams_seed, run.hparams_seed, 0]
    frame = dgbench.load_results(sweep.root).analyses
    for run in runs:
        found = frame[frame["run"] == run.id].set_index("measure")["value"]
        first, *rest = (weights_of(sweep, source.run, source.predictor) for source in run.inputs)
        assert found["first"] == pytest.approx(first)
        assert found["rest"] == pytest.approx(sum(rest))
    assert (
        cli.run(analyze.main, ["Lengths", str(sweep.root), "--shown", "--rows", *ROWS, "--include", *site.include]) == 0
    )
    assert "Lengths: mean over 2 runs" in capsys.readouterr().out
    # Other rows of the same sweep are another comparison; the first one stays.
    more = sweep_of(tmp_path / "runs", "SAM+Lengths", "ERM+SMA+Lengths", **asked)
    assert [(row, len(found)) for (row, *_), found in more.plan.analyses.items()] == [
        ("SAM, ERM+SMA, ERM+DiWA", 2),
        ("SAM, ERM+SMA", 2),
    ]


def test_unlike_networks_are_refused(tmp_path: Path, site: Site) -> None:
    sweep = sweep_of(tmp_path / "runs", "ERM+Lengths", "MTL+Lengths", site=site, setting={"steps": 2})
    (*trained, compared) = sweep.plan.runs
    assert [execute(sweep, run) for run in trained] == [0, 0]
    assert execute(sweep, compared) == 1
    (failure,) = sweep.store.folder(compared.id).failures()
    why = "Lengths compares weights, and the networks of ERM and MTL are unlike in "
    assert why in str(failure)
    words = ["Lengths", str(sweep.root), "--rows", "ERM", "MTL", "--device", "cpu", "--include", *site.include]
    with pytest.raises(UserError, match=why):
        analyze.main(words)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (["ERM+Lengths"], r"Lengths compares two or more rows, not 1 \(ERM\)"),
        (["ERM+Pairs", "SAM+Pairs", "VREx+Pairs"], r"Pairs compares 2 rows, not 3 \(ERM, SAM, VREx\)"),
    ],
)
def test_rows_that_are_too_few_or_many_are_refused(rows: list[str], why: str, tmp_path: Path, site: Site) -> None:
    with pytest.raises(UserError, match=why):
        sweep_of(tmp_path / "runs", *rows, site=site)


def test_rows_that_differ_in_values_have_lines_of_their_own(tmp_path: Path) -> None:
    rows = [f"SAM:rho={rho}+RowConnectivity" for rho in (0.01, 0.1, 0.5)]
    asked = {
        "setting": {"steps": 2, "checkpoint_freq": 2},
        "hparams": {"RowConnectivity": {"examples": 4, "points": 3}},
    }
    sweep = execute_all(sweep_of(tmp_path, *rows, site=Site(device="cpu", save_models="best"), **asked))
    lines = dgbench.load_results(sweep.root).series("RowConnectivity", "line")["line"]
    assert set(lines) == {
        "SAM:rho=0.01 to SAM:rho=0.1",
        "SAM:rho=0.01 to SAM:rho=0.5",
        "SAM:rho=0.1 to SAM:rho=0.5",
    }
