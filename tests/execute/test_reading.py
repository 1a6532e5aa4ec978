"""Reading what a run evaluates by processes: the same inputs in the same order, by processes that stay and then end."""

from __future__ import annotations

import multiprocessing
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
