"""Merging and adapting real runs: what is read, what comes out, and what nobody may see."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from dgbench.adaptation.t3a import T3A
from dgbench.core.protocol import View
from dgbench.core.run import BEST, LAST, MODEL, Run
from dgbench.core.site import Site
from dgbench.data.views import ViewData
from dgbench.execute.context import open_context
from dgbench.execute.evaluate import mean_score, predict_view, score, to_float64
from dgbench.execute.models import find_model, predict_with
from dgbench.launchers.reconcile import Sweep
from dgbench.merging.diwa import DiWA
from dgbench.methods.merger import Merged, Tools
from dgbench.report.reader import read_results
from dgbench.report.select import TrainingDomain
from dgbench.report.signature import signature
from dgbench.store import removal
from dgbench.store.lease import INPUT_DAMAGED
from dgbench.store.run_folder import RunFolder
from tests.support.in_process import CPU, execute, execute_all, records_of, runs_of, sweep_of, training_of

ROWS = ("ERM", "ERM+DiWA", "ERM+DiWARestricted", "ERM+EoA", "ERM+T3A", "ERM+DiWA+T3A")
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """All rows over three runs, executed."""
    site = Site(device="cpu", save_models="all", save_predictions="chosen")
    space = {"lr": "{0.001, 0.003, 0.01}"}
    hparams = {"SMA": {"start": 8}}
    root = tmp_path_factory.mktemp("derived")
    found = sweep_of(root, *ROWS, site=site, n_hparams=3, setting={"steps": 30}, space=space, hparams=hparams)
    assert [run.method.name for run in found.plan.runs].count("ERM") == 3
    return execute_all(found)


def folder(sweep: Sweep, run: Run) -> RunFolder:
    return sweep.store.folder(run.id)


def the(sweep: Sweep, method: str) -> Run:
    (run,) = runs_of(sweep, method)
    return run


def saved(sweep: Sweep, run: Run, predictor: str = MODEL, which: str = BEST) -> Weights:
    return find_model(folder(sweep, run).path, predictor, which).load(CPU)


def predictions(sweep: Sweep, run: Run) -> dict[str, Tensor]:
    """View -> the logits that were kept."""
    content = load_file(folder(sweep, run).path / "predictions" / "model.last.safetensors")
    return {name.removesuffix("/logits"): value for name, value in content.items() if name.endswith("/logits")}


def logits_by(sweep: Sweep, weights: Weights) -> dict[str, Tensor]:
    """View -> the logits of those weights."""
    training = training_of(sweep, runs_of(sweep, "ERM")[0])
    predict = predict_with(training.algorithm, weights)
    return {str(view): predict_view(predict, training.data, view, CPU) for view in training.run.fold.evaluated}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def pooled(record: dict[str, Any], run: Run) -> float:
    """Share of right answers over all training domains' `out` parts together."""
    views = [record["views"][str(view)] for view in run.fold.source_val]
    return float(sum(v["accuracy"] * v["n"] for v in views) / sum(v["n"] for v in views))


# -- merging ------------------------------------------------------------------------------------------------------


def test_diwa_is_the_mean_of_the_members_best_weights(sweep: Sweep) -> None:
    members = [saved(sweep, run) for run in runs_of(sweep, "ERM")]
    merged = the(sweep, "DiWA")
    assert [source.run for source in merged.inputs] == [run.id for run in runs_of(sweep, "ERM")]
    weights = saved(sweep, merged)
    assert weights.keys() == members[0].keys()
    for name, tensor in weights.items():
        mean = torch.stack([member[name].double() for member in members]).mean(0)
        assert torch.allclose(tensor.double(), mean, rtol=0, atol=1e-6), name
    assert not torch.equal(members[0]["network.classifier.weight"], members[1]["network.classifier.weight"])
    assert same(weights, saved(sweep, merged, which=LAST))
    assert same(predictions(sweep, merged), logits_by(sweep, weights))
    (record,) = records_of(folder(sweep, merged))
    assert (record["step"], record["predictor"]) == (29, MODEL)
    assert record["members"] == [run.id for run in runs_of(sweep, "ERM")]
    kept = [find_model(folder(sweep, run).path, MODEL, BEST).accuracy for run in runs_of(sweep, "ERM")]
    expected = sum(kept) / len(kept) - mean_score(record["views"], runs_of(sweep, "DiWA")[0].validation)
    assert record["barrier"] == pytest.approx(expected, abs=1e-12)
    assert abs(record["barrier"]) > 1e-6
    assert set(record["views"]) == {str(view) for view in merged.fold.evaluated}


