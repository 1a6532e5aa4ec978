"""Rows of CLIP through the engine, on a tiny CLIP made on the spot: what starts where, and what is a run of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dgbench.core.errors import UserError
from dgbench.core.run import BEST, MODEL
from dgbench.core.site import Site
from dgbench.execute.models import find_model
from dgbench.launchers.reconcile import Sweep
from dgbench.methods.average import Weights
from dgbench.report.reader import read_results
from dgbench.report.select import Rated
from dgbench.report.selectors import SELECTORS
from tests.support.in_process import CPU, execute_all, records_of, runs_of, sweep_of
from tests.support.tiny_clip import save_clip

pytest.importorskip("open_clip", reason="extra `clip` is not installed")
ROWS = ("ZeroShot", "LinearProbe", "LPFT", "ERM", "ERM+WiSEFT", "CLIPood+BMA", "CoOp")


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def sweep(name: str, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """All rows over two draws, fine-tuned from the zero-shot head."""
    how = {"backbone": name, "classifier_init": "zero_shot", "steps": 4, "checkpoint_freq": 3, "image_size": 16}
    site = Site(device="cpu", save_models=True)
    root = tmp_path_factory.mktemp("sweep")
    return execute_all(
        sweep_of(
            root,
            *ROWS,
            site=site,
            n_hparams=2,
            setting=how,
            hparams={"WiSEFT": {"points": 3}, "CoOp": {"context_tokens": 4}},
        )
    )


def records(sweep: Sweep, name: str) -> list[dict[str, Any]]:
    return records_of(sweep.store.folder(runs_of(sweep, name)[0].id), MODEL)


def weights(sweep: Sweep, name: str) -> Weights:
    return find_model(sweep.store.folder(runs_of(sweep, name)[0].id).path, MODEL, BEST).load(CPU)


def test_what_never_learns_is_one_run_of_one_step(sweep: Sweep) -> None:
    assert [len(runs_of(sweep, name)) for name in ("ZeroShot", "LinearProbe", "LPFT", "ERM")] == [1, 1, 2, 2]
    for name in ("ZeroShot", "LinearProbe"):
        (run,) = runs_of(sweep, name)
        assert (run.setting.steps, run.setting.evaluation_steps) == (1, (0,))
        assert [record["step"] for record in records(sweep, name)] == [0]


def test_each_row_starts_as_its_card_says(sweep: Sweep) -> None:
    starts = {
        name: runs_of(sweep, name)[0].setting.classifier_init for name in ("ZeroShot", "LinearProbe", "LPFT", "ERM")
    }
    assert starts == {
        "ZeroShot": "zero_shot",
        "LinearProbe": "linear_probe",
        "LPFT": "linear_probe",
        "ERM": "zero_shot",
    }
    zero, probe = weights(sweep, "ZeroShot"), weights(sweep, "LinearProbe")
    head = "network.classifier.weight"
    assert all(
        torch.equal(tensor, probe[name]) is not name.startswith("network.classifier") for name, tensor in zero.items()
    )
    assert torch.allclose(zero[head].norm(dim=1), torch.tensor(1 / 0.07)), "the scale of CLIP's logits"
    assert not zero["network.classifier.bias"].any()


def test_wise_ft_begins_with_zero_shot(sweep: Sweep) -> None:
    first, *_, last = records(sweep, "WiSEFT")
    assert (first["alpha"], last["alpha"]) == (0, 0.5)
    assert first["views"] == records(sweep, "ZeroShot")[0]["views"]


def test_clipood_keeps_the_names_and_averages_what_it_trained(sweep: Sweep) -> None:
    zero, tuned = weights(sweep, "ZeroShot"), weights(sweep, "CLIPood")
    assert all(
        torch.equal(tensor, tuned[name]) is name.startswith("network.classifier") for name, tensor in zero.items()
    )
    run = runs_of(sweep, "CLIPood")[0]
    average = find_model(sweep.store.folder(run.id).path, "BMA", BEST).load(CPU)
    assert not torch.equal(average["network.featurizer.visual.proj"], tuned["network.featurizer.visual.proj"])


def test_a_model_of_coop_is_the_image_tower_and_a_linear_classifier(sweep: Sweep) -> None:
    zero, learned = weights(sweep, "ZeroShot"), weights(sweep, "CoOp")
    assert zero.keys() == learned.keys()
    assert all(torch.equal(t, learned[name]) is (name != "network.classifier.weight") for name, t in zero.items())


def test_every_row_is_chosen_and_scored(sweep: Sweep) -> None:
    results = read_results(sweep.store.root)
    for row in ROWS:
        run = sweep.plan.candidates[row, "RotatedDigits"][0].run
        for selector in ("training-domain", "oracle"):
            assert isinstance(SELECTORS[selector].rate(results, row, "RotatedDigits", 0, 0, run.hparams_seed), Rated)


@pytest.mark.parametrize(
    ("rows", "setting", "message"),
    [
        (["ZeroShot"], {}, "ZeroShot needs images and a backbone of CLIP"),
        (["ERM"], {"classifier_init": "zero_shot"}, "names of classes are read by a CLIP's text tower"),
        (["ZeroShot"], {"pretrained": False}, "needs CLIP's weights, and pretrained is false"),
        (["LPFT"], {"nonlinear_classifier": True}, "LPFT needs a linear classifier"),
    ],
)
def test_what_lacks_a_text_tower_is_refused(
    rows: list[str], setting: dict[str, Any], message: str, name: str, tmp_path: Path
) -> None:
    backbone = {"backbone": name} if "pretrained" in setting else {}
    with pytest.raises(UserError, match=message):
        sweep_of(tmp_path, *rows, setting=setting | backbone)
