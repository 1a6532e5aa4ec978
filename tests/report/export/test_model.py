"""One chosen model as a folder: it predicts without dgbench as its table says, or the reason against it is named."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from dgbench import load_results, predict, predictions
from dgbench.__main__ import dispatch
from dgbench.core.errors import UserError
from dgbench.core.site import Site
from dgbench.execute.kept import load_kept_model
from dgbench.export import main
from dgbench.launchers.reconcile import Sweep
from dgbench.models.exported import read_about
from dgbench.models.loading import load_exported
from dgbench.models.ready import ReadyModel
from dgbench.report.export.model.hub import push
from tests.support.in_process import execute_all, runs_of, sweep_of
from tests.support.shapes import CLASSES, make_shapes

SITE = Site(device="cpu", save_models="all", save_predictions="chosen")
SETTING = {"backbone": "test_vit", "pretrained": False, "image_size": 32, "steps": 12, "checkpoint_freq": 4}
WITHOUT_DGBENCH = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dgbench":
            raise ImportError(f"{name} is not for this test")

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "shapes", each=5)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Sweep:
    rows = ("ERM", "ERM+SMA", "KNN", "ERM+T3A", "DANN+Ensemble")
    values = {"batch_size": 8, "lr": 1e-3, "SMA": {"start": 2}, "KNN": {"queue_size": 40, "k": 3}}
    asked = {"datasets": [f"folder:{data}"], "test_envs": ["noisy"], "single_test_envs": True, "n_hparams": 2}
    root = tmp_path_factory.mktemp("sweep") / "s"
    return execute_all(sweep_of(root, *rows, site=SITE, **asked, setting=SETTING, hparams=values))


@pytest.fixture(scope="module")
def exported(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ERM in every form."""
    return export(sweep, tmp_path_factory.mktemp("erm") / "model", "ERM", "--onnx", "--torch_export")


def export(sweep: Sweep, target: Path, row: str, *more: str) -> Path:
    words = [str(sweep.root), "--format", "model", "--row", row, "--selector", "training-domain", "-o", str(target)]
    assert main([*words, *more]) == 0
    return target


def refusal(sweep: Sweep, target: Path, *words: str) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        main([str(sweep.root), "--format", "model", "-o", str(target / "none"), *words])
    assert list(target.iterdir()) == [], "nothing is left behind"
    return caught.value.problems


@pytest.mark.parametrize(("row", "form"), [("ERM+SMA", "timm"), ("KNN", "program"), ("DANN+Ensemble", "program")])
def test_table_export_predict_is_a_round_trip(
    sweep: Sweep, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str, form: str
) -> None:
    folder, kept, out = export(sweep, tmp_path / "model", row), tmp_path / "kept.csv", tmp_path / "out.csv"
    asked = ["--row", row, "--selector", "training-domain", "--output", str(kept)]
    assert predictions.main([str(sweep.root), *asked]) == 0
    capsys.readouterr()
    asked = ["--root", str(data), "--csv", str(out), "--device", "cpu"]
    assert predict.main([str(folder), str(kept), *asked]) == 0
    picks = load_results(sweep.root).picks("training-domain").astype({"row": str})
    (score,) = picks[picks["row"] == row]["score"]
    found, expected = (pd.read_csv(path, dtype=str) for path in (out, kept))
    assert (found["predicted"] == found["label"]).mean() == score
    assert found["predicted"].tolist() == expected["predicted"].tolist()
    n = len(found)
    assert f"accuracy {100 * score:.1f} % ({round(score * n)} of {n} labeled images)" in capsys.readouterr().err
    about = read_about(folder)
    assert (about.form, about.test, about.selector, about.row) == (form, score, "training-domain", row)
    assert (folder / "model.pt2").exists() == (form == "program")
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert not any("discriminator" in name for name in list(file.keys())), "nothing that prediction doesn't read"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["timm", "program"])
def test_the_example_needs_no_dgbench(sweep: Sweep, data: Path, exported: Path, tmp_path: Path, form: str) -> None:
    folder = exported if form == "timm" else export(sweep, tmp_path / "model", "KNN")
    images = sorted(map(str, (data / "noisy").glob("*/[34].png")))
    script = (folder / "example.py").read_text()
    assert ("timm.create_model" if form == "timm" else "torch.export.load") in script
    assert len(script.splitlines()) < 30
    words = [sys.executable, "-I", "-c", WITHOUT_DGBENCH, str(folder / "example.py"), *images]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    answers = load_exported(folder).predict(images)
    shown = [f"{image}: {name} {share:.3f}" for image, ((name, share),) in zip(images, answers.top(1), strict=True)]
    assert done.stdout.splitlines() == shown