def test_the_restricted_mean_is_never_worse_on_the_training_domains_than_its_best_member(sweep: Sweep) -> None:
    merged = the(sweep, "DiWARestricted")
    best = max(
        (find_model(folder(sweep, run).path, MODEL, BEST).accuracy, -i, run)
        for i, run in enumerate(runs_of(sweep, "ERM"))
    )[2]
    step = find_model(folder(sweep, best).path, MODEL, BEST).step
    (members,) = (record for record in records_of(folder(sweep, best), MODEL) if record["step"] == step)
    (record,) = records_of(folder(sweep, merged))
    assert pooled(record, merged) >= pooled(members, merged)


def test_eoa_is_the_mean_of_the_members_logits(sweep: Sweep) -> None:
    ensemble = the(sweep, "EoA")
    runs = runs_of(sweep, "ERM")
    assert [(source.run, source.predictor) for source in ensemble.inputs] == [(run.id, "SMA") for run in runs]
    members = [logits_by(sweep, saved(sweep, run, "SMA")) for run in runs]
    for view, logits in predictions(sweep, ensemble).items():
        mean = torch.stack([member[view].double() for member in members]).mean(0)
        assert torch.allclose(logits.double(), mean, rtol=0, atol=1e-5), view
    (record,) = records_of(folder(sweep, ensemble))
    assert record["members"] == [run.id for run in runs]


