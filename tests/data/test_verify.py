from __future__ import annotations

from pathlib import Path

import pytest

from dgbench.data import verify
from dgbench.data.verify import bad_examples
from dgbench.datasets.folder import folder
from dgbench.datasets.rotated import RotatedDigits
from tests.support.layouts import truncate, write_folders


def test_each_example_is_read_and_each_bad_one_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_AT_ONCE", 3)
    write_folders(tmp_path, {"art": 7, "photo": 4}, ("cat", "dog"))
    bad = [tmp_path / "art" / "dog" / "0005.jpg", tmp_path / "photo" / "cat" / "0000.jpg"]
    for path in bad:
        truncate(path)
    told = list[tuple[str, int, int]]()
    found = list(bad_examples(folder(path=tmp_path), lambda *of: told.append(of)))
    assert [str(path) in problem for path, problem in zip(bad, found, strict=True)] == [True, True]
    assert told == [("examples decoded", done, 11) for done in (3, 6, 7, 10, 11)]


def test_data_sets_without_files_have_nothing_bad() -> None:
    assert list(bad_examples(RotatedDigits(), lambda *_: None)) == []
