from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from dgbench.core.errors import UserError
from dgbench.core.paths import check_folder, check_path


def test_a_path_may_be_anything_that_the_system_can_look_at(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, tmp_path / "new" / "below", tmp_path / "dangling", "relative"):
        assert check_path(path, "--flag") is None


def test_a_path_that_can_not_be_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("")
    for path, said in {
        tmp_path / ("n" * 300): f"--flag {tmp_path}/{'n' * 300}: File name too long",
        tmp_path / "loop" / "x": f"--flag {tmp_path}/loop/x: Too many levels of symbolic links",
        tmp_path / "file" / "x" / "y": f"--flag {tmp_path}/file/x/y can't be: {tmp_path}/file is a file",
        "a\0b": "--flag a\0b: embedded null byte",
    }.items():
        with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
            check_path(path, "--flag")


def test_a_path_that_is_no_utf8_is_refused_wherever_that_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    foreign.mkdir()
    (tmp_path / "link").symlink_to(foreign)
    for path in (foreign / "new", tmp_path / "link"):
        with pytest.raises(UserError, match=r"--flag .*/caf\\xe9.* is not UTF-8: rename the file or folder"):
            check_path(path, "--flag")
    monkeypatch.chdir(foreign)
    with pytest.raises(UserError, match=r"caf\\xe9/new is not UTF-8"):
        check_path("new", "--flag")


def test_a_folder_that_can_not_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"--flag {tmp_path}/file can't be a folder: it is a file"):
        check_folder(tmp_path / "file", "--flag")
    with pytest.raises(UserError, match=f"--flag {tmp_path}/file/c can't be: {tmp_path}/file is a file"):
        check_folder(tmp_path / "file" / "c", "--flag")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"--flag {tmp_path}/a/b can't be made: {tmp_path} can't be written to"):
        check_folder(tmp_path / "a" / "b", "--flag")
    check_folder(tmp_path, "--flag")
