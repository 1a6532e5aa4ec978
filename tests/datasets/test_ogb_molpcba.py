"""OGB-MolPCBA, from a tiny copy: tables of molecules and their scores; what all WILDS data share is in `test_wilds`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics

from dgbench.core.errors import UserError
from tests.datasets.no_network import cut_off
from tests.datasets.test_wilds import Copy, made, predicted_for, same


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Copy]:
    with pytest.MonkeyPatch.context() as patch:
        cut_off(patch)
        yield from made("OGBMolPCBA", tmp_path)


def test_ogb_reports_the_mean_average_precision_over_assays(one: Copy) -> None:
    examples = one.examples()
    indices = examples.parts["train"]
    predicted, labels = predicted_for(examples, one.dataset, indices), examples.labels[indices]
    each = [
        sklearn.metrics.average_precision_score(y[~np.isnan(y)], z[~np.isnan(y)])
        for y, z in zip(labels.T, predicted.T, strict=True)
        if {0, 1} <= set(y)
    ]
    assert examples.score(predicted, indices)["ap"] == pytest.approx(np.mean(each))


def test_molecules_are_their_atoms_then_their_bonds_as_ogb_reads_them(one: Copy) -> None:
    examples, chosen = one.examples(), np.array([3, 39, 0, 3])
    for row, table in zip(chosen.tolist(), examples.batch(chosen, None), strict=True):
        theirs = examples.source.get_input(row)
        atoms, bonds = len(theirs.x), theirs.edge_index.shape[1] // 2
        assert table[:, 0].tolist() == [1] * atoms + [2] * bonds + [0] * (len(table) - atoms - bonds)
        assert same(table[:atoms, 1:], theirs.x)
        of_bonds = table[atoms : atoms + bonds]
        assert same(of_bonds[:, 1:3].T, theirs.edge_index[:, ::2])
        assert same(of_bonds[:, [2, 1]].T, theirs.edge_index[:, 1::2])
        assert same(of_bonds[:, 3:6], theirs.edge_attr[::2])
        assert same(of_bonds[:, 3:6], theirs.edge_attr[1::2])
        assert not of_bonds[:, 6:].any()
        assert not table[atoms + bonds :].any()


def test_molecules_that_no_table_holds_are_refused(one: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    cls, source = type(one.dataset), one.dataset.source("official")
    largest = int(np.max(np.count_nonzero(one.examples().batch(np.arange(40), None)[..., 0], axis=1)))
    monkeypatch.setattr(cls, "card", dataclasses.replace(cls.card, input_shape=(largest, 10)))
    cls.check(source, "official")
    monkeypatch.setattr(cls, "card", dataclasses.replace(cls.card, input_shape=(largest - 1, 10)))
    source.ogb_dataset._data.edge_index[:, 1] = 0
    with pytest.raises(UserError) as caught:
        cls.check(source, "official")
    assert caught.value.problems == (
        f"OGBMolPCBA: a molecule has {largest} atoms and bonds, at most {largest - 1} are expected",
        "OGBMolPCBA: bonds are expected in pairs, each direction after the other",
    )
    with pytest.raises(UserError, match="OGBMolPCBA has molecules, not images: leave out image_size"):
        cls(data_dir=one.dataset.data_dir, image_size=64)


def test_a_network_that_has_diverged_is_scored(one: Copy) -> None:
    examples = one.examples()
    indices = examples.parts["test"]
    nothing, nan = (np.full((len(indices), 128), value, np.float32) for value in (0, np.nan))
    assert examples.score(nan, indices) == examples.score(nothing, indices)
