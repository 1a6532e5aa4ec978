"""Reading what a run evaluates by processes: the same inputs in the same order, by processes that stay and then end."""

from __future__ import annotations

import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset
from dgbench.core.errors import UserError
from dgbench.core.protocol import IN, LeaveOneDomainOut, View
from dgbench.core.run import ResolvedEntry, Run
from dgbench.core.setting import setting
from dgbench.core.site import Site
from dgbench.data.dataset import Dataset
from dgbench.data.views import ViewData
from dgbench.execute.reading import InputReader
from dgbench.launchers.reconcile import Sweep
from dgbench.store import removal
from tests.support.in_process import execute, records_of, runs_of, sweep_of
from tests.support.layouts import write_folders

A, B = View("a", IN), View("b", IN)
CPU = torch.device("cpu")
BATCHES = [np.array([3, 1]), np.array([0, 2]), np.array([5])]


def opened(dataset: Dataset, **changes: Any) -> ViewData:
    fold = list(LeaveOneDomainOut().folds(dataset.domains))[2]
    return ViewData(dataset, Run("train", ResolvedEntry("Toy", {}), "Data", fold, 0, 0, setting(**changes)))


@pytest.fixture(scope="module")
def images(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> ViewData:
    root = write_folders(tmp_path_factory.mktemp("data") / "toy", {"a": 12, "b": 15, "c": 10}, ["x", "y"])
    dataset = open_dataset("folder:toy", Site(paths={"folder:toy": str(root)}), catalogue, image_size=16)
    return opened(dataset, cache="off")


def same(reader: InputReader, data: ViewData, view: View, batches: list[NDArray[np.int64]]) -> bool:
    found = list(reader.read(view, batches))
    expected = [data.inputs(view, positions) for positions in batches]
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_processes_read_the_same_stay_for_further_views_and_end_with_the_run(images: ViewData) -> None:
    with InputReader(images, 2, CPU) as reader:
        assert same(reader, images, A, BATCHES)
        own = multiprocessing.active_children()
        assert len(own) == 2
        assert same(reader, images, B, BATCHES[:2])
        assert multiprocessing.active_children() == own
        begun = reader.read(A, BATCHES)
        assert torch.equal(next(begun), images.inputs(A, BATCHES[0]))
        assert same(reader, images, B, BATCHES), "while another view is half read"
        assert torch.equal(next(begun), images.inputs(A, BATCHES[1]))
        begun.close()  # type: ignore[attr-defined]
        assert same(reader, images, B, BATCHES), "after one that was given up"
        assert multiprocessing.active_children() == own
    assert multiprocessing.active_children() == []


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_of_several_views_are_read_in_one_order(images: ViewData) -> None:
    rng = np.random.default_rng(0)
    of = rng.permutation(np.repeat([0, 1], [images.size(A), images.size(B)]))
    positions = np.where(of == 0, np.cumsum(of == 0), np.cumsum(of == 1)) - 1
    each = {i: images.inputs(view, np.arange(images.size(view))) for i, view in enumerate((A, B))}
    expected = torch.stack([each[i][position] for i, position in zip(of.tolist(), positions.tolist(), strict=True)])
    for workers in (0, 2):
        with InputReader(images, workers, CPU) as reader:
            found = list(reader.read_block((A, B), of, positions, 7))
            assert len({len(batch) for batch in found[:-1]} | {7}) == 1
            assert torch.equal(torch.cat(found), expected)
            drawn = torch.random.get_rng_state()
            half = iter(reader.read(A, BATCHES))
            last = [next(half) for _ in BATCHES][-1]
            # Whoever has the last batch has not asked for the end, and yet others have the processes.
            other = reader.read(B, BATCHES)
            assert torch.equal(next(other), images.inputs(B, BATCHES[0]))
            assert torch.equal(last, images.inputs(A, BATCHES[-1]))
            assert next(half, None) is None
            assert [len(batch) for batch in other] == [2, 1]
            assert torch.equal(torch.random.get_rng_state(), drawn), "adapters draw from it between batches"
            assert len(multiprocessing.active_children()) == workers


FEW = 3 * 16 * 16 * 4
"""Numbers of four images, a batch."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """An ensemble and an adapter of each kind on images in files, executed without processes."""
    root = tmp_path_factory.mktemp("images")
    data = write_folders(root / "toy", {"a": 10, "b": 9, "c": 10, "d": 8}, ["x", "y"])
    found = sweep_of(
        root / "sweep",
        *("ERM+Ensemble", "ERM+AdaNPC", "ERM+MEMO"),
        site=Site(device="cpu", workers=0),
        datasets=[f"folder:{data}"],
        n_hparams=2,
        test_domains=["c", "d"],
        hparams={"batch_size": 4, "MEMO": {"copies": 2, "lr": 0.001}},
        setting={"steps": 1, "image_size": 16, "cache": "off", "stream": "batch_size=3 domains=mixed"},
    )
    with pytest.MonkeyPatch.context() as few:
        few.setattr("dgbench.execute.evaluate._VALUES_PER_BATCH", FEW)
        for run in (*runs_of(found, "ERM"), *(runs_of(found, name)[0] for name in ("Ensemble", "AdaNPC", "MEMO"))):
            assert execute(found, run) == 0
    return found


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("method", "workers"), [("Ensemble", 0), ("Ensemble", 2), ("AdaNPC", 2), ("MEMO", 2)])
def test_runs_that_train_nothing_read_by_processes_and_record_the_same(
    method: str, workers: int, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgbench.execute.evaluate._VALUES_PER_BATCH", FEW)
    shutil.copytree(sweep.root, tmp_path, dirs_exist_ok=True)
    run, read, inputs = runs_of(sweep, method)[0], list[int](), ViewData.inputs
    monkeypatch.setattr(ViewData, "inputs", lambda data, view, at: read.append(len(at)) or inputs(data, view, at))
    copy = replace(sweep, root=tmp_path, site=replace(sweep.site, workers=workers))
    folders = [one.store.folder(run.id) for one in (sweep, copy)]
    assert removal.reset(folders[1], done_too=True)
    assert execute(copy, run) == 0
    expected, found = (folder.path.joinpath("records.jsonl").read_bytes() for folder in folders)
    assert found == expected
    assert multiprocessing.active_children() == []
    each = [scores["n"] for record in records_of(folders[0]) for scores in record["views"].values()]
    if method == "Ensemble":
        # A view of a single batch is not worth a process.
        assert sum(read) == sum(n for n in each if not workers or n <= 4), "once for both members"
    elif method == "MEMO":
        assert 2 * sum(read) < sum(each), "the few inputs of validation are a single batch"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_what_is_wrong_with_an_input_is_said_as_without_processes(catalogue: Catalogue, tmp_path: Path) -> None:
    root = write_folders(tmp_path / "toy", {"a": 12, "b": 15, "c": 10}, ["x", "y"])
    dataset = open_dataset("folder:toy", Site(paths={"folder:toy": str(root)}), catalogue, image_size=16)
    data = opened(dataset, cache="off")
    for image in (root / "a").rglob("*.*"):
        image.write_bytes(b"no image")
    said = []
    for workers in (0, 2):
        with InputReader(data, workers, CPU) as reader, pytest.raises(UserError) as error:
            list(reader.read(A, BATCHES))
        said.append(error.value.problems)
    assert multiprocessing.active_children() == [], "although the error is still there"
    assert said[0] == said[1]
    assert "can't be decoded" in said[0][0]


def test_none_start_where_they_would_not_pay(images: ViewData, catalogue: Catalogue) -> None:
    digits = opened(open_dataset("RotatedDigits", Site(), catalogue))
    first = View(digits.train[0].domain, IN)
    for reader, data, view, batches in (
        (InputReader(digits, 2, CPU), digits, first, BATCHES),
        (InputReader(images, 2, CPU), images, A, BATCHES[:1]),
        (InputReader(images, 0, CPU), images, A, BATCHES),
    ):
        assert same(reader, data, view, batches)
        assert multiprocessing.active_children() == []