def test_an_ensemble_whose_logits_are_too_many_to_hold_is_the_same(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(sweep, tmp_path)
    ensemble, held = the(copy, "EoA"), 16 * 10
    before, logits = records_of(folder(copy, ensemble)), predictions(copy, ensemble)
    for module in ("derived", "evaluate"):
        monkeypatch.setattr(f"dgbench.execute.{module}.HELD", held)
    sizes: list[int] = []
    monkeypatch.setattr("dgbench.execute.derived.to_float64", lambda z: sizes.append(z.numel()) or to_float64(z))
    again(copy, ensemble)
    assert max(sizes) == held
    (record,), (expected,) = records_of(folder(copy, ensemble)), before
    assert record["members"] == expected["members"]
    for view, scores in record["views"].items():
        assert scores == pytest.approx(expected["views"][view], rel=1e-6)
    for view, found in predictions(copy, ensemble).items():
        torch.testing.assert_close(found, logits[view], rtol=1e-6, atol=1e-6)


def test_a_mergers_score_is_the_pooled_accuracy_of_the_training_domains(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(sweep, tmp_path)
    scores: list[float] = []

    def merge(self: DiWA, members: Sequence[Any], tools: Tools) -> Weights:
        weights: Weights = members[0].load()
        scores.append(tools.score(weights))
        return weights

    monkeypatch.setattr(DiWA, "merge", merge)
    merged = the(copy, "DiWA")
    again(copy, merged)
    (record,) = records_of(folder(copy, merged))
    assert scores == [pytest.approx(pooled(record, merged), rel=1e-12)]


def test_what_a_merger_has_scored_is_not_scored_again_for_the_records(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three members join a mean one after the other: three models, of which the best is recorded."""
    copy = dataclasses.replace(copied(sweep, tmp_path), site=Site(device="cpu"))
    merged, scored = the(copy, "DiWARestricted"), Counter[View]()
    before = (folder(copy, merged).path / "records.jsonl").read_bytes()
    monkeypatch.setattr(
        "dgbench.execute.evaluate.score",
        lambda batches, data, view: scored.update([view]) or score(batches, data, view),
    )
    again(copy, merged)
    assert (folder(copy, merged).path / "records.jsonl").read_bytes() == before, "where logits were saved"
    assert scored == {view: 3 if view in merged.validation else 1 for view in merged.views}


@pytest.mark.parametrize(("choices", "steps"), [(3, [27, 28, 29]), (40, list(range(40)))])
def test_candidates_are_recorded_one_by_one_up_to_the_last_step(
    choices: int, steps: list[int], sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next is made once the one before is recorded; where there are more than steps, they begin at step 0."""
    copy = copied(sweep, tmp_path)
    merged = the(copy, "DiWA")

    def candidates(self: DiWA, members: Sequence[Any], tools: Tools) -> Iterator[Merged]:
        for i in range(choices):
            assert i == 0 or len(records_of(folder(copy, merged))) == i
            yield Merged(members[1 - i % 2].load(), members[1 - i % 2 :][:1], {"number": i})

    monkeypatch.setattr(DiWA, "choices", choices)
    monkeypatch.setattr(DiWA, "candidates", candidates)
    again(copy, merged)
    records = records_of(folder(copy, merged))
    assert [record["step"] for record in records] == steps
    assert [record["number"] for record in records] == list(range(choices))
    one, other = (run.id for run in runs_of(copy, "ERM")[:2])
    assert [record["members"] for record in records[:2]] == [[other], [one]]
    scores = [
        np.mean([record["views"][str(view)]["accuracy"] for view in merged.fold.source_val]) for record in records
    ]
    best, last = (find_model(folder(copy, merged).path, MODEL, which) for which in (BEST, LAST))
    assert (best.step, best.accuracy) == (steps[int(np.argmax(scores))], max(scores))
    assert (last.step, last.accuracy) == (steps[-1], scores[-1])


# -- adapting -----------------------------------------------------------------------------------------------------


def copied(sweep: Sweep, root: Path) -> Sweep:
    """The same sweep in a folder that may be damaged."""
    shutil.copytree(sweep.root, root, dirs_exist_ok=True)
    return dataclasses.replace(sweep, root=root)


def again(sweep: Sweep, run: Run) -> None:
    assert removal.reset(folder(sweep, run), done_too=True)
    assert execute(sweep, run) == 0


def adapted(sweep: Sweep) -> Run:
    """The T3A run over the first trained model."""
    first = runs_of(sweep, "ERM")[0].id
    (run,) = (run for run in runs_of(sweep, "T3A") if run.inputs[0].run == first)
    return run


def test_the_best_and_the_last_model_are_adapted(sweep: Sweep) -> None:
    steps = set()
    for run in runs_of(sweep, "T3A"):
        source = sweep.store.folder(run.inputs[0].run).path
        expected = sorted({find_model(source, MODEL, which).step for which in (BEST, LAST)})
        assert [record["step"] for record in records_of(folder(sweep, run))] == expected
        steps.add(len(expected))
    assert steps == {1, 2}, "some run's best is its last"


def test_tables_say_that_an_adapter_has_these_two_alone(sweep: Sweep) -> None:
    told = signature(read_results(sweep.root), TrainingDomain(), ["RotatedDigits"])["evaluated steps"]
    merged = "1 (ERM+DiWA, ERM+DiWARestricted, ERM+EoA)"
    adapted = "1-2: best model and last (ERM+T3A); 1: best model, which is the last (ERM+DiWA+T3A)"
    assert told == f"6 (ERM); {merged}; {adapted}"


def test_tables_know_which_models_are_adapted(sweep: Sweep) -> None:
    results = read_results(sweep.root)
    found = {
        row: {one.adapted for spot in results.candidates[row, "RotatedDigits"].values() for one in spot.values()}  # type: ignore[union-attr]
        for row in ROWS
    }
    assert found == {row: {row.endswith("T3A")} for row in ROWS}


def test_each_view_is_shown_once_in_a_seeded_order_to_an_adapter_of_its_own(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(sweep, tmp_path)
    run = adapted(copy)
    shown: list[tuple[int, int, list[int], Tensor]] = []
    make, predict, inputs = T3A.__init__, T3A.predict, ViewData.inputs
    alive: list[T3A] = []
    positions: list[int] = []

    def made(self: T3A, network: Any, hparams: Any) -> None:
        alive.append(self)
        make(self, network, hparams)

    def asked(self: ViewData, view: View, at: NDArray[np.int64]) -> Tensor:
        positions[:] = at.tolist()
        return inputs(self, view, at)

    def seen(self: T3A, x: Tensor) -> Tensor:
        shown.append((alive.index(self), id(self.network), list(positions), x.clone()))
        return predict(self, x)

    monkeypatch.setattr(T3A, "__init__", made)
    monkeypatch.setattr(T3A, "predict", seen)
    monkeypatch.setattr(ViewData, "inputs", asked)
    again(copy, run)
    records = len(records_of(folder(copy, run)))
    assert len(alive) == records * len(run.fold.evaluated)
    assert len({network for _, network, _, _ in shown}) == len(alive), "networks of their own"
    data = training_of(copy, runs_of(copy, "ERM")[0]).data
    for number in range(len(alive)):
        view = run.fold.evaluated[number % len(run.fold.evaluated)]
        order = [at for who, _, batch, _ in shown if who == number for at in batch]
        assert sorted(order) == list(range(data.size(view))) != order
        sizes = [len(batch) for who, _, batch, _ in shown if who == number]
        assert set(sizes[:-1]) == {32}
    first = list(shown)
    shown.clear()
    alive.clear()
    again(copy, run)
    assert [batch for _, _, batch, _ in shown] == [batch for _, _, batch, _ in first]
    assert all(torch.equal(a[3], b[3]) for a, b in zip(shown, first, strict=True))
    monkeypatch.undo()
    assert same(predictions(copy, run), predictions(sweep, run))


def test_labels_decide_nothing_that_an_adapter_says(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(sweep, tmp_path)
    run = adapted(copy)
    monkeypatch.setattr(ViewData, "labels", lambda self, view: np.zeros(self.size(view), np.int64))
    again(copy, run)
    assert same(predictions(copy, run), predictions(sweep, run))
    assert records_of(folder(copy, run)) != records_of(folder(sweep, run))


def test_a_merged_model_can_be_adapted(sweep: Sweep) -> None:
    merged = the(sweep, "DiWA")
    (run,) = (run for run in runs_of(sweep, "T3A") if run.inputs[0].run == merged.id)
    (record,) = records_of(folder(sweep, run))
    assert record["step"] == 29
    views = {view: logits.argmax(1) for view, logits in predictions(sweep, run).items()}
    plain = {view: logits.argmax(1) for view, logits in predictions(sweep, merged).items()}
    agreement = np.mean([(views[view] == plain[view]).double().mean().item() for view in views])
    others = predictions(sweep, runs_of(sweep, "ERM")[0])
    strangers = np.mean([(views[view] == others[view].argmax(1)).double().mean().item() for view in views])
    assert agreement > strangers, "it is the merged model that was adapted, not a member"


def test_training_views_are_evaluated_where_the_setting_says_so(tmp_path: Path) -> None:
    site = Site(device="cpu", save_models="all")
    sweep = execute_all(
        sweep_of(tmp_path, "DiWA", "T3A", "EoA", n_hparams=2, site=site, setting={"steps": 4, "evaluate": "all"})
    )
    for run in sweep.plan.runs:
        for record in records_of(folder(sweep, run)):
            assert set(record["views"]) == {str(view) for view in (*run.fold.evaluated, *run.fold.train)}, run.name


@pytest.mark.parametrize("preset", ["dgbench", "domainbed-2020"])
def test_what_stands_on_a_run_reads_the_data_of_that_run(preset: str, tmp_path: Path) -> None:
    """Under DomainBed's presets each run deals digits of its own; of others the model has seen some, with labels."""
    rows = ("ERM+T3A", "ERM+WiSEFT", "ERM+WiSEFT+T3A")
    sweep = sweep_of(tmp_path, *rows, n_hparams=2, preset=preset)
    for run in sweep.plan.runs:
        sweep.store.folder(run.id).create(run)

    def images(run: Run, views: Sequence[View]) -> set[bytes]:
        data = open_context(run, sweep.store, sweep.site, sweep.catalogue).data
        return {one.numpy().tobytes() for v in views for one in data.inputs(v, np.arange(data.size(v)))}

    derived = [run for run in sweep.plan.runs if run.kind != "train"]
    assert len(derived) == 6
    for run in derived:
        trained = open_context(run, sweep.store, sweep.site, sweep.catalogue).trained
        assert trained.hparams_seed == run.hparams_seed
        for view in (*run.fold.evaluated, *run.fold.train):
            assert images(run, [view]) == images(trained, [view]), (run.name, view)


# -- what is gone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "predictor"), [("DiWA", "model"), ("EoA", "SMA"), ("T3A", "model")])
def test_a_missing_members_weights_are_a_failure_that_says_what_to_do(
    method: str, predictor: str, sweep: Sweep, tmp_path: Path
) -> None:
    copy = copied(sweep, tmp_path)
    run = runs_of(copy, method)[0]
    source = copy.store.folder(run.inputs[0].run)
    shutil.rmtree(source.path / "models")
    assert removal.reset(folder(copy, run), done_too=True)
    assert execute(copy, run) == 1
    (failure,) = folder(copy, run).failures()
    assert failure["error"].startswith(f"FileNotFoundError: {source.path}/models/{predictor}.best.safetensors is gone")
    assert "`dgbench sweep retry` trains that run again" in failure["error"]
    copy.write()
    assert source.summary() is None, "what it says is true: the run is to be trained again"


@pytest.mark.parametrize(("method", "predictor"), [("DiWA", "model"), ("EoA", "SMA"), ("T3A", "model")])
def test_a_damaged_members_weights_have_it_made_again(
    method: str, predictor: str, sweep: Sweep, tmp_path: Path
) -> None:
    copy = copied(sweep, tmp_path)
    run = runs_of(copy, method)[0]
    source = copy.store.folder(run.inputs[0].run)
    records = {id: (copy.store.folder(id).path / "records.jsonl").read_bytes() for id in (run.id, source.id)}
    path = source.path / "models" / f"{predictor}.best.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    assert removal.reset(folder(copy, run), done_too=True)
    assert execute(copy, run) == INPUT_DAMAGED
    assert folder(copy, run).failures() == []
    assert folder(copy, run).summary() is None
    assert source.summary() is None
    assert [loss["why"] for loss in source.restarts()] == [f"{path} is not what was written"]
    (trained,) = (other for other in copy.plan.runs if other.id == source.id)
    assert [execute(copy, trained), execute(copy, run)] == [0, 0]
    assert records == {id: (copy.store.folder(id).path / "records.jsonl").read_bytes() for id in records}


def test_what_needs_what_is_gone_is_made_again_however_far_below(sweep: Sweep, tmp_path: Path) -> None:
    copy = copied(sweep, tmp_path)
    merged = the(copy, "DiWA")
    for run in (*runs_of(copy, "ERM"), merged):
        shutil.rmtree(folder(copy, run).path / "models")
    (top,) = (run for run in runs_of(copy, "T3A") if run.inputs[0].run == merged.id)
    assert removal.reset(folder(copy, top), done_too=True)
    copy.write()
    assert [folder(copy, run).summary() for run in (*runs_of(copy, "ERM"), merged)] == [None] * 4
    assert folder(copy, the(copy, "EoA")).summary() is not None, "nobody needs it"


def kept(sweep: Sweep, run: Run) -> set[str]:
    """Which models a run keeps."""
    return {path.name.removesuffix(".safetensors") for path in (folder(sweep, run).path / "models").glob("*")}


def test_only_what_is_read_is_kept_and_what_is_read_later_is_made_again(tmp_path: Path) -> None:
    few: dict[str, Any] = {"n_hparams": 2, "setting": {"steps": 4}}
    sweep = execute_all(sweep_of(tmp_path, "ERM+DiWA", "SAM+DiWA+T3A", **few))
    (adapted,) = runs_of(sweep, "T3A")
    for run in sweep.plan.runs:
        expected = {"model.best"} if run.kind == "train" else set()
        if run.id == adapted.inputs[0].run:
            expected = {"model.best", "model.last"}
        assert kept(sweep, run) == expected, run.name
    more = sweep_of(tmp_path, "ERM+T3A", **few)
    again = [run for run in more.plan.runs if folder(more, run).summary() is None]
    assert [run.method.name for run in again] == ["ERM"] * 2 + ["T3A"] * 2, "an adapter reads the last ones too"
    for run in again:
        assert execute(more, run) == 0
    assert [kept(more, run) for run in runs_of(more, "ERM")] == [{"model.best", "model.last"}] * 2


def test_a_finished_sweep_needs_no_weights(sweep: Sweep, tmp_path: Path) -> None:
    copy = copied(sweep, tmp_path)
    for run in copy.plan.runs:
        shutil.rmtree(folder(copy, run).path / "models", ignore_errors=True)
    copy.write()
    assert all(folder(copy, run).summary() is not None for run in copy.plan.runs)
