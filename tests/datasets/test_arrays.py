"""Folders of arrays, `arrays:PATH`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dgbench.core.errors import UserError
from dgbench.data.contract import find_problems
from dgbench.datasets.arrays import DOMAINS, FACTS, INPUTS, LABELS, ArrayFacts, arrays, write_arrays

OF = np.array([0, 1] * 6)


def written(folder: Path, labels: np.ndarray, *, shape: tuple[int, ...] = (3,)) -> str:
    folder.mkdir(exist_ok=True)
    np.save(folder / INPUTS, np.random.default_rng(0).random((12, *shape), np.float32))
    return write_arrays(folder, ArrayFacts(("a", "b"), ("x", "y", "z"), normalised=False), labels, OF)


def test_it_keeps_the_contract_and_hashes_all(tmp_path: Path) -> None:
    prints = {written(tmp_path / "one", np.arange(12) // 2 % 3), written(tmp_path / "two", np.arange(12) // 4)}
    prints.add(written(tmp_path / "three", np.arange(12) // 4, shape=(1, 4, 4)))
    assert len(prints) == 3
    found = arrays(path=tmp_path / "three")
    assert find_problems(found) == []
    assert (found.card.input_kind, found.input_shape, found.card.traits) == ("images", (1, 4, 4), ("small_images",))
    assert found.fingerprint() in prints
    assert arrays.card.input_kind == "vectors", "the class stays as it was"


def test_domains_may_lack_classes_where_that_is_allowed(tmp_path: Path) -> None:
    written(tmp_path / "one", np.where(OF == 0, 2, np.arange(12) // 4))
    with pytest.raises(UserError) as refusal:
        arrays(path=tmp_path / "one")
    assert refusal.value.problems[0] == "domain 'a' lacks the class(es) 'x', 'y'"
    assert "--allow_missing_classes" in refusal.value.problems[1]
    assert arrays(path=tmp_path / "one", allow_missing_classes=True).missing_classes == {"a": ("x", "y")}


@pytest.mark.parametrize("name", [FACTS, INPUTS, LABELS, DOMAINS])
def test_files_that_are_lost_or_damaged_are_refused(tmp_path: Path, name: str) -> None:
    written(tmp_path / "one", np.arange(12) // 2 % 3)
    file = tmp_path / "one" / name
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"is damaged .*: write it again by `dgbench.from_dataset`"):
        arrays(path=tmp_path / "one")
    if name in (LABELS, DOMAINS):
        np.save(file, np.full(12, 9))
        with pytest.raises(UserError, match="don't fit together"):
            arrays(path=tmp_path / "one")
    file.unlink()
    with pytest.raises(UserError, match=r"does not exist; `dgbench.from_dataset` writes such folders"):
        arrays(path=tmp_path / "one")
