"""Kept predictions are those of the models in the tables, and say which examples and classes they are about."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from dgbench.core.protocol import View
from dgbench.core.run import CHOSEN_BY, LAST
from dgbench.core.site import Site
from dgbench.launchers.reconcile import Sweep
from dgbench.report.reader import read_results
from dgbench.report.select import Pick, _OneRun
from dgbench.report.selectors import SELECTORS
from dgbench.store import removal
from dgbench.store.predictions import find_steps, read
from tests.support.in_process import execute_all, records_of, runs_of, sweep_of, train, training_of

KEEPING = Site(device="cpu", save_predictions="chosen")
ROWS = ("ERM", "ERM+SMA", "ERM+SWAD", "ERM+DiWA", "ERM+EoA", "ERM+WiSEFT", "ERM+T3A")


def test_each_selector_that_looks_at_a_run_by_itself_has_its_own_files() -> None:
    found = {name: one.part for name, one in SELECTORS.items() if isinstance(one, _OneRun) and not one.last_only}
    assert found == CHOSEN_BY


def picks(sweep: Sweep, selectors: Iterable[str]) -> Iterator[tuple[str, str, Pick, Path]]:
    """Row, selector, what it chose, and the file that is called after both."""
    results = read_results(sweep.root)
    for selector in (SELECTORS[name] for name in selectors):
        for (row, dataset), planned in sweep.plan.candidates.items():
            pick = selector.choose(results, row, dataset, 0, 0).pick
            assert pick
            (predictor,) = {one.predictor for one in planned if one.run.id == pick.run}
            name = selector.name if selector.name in CHOSEN_BY else LAST
            yield (
                row,
                selector.name,
                pick,
                sweep.store.folder(pick.run).path / "predictions" / f"{predictor}.{name}.safetensors",
            )


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def accuracy(path: Path, view: View) -> float:
    content = load_file(path)
    predicted = content[f"{view}/logits"].argmax(dim=1)
    return float(np.mean((predicted == content[f"{view}/labels"]).numpy()))


@pytest.mark.parametrize(
    ("asked", "selectors"),
    [
        ({}, {"training-domain", "oracle"}),
        (
            {"test_domains": ["75"], "val_domains": ["60"]},
            {"training-domain", "oracle", "validation-domain"},
        ),
    ],
)
def test_an_accuracy_recomputed_from_the_file_is_that_of_the_table(
    asked: dict[str, Any], selectors: set[str], tmp_path: Path
) -> None:
    wild = {"n_hparams_from": 1, "n_hparams": 3, "space": {"lr": "{0.1, 0.05}"}, "setting": {"checkpoint_freq": 2}}
    sweep = sweep_of(tmp_path, *ROWS, site=KEEPING, **wild, **asked)
    execute_all(sweep)
    steps = set[int]()
    for row, selector, pick, path in picks(sweep, selectors):
        assert accuracy(path, View("75", "in")) == pick.score, (row, selector)
        assert metadata(path)["step"] == str(pick.step)
        steps.add(pick.step)
    assert len(steps) > 1, "or the last model would do"


def test_a_run_that_was_stopped_keeps_the_same(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "ERM+SMA", site=KEEPING, setting={"steps": 24}, hparams={"lr": 0.1})
    (run,) = runs_of(sweep, "ERM")

    def kept() -> dict[str, bytes]:
        folder = sweep.store.folder(run.id).path / "predictions"
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    train(training_of(sweep, run))
    whole = kept()
    assert set(whole) == {f"{name}.{by}.safetensors" for name in ("model", "SMA") for by in ("training-domain", LAST)}
    assert whole["model.training-domain.safetensors"] != whole["model.last.safetensors"]
    assert removal.reset(sweep.store.folder(run.id))
    for stop in (10, 20):
        assert train(training_of(sweep, run), stop_after=stop)
    train(training_of(sweep, run))
    assert kept() == whole


def test_a_run_begins_anew_where_what_is_kept_now_was_not_kept_before(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "ERM", hparams={"lr": 0.1})
    (run,) = runs_of(sweep, "ERM")
    assert train(training_of(sweep, run), stop_after=10)
    keeping = sweep_of(tmp_path, "ERM", site=KEEPING, hparams={"lr": 0.1})
    training = training_of(keeping, run)
    train(training)
    values = [record["views"] for record in records_of(training.folder)]
    scores = [np.mean([one[str(view)]["accuracy"] for view in run.fold.source_val]) for one in values]
    best = int(np.argmax(scores))
    path = training.folder.path / "predictions" / "model.training-domain.safetensors"
    assert metadata(path)["step"] == str(records_of(training.folder)[best]["step"])


def test_all_keeps_the_model_of_each_evaluation(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "ERM+SMA", site=Site(device="cpu", save_predictions="all"), hparams={"lr": 0.1})
    execute_all(sweep)
    (run,) = runs_of(sweep, "ERM")
    records, found = records_of(sweep.store.folder(run.id)), find_steps(sweep.store.folder(run.id).path)
    assert len(records) > 2
    assert {(record["predictor"], record["step"]) for record in records} == set(found)
    for record in records:
        for name in map(str, run.fold.source_val):
            view = read(found[record["predictor"], record["step"]], [name]).views[name]
            assert (view.logits.argmax(axis=1) == view.labels).mean() == record["views"][name]["accuracy"]


def test_attributes_and_training_counts_are_kept(tmp_path: Path) -> None:
    asked = {"datasets": ["ColoredDigits"], "test_envs": ["-90%"], "setting": {"steps": 2, "checkpoint_freq": 1}}
    sweep = sweep_of(tmp_path, "ERM", site=KEEPING, **asked)
    execute_all(sweep)
    (run,) = sweep.plan.runs
    found = read(sweep.store.folder(run.id).path / "predictions" / "model.last.safetensors", map(str, run.views))
    data = training_of(sweep, run).data
    assert found.training_counts == sum(np.bincount(data.labels(view)) for view in run.fold.train).tolist()
    for view in run.views:
        codes, texts = found.views[str(view)].attributes["color"]
        x = data.examples[view.domain].batch(data.indices[view], None)
        assert [texts[code] for code in codes] == [str(int(image[1].any())) for image in x]


def test_files_and_classes_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for domain in "abc":
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / domain / name
            folder.mkdir(parents=True)
            for i in range(6):
                Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")
    setting = {"backbone": "MLP", "image_size": 16, "steps": 2, "checkpoint_freq": 1}
    data = {"datasets": [f"folder:{tmp_path / 'data'}"], "test_envs": ["c"]}
    sweep = sweep_of(tmp_path / "out", "ERM", site=KEEPING, setting=setting, hparams={"batch_size": 2}, **data)
    execute_all(sweep)
    (run,) = sweep.plan.runs
    path = sweep.store.folder(run.id).path / "predictions" / "model.last.safetensors"
    about, content = metadata(path), load_file(path)
    assert json.loads(about["classes"]) == ["cat", "dog"]
    for view in run.fold.evaluated:
        files = json.loads(about[f"{view}/files"])
        assert len(set(files)) == len(files) == len(content[f"{view}/labels"])
        for file, label in zip(files, content[f"{view}/labels"].tolist(), strict=True):
            assert (tmp_path / "data" / file).is_file()
            assert file.split("/")[:2] == [view.domain, ("cat", "dog")[label]]