def test_further_forms_give_the_same_logits(exported: Path) -> None:
    images = np.stack([np.random.default_rng(i).integers(0, 256, (3, 32, 32), dtype=np.uint8) for i in range(64)])
    expected, x = load_exported(exported).predict(images).logits, images.astype(np.float32) / 255
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    program = torch.export.load(exported / "model.pt2").module()
    for size in (64, 1):
        np.testing.assert_allclose(session.run(["logits"], {"images": x[:size]})[0], expected[:size], atol=1e-4)
        np.testing.assert_allclose(program(torch.from_numpy(x[:size])).detach().numpy(), expected[:size], atol=1e-4)


def test_the_weights_are_those_of_the_chosen_step(sweep: Sweep, data: Path, tmp_path: Path) -> None:
    folder = export(sweep, tmp_path / "model", "ERM", "--selector", "oracle")
    about = read_about(folder)
    assert about.step == SETTING["steps"] - 1, "the oracle reads the last step"
    model = load_kept_model(sweep.root, about.run, SITE, which="last")
    paths = sorted((data / "noisy").glob("*/*.png"))
    np.testing.assert_allclose(load_exported(folder).predict(paths).logits, model.predict(paths).logits, atol=1e-5)
    assert model.preprocess is not None
    assert model.preprocess.on_white
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert {"patch_embed.proj.weight", "head.weight"} <= set(file.keys())
        assert file.get_slice("head.weight").get_shape()[0] == len(CLASSES)


def test_the_card_says_what_it_is(exported: Path) -> None:
    card, about = (exported / "README.md").read_text(), read_about(exported)
    assert about.test is not None
    for text in (
        "# ERM on folder:shapes, without noisy",
        "images of clear, dim",
        "- 3 classes: bar, cross, disk",
        "Network test\\_vit, inputs of 3 x 32 x 32, from random weights",
        f"This model on noisy: **{100 * about.test:.1f} %** ±",
        "| noisy |",
        "## Confusion on noisy",
        "licence: yours",
        "## Limits",
        "`model.onnx`",
    ):
        assert text in card
    assert json.loads((exported / "model.json").read_text())["classes"] == list(CLASSES)


