"""Each patch mends a failure that is really there, and leaves alone what works."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dgbench.datasets import _wilds_patches as patches
from tests.support.wilds_layouts import write_civilcomments, write_fmow, write_ogb, write_rxrx1

Patch = Callable[[], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("name", "write", "error"),
    [
        ("_timestamps", write_fmow, "time data"),
        ("_string_columns", write_civilcomments, "Invalid value '0' for dtype 'str'"),
        ("_writable_values", write_rxrx1, "read-only"),
    ],
)
def test_pandas_patches_mend_what_fails_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Any, error: str
) -> None:
    wilds_name = {"_timestamps": "fmow", "_string_columns": "civilcomments", "_writable_values": "rxrx1"}[name]
    write(tmp_path)
    with patches.reading():
        import wilds

        wilds.get_dataset(wilds_name, root_dir=tmp_path)
    monkeypatch.setattr(patches, name, nullcontext)
    with pytest.raises((ValueError, TypeError), match=error), patches.reading():
        wilds.get_dataset(wilds_name, root_dir=tmp_path)


def test_what_pandas_did_before_it_does_afterwards() -> None:
    before = (pd.read_csv, pd.to_datetime, pd.Series.values, pd.DataFrame.values)
    with patches.reading():
        assert (pd.read_csv, pd.to_datetime, pd.Series.values, pd.DataFrame.values) != before
        assert pd.Series([1]).values.flags.writeable
    with pytest.raises(RuntimeError), patches.reading():
        raise RuntimeError
    assert (pd.read_csv, pd.to_datetime, pd.Series.values, pd.DataFrame.values) == before
    assert not pd.Series([1]).values.flags.writeable


def test_pandas_patches_leave_alone_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    lenient = functools.partial(pd.to_datetime, format="ISO8601")
    monkeypatch.setattr(pd, "to_datetime", lenient)
    with patches._timestamps():
        assert pd.to_datetime is lenient


def test_the_question_about_versions_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("wilds", "outdated")]:
        monkeypatch.delitem(sys.modules, name)
    with patches.reading():
        assert importlib.import_module("wilds.version").check_outdated is None
    assert "outdated" not in sys.modules
    with patches._no_question_about_versions(), pytest.raises(ImportError):
        importlib.import_module("outdated")


def test_pillows_guard_stands_after_fmow_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1234)
    for name in [name for name in sys.modules if name.startswith("wilds.datasets.fmow")]:
        monkeypatch.delitem(sys.modules, name)
    with patches.reading():
        importlib.import_module("wilds.datasets.fmow_dataset")
        assert Image.MAX_IMAGE_PIXELS != 1234, "wilds has mended it: the patch can go"
    assert Image.MAX_IMAGE_PIXELS == 1234


def test_group_means_are_means_by_group() -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=100).astype(np.float32), rng.integers(0, 5, 100)
    groups[groups == 3] = 2
    groups[7] = 6
    means, counts = patches._avg_over_groups(torch.from_numpy(values), torch.from_numpy(groups), 7)
    expected = [values[groups == g].mean() if (groups == g).any() else 0 for g in range(7)]
    assert np.allclose(means, expected)
    assert counts.tolist() == [float((groups == g).sum()) for g in range(7)]
    assert (counts[3], counts[6]) == (0, 1)


def test_group_means_that_work_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with patches.reading():
        utils = importlib.import_module("wilds.common.utils")
        metric = importlib.import_module("wilds.common.metrics.metric")

    def works(*arguments: object) -> None: ...

    monkeypatch.setattr(utils, "avg_over_groups", works)
    monkeypatch.setattr(metric, "avg_over_groups", works)
    patches.mend()
    assert metric.avg_over_groups is works

    def fails(*arguments: object) -> None:
        raise ModuleNotFoundError("No module named 'torch_scatter'")

    monkeypatch.setattr(utils, "avg_over_groups", fails)
    patches.mend()
    assert metric.avg_over_groups is patches._avg_over_groups


def test_py150_takes_no_vocabulary_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("wilds.datasets.py150")]:
        monkeypatch.delitem(sys.modules, name)
    own = object()
    monkeypatch.setitem(sys.modules, "transformers", own)  # type: ignore[arg-type]
    with patches.reading():
        importlib.import_module("wilds")
        patches.mend_py150()
    assert sys.modules["transformers"] is own  # type: ignore[comparison-overlap]
    module = importlib.import_module("wilds.datasets.py150_dataset")
    assert len(module.GPT2Tokenizer.from_pretrained("microsoft/CodeGPT-small-py")) == 50001


def test_ogb_fails_without_its_patch_and_mending_twice_is_harmless(tmp_path: Path) -> None:
    write_ogb(tmp_path)
    with patches.reading():
        import wilds

        module = importlib.import_module("wilds.datasets.ogbmolpcba_dataset")
        module.PyGCollater = importlib.import_module("torch_geometric.loader.dataloader").Collater
        with (
            torch.serialization.safe_globals([]),
            pytest.raises((TypeError, Exception), match=r"Collater|Weights only"),
        ):
            wilds.get_dataset("ogb-molpcba", root_dir=tmp_path)
        for _ in range(2):
            patches.mend_ogb()
        assert len(wilds.get_dataset("ogb-molpcba", root_dir=tmp_path)) == 40
