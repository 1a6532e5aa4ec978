"""Rows that train low-rank changes of a tiny CLIP: outside of training, their models are those of the plain network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dgbench.core.errors import UserError
from dgbench.core.run import BEST, LAST, MODEL
from dgbench.core.setting import setting, stored_fields
from dgbench.core.site import Site
from dgbench.execute.context import open_context
from dgbench.execute.evaluate import predict_batches, score_views
from dgbench.execute.job import describe_network
from dgbench.execute.kept import load_kept_model
from dgbench.execute.models import find_model, predict_with, predictor_weights
from dgbench.launchers.reconcile import Sweep
from dgbench.methods.average import Weights
from dgbench.store.run_folder import RunFolder
from tests.support.in_process import CPU, execute_all, records_of, runs_of, sweep_of, train, training_of
from tests.support.tiny_clip import save_clip

pytest.importorskip("open_clip", reason="extra `clip` is not installed")
pytest.importorskip("peft", reason="extra `lora` is not installed")
RANK = 2
ROWS = (
    *("ZeroShot", "ERM", "ERM+SMA", "ERM+WiSEFT", "ERM+DiWA", "ERM+T3A"),
    *("CLIPood+BMA", "KD", "ERM+Curvature"),
)


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_clip(tmp_path_factory.mktemp("clip"))


def planned(root: Path, name: str, *rows: str, more: Mapping[str, Any] | None = None) -> Sweep:
    """A sweep of low-rank changes from the zero-shot head, as fast as they must learn in a few steps."""
    start = {"backbone": name, "classifier_init": "zero_shot", "image_size": 16, "lora_rank": RANK}
    return sweep_of(
        root,
        *rows,
        site=Site(device="cpu", save_models="all"),
        n_hparams=2,
        setting={**start, "steps": 5, "checkpoint_freq": 2},
        hparams={"lr": 3e-2, "SMA": {"start": 2}, **(more or {})},
    )


@pytest.fixture(scope="module")
def sweep(name: str, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    curvature = {"examples": 8, "steps": 2, "draws": 2}
    more = {"WiSEFT": {"points": 3}, "KD": {"teacher": "ERM"}, "Curvature": curvature}
    return execute_all(planned(tmp_path_factory.mktemp("sweep"), name, *ROWS, more=more))


def folder(sweep: Sweep, method: str) -> RunFolder:
    return sweep.store.folder(runs_of(sweep, method)[0].id)


def weights(sweep: Sweep, method: str, predictor: str = MODEL, which: str = BEST) -> Weights:
    return find_model(folder(sweep, method).path, predictor, which).load(CPU)


def test_models_differ_from_the_start_by_low_rank_in_the_layers_that_change_alone(sweep: Sweep) -> None:
    start = weights(sweep, "ZeroShot")
    for method in ("ERM", "CLIPood", "KD"):
        tuned, changed = weights(sweep, method, which=LAST), set()
        assert tuned.keys() == start.keys(), "the names of the plain network"
        for name, before in start.items():
            if name.startswith("network.featurizer") and not torch.equal(tuned[name], before):
                size = torch.linalg.svdvals((tuned[name] - before).double())
                assert size[RANK] < 1e-5 * size[0], name
                changed.add(name.partition("resblocks.")[2].partition(".")[2])
        assert changed == {f"{end}weight" for end in ("attn.in_proj_", "attn.out_proj.", "mlp.c_fc.", "mlp.c_proj.")}


@pytest.mark.parametrize(("method", "predictor"), [("ERM", MODEL), ("ERM", "SMA"), ("DiWA", MODEL), ("CLIPood", "BMA")])
def test_saved_weights_in_the_plain_network_score_as_recorded(method: str, predictor: str, sweep: Sweep) -> None:
    run, saved = runs_of(sweep, method)[0], find_model(folder(sweep, method).path, predictor, LAST)
    context = open_context(run, sweep.store, sweep.site, sweep.catalogue)
    algorithm = context.algorithm()
    assert not [part for part, _ in algorithm.named_parameters() if "lora" in part]
    predict = predict_with(algorithm, saved.load(CPU))
    found = score_views(partial(predict_batches, predict, context.data, device=CPU), context.data, run.views)
    (record,) = (r for r in records_of(folder(sweep, method), predictor) if r["step"] == saved.step)
    assert found == record["views"], "to the last digit"
    model = load_kept_model(sweep.store.root, run.id, sweep.site, predictor, LAST)
    (view,) = run.fold.test
    inputs = context.data.inputs(view, np.arange(context.data.size(view)))
    labels = [model.classes[label] for label in context.data.labels(view)]
    right = [one == label for one, label in zip(model.predict(inputs).predicted, labels, strict=True)]
    assert np.mean(right) == record["views"][str(view)]["accuracy"]


def test_averages_and_mergers_take_means_of_the_sums(sweep: Sweep) -> None:
    members = [find_model(sweep.store.folder(run.id).path, MODEL, BEST).load(CPU) for run in runs_of(sweep, "ERM")]
    merged, name = weights(sweep, "DiWA"), "network.featurizer.visual.transformer.resblocks.0.mlp.c_fc.weight"
    torch.testing.assert_close(merged[name], (members[0][name] + members[1][name]) / 2)
    change = merged[name] - weights(sweep, "ZeroShot")[name]
    assert torch.linalg.matrix_rank(change, rtol=1e-4) > RANK, "a mean of changes has a higher rank"


def test_wise_ft_begins_with_zero_shot(sweep: Sweep) -> None:
    first, *_ = records_of(folder(sweep, "WiSEFT"), MODEL)
    assert first["alpha"] == 0
    assert first["views"] == records_of(folder(sweep, "ZeroShot"), MODEL)[0]["views"]


def test_a_network_is_described_as_the_plain_one(sweep: Sweep) -> None:
    run = runs_of(sweep, "ERM")[0]
    context = open_context(run, sweep.store, sweep.site, sweep.catalogue)
    assert describe_network(context.algorithm(train=True)) == describe_network(context.algorithm())


def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(name: str, tmp_path: Path) -> None:
    found = []
    for stops in ((), (1, 2, 4)):
        made = planned(tmp_path / str(len(stops)), name, "ERM", "ERM+SMA", "ERM+SWAD")
        keep = dict.fromkeys((MODEL, "SMA", "SWAD"), (BEST, LAST))
        for stop_after in stops:
            assert train(training_of(made, made.plan.runs[0], keep), stop_after)
        training = training_of(made, made.plan.runs[0], keep)
        assert not train(training)
        models = {
            path.name: find_model(training.folder.path, *path.name.split(".")[:2]).load(CPU)
            for path in (training.folder.path / "models").iterdir()
        }
        found.append((records_of(training.folder), models))
    assert found[0][0] == found[1][0]
    for model, tensors in found[0][1].items():
        assert all(torch.equal(tensor, found[1][1][model][part]) for part, tensor in tensors.items()), model


def test_a_checkpoint_lacks_the_weights_that_stay(name: str, tmp_path: Path) -> None:
    made = planned(tmp_path, name, "ERM", "ERM+SMA")
    state = training_of(made, made.plan.runs[0]).algorithm.training_state()["module"]
    assert [part for part in state if part.endswith("lora_A")]
    assert not [part for part in state if part.endswith("original")]


def test_averages_see_the_sums_after_each_step(name: str, tmp_path: Path) -> None:
    made = planned(tmp_path, name, "ERM", "ERM+SMA")
    training = training_of(made, made.plan.runs[0])
    seen: list[Weights] = []
    step = training.algorithm.logged_update

    def stepped(*batches: Any) -> Any:
        logged = step(*batches)
        seen.append({part: tensor.detach().clone() for part, tensor in predictor_weights(training.algorithm).items()})
        return logged

    training.algorithm.logged_update = stepped  # type: ignore[method-assign]
    assert not train(training)
    average = training.averages["SMA"].weights()
    part = "network.featurizer.visual.transformer.resblocks.1.attn.in_proj_weight"
    assert average
    means = [torch.stack([one[part] for one in seen[first:]]).mean(0) for first in range(len(seen))]
    assert any(torch.allclose(average[part], mean, atol=1e-6) for mean in means)
    assert not torch.allclose(seen[0][part], seen[-1][part], atol=1e-3)


def test_ids_of_runs_without_it_are_what_they_were() -> None:
    assert not [field for field in stored_fields(setting()) if field.startswith("lora")]
    assert stored_fields(setting(lora_rank=RANK))["lora_rank"] == RANK


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["QTDoG", "GAQAT"], "QTDoG can't be trained with a lora_rank: it saves weights of few bits"),
        (["ERMPlusPlus"], "ERMPlusPlus can't be trained with a lora_rank: it averages the parameters"),
        (["MESA"], "MESA can't be trained with a lora_rank"),
        (["DCA"], "DCA can't be trained with a lora_rank: it trains copies of each layer's weights"),
        (["SAMON"], "SAMON can't be trained with a lora_rank: it displaces normalization layers"),
        (["ERM+SwitchEMA"], "SwitchEMA sets the weights .* and the mean of weights of lora_rank 2 has a higher rank"),
    ],
)
def test_methods_that_need_the_weights_themselves_are_refused(rows: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        sweep_of(tmp_path, *rows, setting={"lora_rank": RANK})
    if rows == ["SAMON"]:
        with pytest.raises(UserError, match="ASAM with displaced 'norms' can't be trained with a lora_rank"):
            sweep_of(tmp_path, "ASAM", setting={"lora_rank": RANK}, hparams={"ASAM": {"displaced": "norms"}})
        assert sweep_of(tmp_path, "ASAM", setting={"lora_rank": RANK}).plan.runs
