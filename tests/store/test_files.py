from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from dgbench.store.files import write_atomic, write_json


def no_space(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_write_atomic_takes_bytes_or_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    write_atomic(path, b"one")
    assert path.read_bytes() == b"one"

    def write(file: BinaryIO) -> None:
        file.write(b"t")
        assert path.read_bytes() == b"one", "the old content stays until all of the new is there"
        file.write(b"wo")

    write_atomic(path, write)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o444 == 0o444 & ~_umask(), "others of the group can read it"
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_write_atomic_on_a_full_disk_leaves_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "done"
    write_json(path, {"a": 1})
    before = path.read_bytes()
    monkeypatch.setattr(os, broken, no_space)
    with pytest.raises(OSError, match="No space left") as caught:
        write_json(path, {"a": 2})
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["done"]


def test_write_atomic_with_a_writer_that_fails(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "x", write)
    assert os.listdir(tmp_path) == []


def test_write_atomic_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append(os.fstat(file).st_size), real_sync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("renamed"), real_replace(a, b)))
    write_atomic(tmp_path / "x", b"12345")
    assert done == [5, "renamed"]
