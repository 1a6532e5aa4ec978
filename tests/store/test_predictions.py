"""Files of kept predictions: what was put in comes out, by numpy alone, also of files of earlier versions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dgbench.store.predictions import PredictedView, Predictions, encode, find_steps, path_of, read, to_bytes
from dgbench.store.sealed import CorruptFile

RNG = np.random.default_rng(0)
VIEW = PredictedView(
    RNG.normal(size=(4, 3)).astype(np.float32),
    np.array([0, 1, 2, 1]),
    np.array([7, 3, 5, 1]),
    np.array([2, 2, 9, 2]),
    {"sex": (np.array([1, 0, 1, 1]), ["f", "m"])},
    ["a/1.png", "a/2.png", "b/1.png", "a/3.png"],
)
PLAIN = PredictedView(VIEW.logits[::-1], VIEW.labels, VIEW.positions)


def written(folder: Path, predictor: str = "SMA", name: str = "last", step: int = 30) -> Path:
    path = path_of(folder, predictor, name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(to_bytes(Predictions(step, ("x", "y", "z"), {"d/e/in": VIEW, "f/out": PLAIN}, (5, 0, 2))))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = read(written(tmp_path), ["d/e/in", "f/out", "g/in"])
    assert (found.step, found.classes, found.training_counts) == (30, ["x", "y", "z"], [5, 0, 2])
    assert set(found.views) == {"d/e/in", "f/out"}, "what the file lacks is left out"
    own, plain = found.views["d/e/in"], found.views["f/out"]
    for name in ("logits", "labels", "positions", "domains"):
        np.testing.assert_array_equal(getattr(own, name), getattr(VIEW, name))
    codes, texts = own.attributes["sex"]
    assert [texts[code] for code in codes] == ["m", "f", "m", "m"]
    assert own.files == VIEW.files
    np.testing.assert_array_equal(plain.logits, PLAIN.logits)
    assert (plain.domains, plain.attributes, plain.files) == (None, {}, [])


def test_models_are_found_by_predictor_and_step(tmp_path: Path) -> None:
    assert find_steps(tmp_path) == {}
    last, best = written(tmp_path), written(tmp_path, "model", "training-domain", 10)
    assert find_steps(tmp_path) == {("SMA", 30): last, ("model", 10): best}


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = path_of(tmp_path, "model", "last")
    path.parent.mkdir()
    tensors = {"a/in/logits": VIEW.logits, "a/in/labels": VIEW.labels, "a/in/positions": VIEW.positions}
    save_file(tensors, path, metadata={"classes": json.dumps(["x", "y", "z"]), "step": "5"})
    found = read(path, ["a/in"])
    assert (found.step, found.training_counts, found.views["a/in"].attributes) == (5, [], {})


def test_a_changed_file_is_not_believed(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CorruptFile, match="is not what was written"):
        read(path, ["d/e/in"])
    path.write_bytes(whole[:50])
    with pytest.raises(CorruptFile, match="is not what was written"):
        find_steps(tmp_path)


def test_attributes_that_number_examples_are_left_out() -> None:
    found = encode([3, 1, 3])
    assert found
    assert (found[0].tolist(), found[1]) == ([1, 0, 1], ["1", "3"])
    assert encode(np.arange(100)) is not None
    assert encode(np.arange(101)) is None


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dgbench.store.predictions import read; "
        f"assert read(Path({str(written(tmp_path))!r}), ['f/out']).views; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