def test_what_is_no_function_of_an_image_is_refused(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (adapted,) = refusal(sweep, tmp_path, "--row", "ERM+T3A", "--selector", "training-domain")
    assert "T3A learns from the inputs that it predicts" in adapted
    assert "--row ERM exports the model that it begins with" in adapted

    def transductive(*args: Any, **how: Any) -> ReadyModel:
        model = load_kept_model(*args, **how)
        return ReadyModel(model.network, dataclasses.replace(model.facts, together=8))

    monkeypatch.setattr("dgbench.execute.kept.load_kept_model", transductive)
    (together,) = refusal(sweep, tmp_path, "--row", "ERM", "--selector", "training-domain")
    assert "it predicts 8 inputs together" in together


def test_a_model_that_was_not_kept_is_refused_with_the_command_that_makes_it(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(sweep.root, tmp_path / "bare")
    for run in runs_of(sweep, "ERM"):
        shutil.rmtree(root / "runs" / run.id / "models")
    asked = ["--row", "ERM", "--selector", "training-domain", "-o", str(tmp_path / "no")]
    with pytest.raises(UserError) as caught:
        main([str(root), "--format", "model", *asked])
    why, command = caught.value.problems
    assert "its weights are not kept: launch with --save_models. This trains it again, exactly" in why
    monkeypatch.chdir(tmp_path)
    assert command.startswith("dgbench train ")
    assert dispatch([*shlex.split(command)[1:], "--device", "cpu", "--threads", "1", "--quiet"]) == 0
    picks = [load_results(place).picks("training-domain").astype({"row": str}) for place in (root, f"{root}-model")]
    first, again = (found[found["row"] == "ERM"].iloc[0] for found in picks)
    assert (first["step"], first["score"]) == (again["step"], again["score"])
    models = [
        load_kept_model(*place, SITE) for place in ((sweep.root, first["run"]), (Path(f"{root}-model"), again["run"]))
    ]
    for tensors in zip(*(model.network.state_dict().values() for model in models), strict=True):
        assert torch.equal(*tensors)


def test_wrong_names_are_refused_together(sweep: Sweep, tmp_path: Path) -> None:
    found = refusal(sweep, tmp_path, "--row", "EMR", "--dataset", "PACS", "--push_to_hub", "a b")
    assert [problem.split(" ")[0].rstrip(":") for problem in found] == ["--push_to_hub", "--row", "--dataset"]
    assert refusal(sweep, tmp_path, "--row", "ERM", "--test", "nosy") == (
        "--test: unknown held-out domain 'nosy': did you mean 'noisy'?",
    )
    (trial,) = refusal(sweep, tmp_path, "--row", "ERM", "--trial", "7")
    assert trial == "--trial: there is no trial 7 of ERM: there are 0"
    (several,) = refusal(sweep, tmp_path)
    assert several.startswith("--row NAME says which row to export: there are ERM, ERM+SMA")
    with pytest.raises(UserError, match="--row is for --format model"):
        main([str(sweep.root), "--format", "domainbed", "--row", "ERM", "-o", str(tmp_path / "none")])


def test_a_folder_is_uploaded_whole(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Hub:
        def create_repo(self, **how: Any) -> str:
            calls.append(("create", how))
            return "there"

        def upload_folder(self, **how: Any) -> None:
            calls.append(("upload", how))
            if how["repo_id"] == "me/gone":
                raise ConnectionError("no way")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert push(exported, "me/shapes") == "there"
    assert [what for what, _ in calls] == ["create", "upload"]
    assert (calls[1][1]["repo_id"], calls[1][1]["folder_path"]) == ("me/shapes", str(exported))
    with pytest.raises(UserError, match="is written, and not uploaded to me/gone") as caught:
        push(exported, "me/gone")
    assert "hf upload me/gone" in str(caught.value)


def test_deploying_trains_the_choice_on_all_domains(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--row", "ERM+SMA", "--selector", "training-domain"]
    assert main([str(sweep.root), "--format", "model", *asked, "--deploy"]) == 0
    _, launch, then = capsys.readouterr().out.splitlines()
    words, again = shlex.split(launch), shlex.split(then)
    assert words[:4] == ["dgbench", "launch", "--algorithms", "ERM+SMA"]
    assert "--all_domains" in words
    assert json.loads(words[words.index("--hparams") + 1])["ERM"]["lr"] == 1e-3
    root = again[2] = words[words.index("--output_dir") + 1] = str(tmp_path / "deployed")
    assert dispatch([*words[1:], "--device", "cpu", "--launcher", "here"]) == 0
    again[-1] = str(tmp_path / "model")
    assert dispatch([*again[1:], "--selector", "training-domain"]) == 0
    about, card = read_about(tmp_path / "model"), (tmp_path / "model" / "README.md").read_text()
    assert about.training_domains == ("clear", "dim", "noisy")
    assert "trained on all domains, so nothing measures" in card
    assert "leave-one-domain-out" in card, "the table of the sweep that held domains out"
    assert "all-domains" in (load_results(root).results.protocol)
    with pytest.raises(UserError, match="--measured is for models that trained on all domains"):
        main([str(sweep.root), "--format", "model", *asked, "--measured", str(sweep.root), "-o", str(tmp_path / "no")])
