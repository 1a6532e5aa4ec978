from __future__ import annotations

from pathlib import Path

import pytest

from dgbench.core.errors import UserError
from dgbench.data.duplicates import remove

EXPECTED = {"art": 2, "photo": 1, "sketch": 0}
LINES = ["art/cat/1.jpg", "art/dog/1.jpg", "photo/cat/2.jpg"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for domain in EXPECTED:
        for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
            path = tmp_path / "data" / domain / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("image")
    return tmp_path / "data"


def written(folder: Path, lines: list[str]) -> Path:
    path = folder.parent / "list.txt"
    path.write_text("\n".join(lines) + "\n\n")
    return path


def test_only_what_is_listed_goes(folder: Path) -> None:
    before = set(folder.rglob("*.jpg"))
    assert remove(folder, written(folder, LINES), EXPECTED) == (3, 3)
    assert before - set(folder.rglob("*.jpg")) == {folder / line for line in LINES}


def test_what_is_gone_is_not_missed(folder: Path) -> None:
    (folder / LINES[0]).unlink()
    listed = written(folder, [*LINES, LINES[1]])
    assert remove(folder, listed, EXPECTED) == (3, 2)
    assert remove(folder, listed, EXPECTED) == (3, 0)


@pytest.mark.parametrize("line", ["/etc/passwd", "art/../../x.jpg", "art/cat", "x"])
def test_lines_that_lie_elsewhere_are_refused(line: str, folder: Path) -> None:
    with pytest.raises(UserError, match="which is not domain/class/file"):
        remove(folder, written(folder, [line, *LINES]), EXPECTED)
    assert len(list(folder.rglob("*.jpg"))) == 9


def test_another_list_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"it has art 2; expected art 2, photo 1$"):
        remove(folder, written(folder, LINES[:2]), EXPECTED)
    with pytest.raises(UserError, match="it has nothing"):
        remove(folder, written(folder, []), EXPECTED)
    with pytest.raises(UserError, match="can't be read"):
        remove(folder, folder / "no.txt", EXPECTED)
    assert len(list(folder.rglob("*.jpg"))) == 9


def test_files_behind_a_link_are_left(folder: Path) -> None:
    elsewhere = folder.parent / "shared"
    (folder / "photo").rename(elsewhere)
    (folder / "photo").symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"photo/cat is a link to .*shared/cat: nothing is removed through one"):
        remove(folder, written(folder, LINES), EXPECTED)
    assert (folder / LINES[0]).exists()
    assert (folder / LINES[2]).exists()
