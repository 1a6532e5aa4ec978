"""Runs that are rehearsed, and the processes that do it."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dgbench.core.site import Site
from dgbench.execute import batch_norm, timing
from dgbench.launchers import rehearsal as module
from dgbench.launchers.base import Slot
from dgbench.launchers.reconcile import Sweep
from dgbench.launchers.rehearsal import choose, guess, rehearse
from dgbench.plan import work
from dgbench.plan.work import Workload
from dgbench.store.files import read_object
from dgbench.store.folder import Store
from tests.support.in_process import sweep_of

TWO = [Slot(0, None, 1), Slot(1, None, 1)]
Pairs = list[tuple[Any, work.Work]]


def pairs_of(sweep: Sweep) -> Pairs:
    workload = Workload(sweep.plan, sweep.catalogue)
    return [(run, workload.of(run)) for run in sweep.plan.runs]


def test_a_run_of_each_method_is_chosen_the_most_work_first(tmp_path: Path) -> None:
    rows = ("ERM", "ERM+SWAD", "SAM", "GAM", "ERM+T3A", "DiWA")
    sweep = sweep_of(
        tmp_path / "sweep", *rows, datasets=["RotatedDigits", "ColoredDigits"], test_envs=["2"], n_hparams=2
    )
    chosen = choose(pairs_of(sweep))
    names = [(run.dataset, run.method.name) for run, _ in chosen]
    assert names[:2] == [("RotatedDigits", "SAM"), ("ColoredDigits", "SAM")], "both data sets, then the others"
    assert sorted(names) == sorted((d, m) for d in ("RotatedDigits", "ColoredDigits") for m in ("ERM", "SAM", "GAM"))
    amounts = [done.all for _, done in chosen[2:]]
    assert amounts == sorted(amounts, reverse=True)


def test_runs_on_stored_features_are_not_rehearsed(tmp_path: Path) -> None:
    stored = {"freeze": "featurizer", "augmentation": False, "stored_features": True}
    assert choose(pairs_of(sweep_of(tmp_path / "sweep", "ERM", setting=stored))) == []


def test_a_guess_knows_minutes_from_seconds(tmp_path: Path) -> None:
    pairs = pairs_of(sweep := sweep_of(tmp_path / "sweep", "ERM", n_hparams=3))
    assert guess(sweep, pairs, 2) < 2 < module.WORTHWHILE
    assert guess(sweep, pairs * 100, 2) == pytest.approx(100 * guess(sweep, pairs, 2))
    assert guess(sweep, pairs * 1000, 2) > module.WORTHWHILE


def test_as_many_minibatches_are_counted_as_are_passed() -> None:
    assert work.STATISTICS == batch_norm.MINIBATCHES


@pytest.mark.parametrize(("row", "backbone"), [("ERM+SWAD", "resnet18"), ("Fish", "auto")])
def test_a_rehearsed_run_is_taken_to_its_parts(row: str, backbone: str, tmp_path: Path) -> None:
    setting = {"backbone": backbone, "pretrained": False}
    sweep = sweep_of(tmp_path / "sweep", row, setting=setting, site=Site(device="cpu"))
    run = sweep.plan.runs[0]
    folder = Store(tmp_path / "other").folder(run.id)
    folder.create(run)
    job = sweep.job(run, TWO[0]) | {"root": str(tmp_path / "other"), "answer": str(tmp_path / "told"), "seconds": 0.01}
    assert timing.rehearse(job) == 0
    found = read_object(tmp_path / "told")
    assert found.keys() == {"bytes", "step", "example", "norms", "save", "inside", "peak"}
    assert all(0 < found[part] < 5 for part in ("step", "example", "save"))
    assert (found["norms"] > 0) == (backbone == "resnet18"), "the others have no batch norm"
    assert found["inside"] >= 2 * found["step"] + found["save"]
    assert (1e4 < found["bytes"] < 1e8, found["peak"]) == (True, 0)
    assert sweep.store.folder(run.id).summary() is None, "the sweep's own folder is not touched"


def test_processes_rehearse_at_once_and_those_that_fail_are_left_out(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "sweep", "ERM", "SAM", "GAM", site=Site(device="cpu"))
    pairs = choose(pairs_of(sweep))
    broken = dataclasses.replace(pairs[1][0], dataset="Nowhere")
    asked: list[tuple[int, bool]] = []

    def goes_on(found: Any, spent: float) -> bool:
        asked.append((len(found), spent > 0))
        return False

    found, ready = rehearse(sweep, [pairs[0], (broken, pairs[1][1]), pairs[2]], TWO, goes_on)
    assert [each.run for each in found] == [pairs[0][0]]
    assert asked == [(1, True)], "after the first two; the third is left"
    assert ready > 0.1
    assert 0 < found[0].start < 20
    assert {path.name for path in sweep.root.iterdir()} == {"sweep.json", "plan.json"}


def test_what_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        closed = False

        def __init__(self, *words: Any) -> None:
            self.process = None

        def start(self, *words: Any) -> None:
            pass

        def fileno(self) -> int:
            return reader.fileno()

        def close(self) -> None:
            Server.closed = True

    sweep = sweep_of(tmp_path / "sweep", "ERM", site=Site(device="cpu"))
    monkeypatch.setattr(Sweep, "fork_server", Server)
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    from multiprocessing import Pipe

    reader, _writer = Pipe()
    assert rehearse(sweep, choose(pairs_of(sweep)), TWO, lambda found, spent: True)[0] == []
    assert Server.closed


def test_images_that_are_not_decoded_yet_are_decoded_in_a_rehearsal(tmp_path: Path) -> None:
    from tests.support.layouts import write_folders

    write_folders(tmp_path / "toy", {"a": 20, "b": 20, "c": 20}, ["x", "y"])
    asked = {"datasets": [f"folder:{tmp_path / 'toy'}"], "test_envs": ["a"], "hparams": {"batch_size": 4}}
    sweep = sweep_of(tmp_path / "sweep", "ERM", **asked, setting={"image_size": 16})
    run = sweep.plan.runs[0]
    assert module._rehearsed(sweep, run).setting.cache == "off"
    two = sweep_of(tmp_path / "two", "ERM", "SAM", **asked, setting={"image_size": 16})
    (shared,) = two._preloaded(partial(module._rehearsed, two))["runs"]
    assert shared["setting"]["cache"] == "off", "the server would build the cache before anything is confirmed"
    sweep.build_caches()
    assert module._rehearsed(sweep, run).setting.cache == "auto"
