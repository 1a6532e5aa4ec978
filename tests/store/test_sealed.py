from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save

from dgbench.store.files import write_atomic
from dgbench.store.sealed import CorruptFile, check_safetensors, check_seal, sealed, sealed_safetensors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "state.pt"
    write_atomic(found, sealed(lambda file: torch.save({"weights": torch.arange(5.0), "step": 3}, file)))
    return found


def test_what_torch_wrote_is_read_by_torch(path: Path) -> None:
    check_seal(path)
    state = torch.load(path, weights_only=True)
    assert (state["weights"].tolist(), state["step"]) == ([0, 1, 2, 3, 4], 3)


def test_no_byte_can_change_unnoticed(path: Path) -> None:
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(CorruptFile, match=r"state\.pt is not what was written"):
            check_seal(path)


@pytest.mark.parametrize("kept", [0, 1, 31, 32, 33, -33, -1])
def test_no_end_can_be_lost_unnoticed(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorruptFile):
        check_seal(path)


@given(st.lists(st.binary(max_size=70), max_size=5))
def test_any_content_can_be_sealed(parts: list[bytes]) -> None:
    file = io.BytesIO()
    sealed(lambda into: [into.write(part) for part in parts])(file)
    content = b"".join(parts)
    assert file.getvalue()[: len(content)] == content
    assert len(file.getvalue()) == len(content) + 32


def test_a_file_that_ends_at_the_border_of_a_block(tmp_path: Path) -> None:
    for size in ((1 << 20) - 32, (1 << 20) - 31, 1 << 20, (1 << 20) + 1):
        write_atomic(tmp_path / "file", sealed(lambda file, size=size: file.write(bytes(size))))  # type: ignore[misc]
        check_seal(tmp_path / "file")


def test_a_disk_that_cannot_read_it_any_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.BytesIO):
        def read(self, size: Any = -1) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("builtins.open", lambda *_: Broken())
    with pytest.raises(CorruptFile, match=r"state\.pt can't be read \(Input/output error\)"):
        check_seal(path)


TENSORS = {
    "weight": torch.arange(6.0).view(2, 3),
    "count": torch.tensor(3),
    "half": torch.ones(3, dtype=torch.bfloat16),
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    found = tmp_path / "model.safetensors"
    found.write_bytes(sealed_safetensors(save(TENSORS, metadata={"step": "3", "accuracy": "0.5"})))
    return found


def test_sealed_weights_are_what_safetensors_reads(weights: Path) -> None:
    assert check_safetensors(weights)
    found = load_file(weights)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    with safe_open(weights, framework="pt") as file:
        assert {"step": "3", "accuracy": "0.5"}.items() <= file.metadata().items()


def test_equal_weights_are_equal_bytes(weights: Path) -> None:
    again = [sealed_safetensors(save(TENSORS, metadata={"step": "3", "accuracy": "0.5"})) for _ in range(20)]
    assert set(again) == {weights.read_bytes()}


def test_no_bit_of_weights_can_change_unnoticed(weights: Path) -> None:
    content = weights.read_bytes()
    padding = len(content[: 8 + int.from_bytes(content[:8], "little")].rstrip(b" "))
    header = 8 + int.from_bytes(content[:8], "little")
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        weights.write_bytes(changed)
        try:
            assert check_safetensors(weights) is False, place
            load_file(weights)
        except Exception:  # not what was written; or the name of the seal itself, and then safetensors or we refuse
            continue
        seal = content.index(b'"sha256"')
        assert seal < place < seal + 7 or padding <= place < header, (
            "only the name of the seal, and blanks, say nothing"
        )


def test_no_end_of_weights_can_be_lost_unnoticed(weights: Path) -> None:
    content = weights.read_bytes()
    for kept in (*range(0, len(content), 7), len(content) - 1):
        weights.write_bytes(content[:kept])
        with pytest.raises(CorruptFile, match=r"model\.safetensors is not what was written"):
            check_safetensors(weights)


def test_weights_of_earlier_versions_carry_no_seal(weights: Path) -> None:
    weights.write_bytes(save(TENSORS, metadata={"step": "3"}))
    assert not check_safetensors(weights)
    weights.write_bytes(save(TENSORS))
    assert not check_safetensors(weights)


@pytest.mark.parametrize("length", range(1, 10))
def test_tensors_begin_at_a_multiple_of_eight_bytes_as_closely_as_they_can(length: int) -> None:
    content = sealed_safetensors(save(TENSORS, metadata={"name": "x" * length}))
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    assert len(header) % 8 == 0
    assert len(header) - len(header.rstrip(b" ")) < 8


def test_a_writer_that_flushes_reaches_the_file() -> None:
    class Counted(io.BytesIO):
        flushes = 0

        def flush(self) -> None:
            self.flushes += 1

    file = Counted()
    sealed(lambda into: into.flush())(file)
    assert file.flushes == 1
