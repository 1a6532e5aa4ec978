"""The command on a data set of two domains that an included file declares."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dgbench import cli
from dgbench.data import downloads
from dgbench.download import main
from tests.conftest import Cases
from tests.support.http_server import Host, serving
from tests.support.layouts import files_under, truncate, write_folders, write_zip

CARD = """
from dgbench.core.data_cards import Archive, DatasetCard
from dgbench.datasets._images import ImageDataset

class Tiny(ImageDataset):
    "Two by two."

    card = DatasetCard(
        source="a page", licence="free", input_shape=(3, 8, 8), domains=("art", "photo"), classes=("cat", "dog"),
        counts={{"art": 4, "photo": 5}}, folder="tiny", mirrors=("another page",), note="for tests",
        known_bad={{"art/cat/0000.jpg": "ugly"}},
    )
    archives = (Archive("tiny.zip", "{url}/tiny.zip", "{md5}"),)
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "original", {"art": 4, "photo": 5}, ("cat", "dog"))


@pytest.fixture
def archive(original: Path, tmp_path: Path) -> Path:
    return write_zip(tmp_path / "tiny.zip", files_under(original, "kfold/"))


@pytest.fixture
def host(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(downloads, "_PAUSE", 0)
    with serving({"/tiny.zip": archive.read_bytes()}) as host:
        yield host


@pytest.fixture
def file(host: Host, archive: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny_set.py"
    path.write_text(CARD.format(url=host.url, md5=hashlib.md5(archive.read_bytes()).hexdigest()))
    return path


@pytest.fixture
def command(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str | Path, name: str = "Tiny") -> tuple[int, str, str]:
        flags = ["--data_dir", str(tmp_path / "data"), "--include", str(file)]
        code = cli.run(main, [name, *flags, *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return files_under(folder)


def test_fetched_checked_and_put_in_place(command: Command, original: Path, tmp_path: Path) -> None:
    code, out, err = command()
    assert code == 0
    assert [line.split(" of tiny.zip ")[1] for line in err.splitlines()] == ["fetched", "checked", "unpacked"]
    assert "Tiny, from a page; licence: free\n" in out
    assert f"Tiny in {tmp_path / 'data' / 'tiny'}: 9 examples (art 4, photo 5)\nfingerprint " in out
    assert "note: for tests" in out
    assert contents(tmp_path / "data" / "tiny") == contents(original)
    assert os.listdir(tmp_path / "data") == ["tiny"]


def test_what_is_there_is_not_fetched_again(command: Command, host: Host) -> None:
    command()
    code, out, _ = command()
    assert (code, len(host.asked)) == (0, 1)
    assert out.startswith("Tiny is there already\nTiny in ")


def test_what_is_there_and_wrong_is_left_alone(command: Command, host: Host, tmp_path: Path) -> None:
    write_folders(tmp_path / "data" / "tiny", {"art": 3, "photo": 5}, ("cat", "dog"))
    before = contents(tmp_path)
    code, _, err = command()
    assert (code, host.asked) == (2, [])
    assert "domain 'art' has 3 images, expected 4" in err
    assert "is there already and was not changed" in err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("how", ["zip", "folder"])
def test_ones_own_files_are_organised(
    how: str, command: Command, host: Host, archive: Path, original: Path, tmp_path: Path
) -> None:
    before = contents(original)
    code, _, err = command("--from", archive if how == "zip" else original)
    assert (code, host.asked) == (0, [])
    ended = {"zip": ["checked", "unpacked"], "folder": []}[how]  # the last line of progress, one for each kind of work
    assert [line.split(" of tiny.zip ")[1] for line in err.splitlines()] == ended
    assert contents(tmp_path / "data" / "tiny") == contents(original) == before
    assert os.listdir(tmp_path / "data") == ["tiny"]


def test_ones_own_files_must_have_the_layout_and_the_counts(command: Command, original: Path, tmp_path: Path) -> None:
    (original / "art" / "cat" / "0000.jpg").unlink()
    (original / "tmp").mkdir()
    (original / "tmp" / "1.txt").write_text("x")
    code, _, err = command("--from", write_zip(tmp_path / "mine.zip", files_under(original)))
    assert code == 2
    assert "domain 'art' has 3 images, expected 4" in err
    assert f"{tmp_path / 'data' / 'tiny'} has the unexpected folder(s) 'tmp': move them away" in err
    assert f"nothing was put into {tmp_path / 'data' / 'tiny'}" in err
    assert not (tmp_path / "data").exists()


def test_wrong_sources_are_told_at_once_and_leave_nothing(command: Command, archive: Path, tmp_path: Path) -> None:
    code, _, err = command("--from", tmp_path / "a.zip", tmp_path / "b.zip")
    assert (code, err.count("there is no such file or folder")) == (2, 2)
    archive.write_bytes(archive.read_bytes()[:-1])
    code, _, err = command("--from", archive)
    assert code == 2
    assert "is not the published tiny.zip" in err
    assert not (tmp_path / "data").exists()


def test_a_dead_host_says_where_else_to_look_and_leaves_nothing(command: Command, host: Host, tmp_path: Path) -> None:
    host.files = {}
    code, _, err = command()
    assert code == 2
    assert err.splitlines() == [
        f"dgbench: error: {host.url}/tiny.zip can't be fetched: 404 Not Found",
        "dgbench: error: Tiny is published at a page",
        "dgbench: error: other places: another page",
        f"dgbench: error: with the files at hand: python -m dgbench.download Tiny --data_dir {tmp_path / 'data'} "
        "--from tiny.zip",
    ]
    assert not (tmp_path / "data").exists()


def test_a_file_with_another_hash_is_not_unpacked(command: Command, host: Host, tmp_path: Path) -> None:
    host.files = {"/tiny.zip": b"other"}
    code, _, err = command()
    assert code == 2
    assert "has another file than was published" in err
    assert not (tmp_path / "data").exists()


def test_an_interrupted_fetch_goes_on(command: Command, host: Host, tmp_path: Path) -> None:
    host.break_after, host.breaks = 1000, 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloads, "_ATTEMPTS", 1)
        code, _, err = command()
    assert code == 2
    assert "1,000 bytes have come and are kept, run the same command again" in err
    assert sorted(contents(tmp_path / "data")) == [
        f".tiny.download/downloads/tiny.zip.{suffix}" for suffix in ("part", "tag")
    ]
    host.break_after = 0
    assert command()[0] == 0
    assert host.asked[-1] == ("/tiny.zip", "bytes=1000-")
    assert os.listdir(tmp_path / "data") == ["tiny"]


def test_what_a_killed_process_left_is_cleared(command: Command, tmp_path: Path) -> None:
    write_folders(tmp_path / "data" / ".tiny.download" / "tiny", {"art": 1}, ("cat",))
    assert command()[0] == 0
    assert os.listdir(tmp_path / "data") == ["tiny"]


def test_one_writer_at_a_time(command: Command, host: Host, file: Path, tmp_path: Path) -> None:
    host.hangs = True
    words = ["Tiny", "--data_dir", str(tmp_path / "data"), "--include", str(file)]
    first = subprocess.Popen([sys.executable, "-m", "dgbench.download", *words], stderr=subprocess.DEVNULL)
    try:
        while not host.asked:
            assert first.poll() is None
            time.sleep(0.02)
        code, _, err = command()
        assert code == 2
        assert "another process is making" in err
        assert len(host.asked) == 1
    finally:
        first.kill()
        first.wait()
    host.hangs = False
    assert command()[0] == 0


def test_verify_decodes_everything(command: Command, tmp_path: Path) -> None:
    command()
    code, out, err = command("--verify")
    assert (code, err) == (0, "9 of 9 examples decoded\n")
    assert "known: art/cat/0000.jpg: ugly" in out
    assert out.endswith("everything can be decoded\n")
    for name in ("art/cat/0002.jpg", "photo/dog/0001.jpg"):
        truncate(tmp_path / "data" / "tiny" / name)
    code, out, err = command("--verify")
    assert code == 1
    assert out.endswith("2 can't be decoded: get them again\n")
    assert [f"{name} can't be decoded" in err for name in ("art/cat/0002.jpg", "photo/dog/0001.jpg", "0000")] == [
        True,
        True,
        False,
    ]


def test_verify_refuses_what_opening_refuses(command: Command, tmp_path: Path) -> None:
    code, _, err = command("--verify")
    assert code == 2
    assert f"Tiny is expected in the folder {tmp_path / 'data' / 'tiny'}, which does not exist" in err


def test_ones_own_folder_is_verified_too(original: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, [f"folder:{original}", "--verify"]) == 0
    assert f"folder in {original}: 9 examples" in capsys.readouterr().out


def test_ones_own_folder_may_lack_classes(cases: Cases, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"folder:{cases('folders') / 'class_missing'}", "--verify"]
    assert cli.run(main, words) == 2
    assert "--allow_missing_classes" in capsys.readouterr().err
    assert cli.run(main, [*words, "--allow_missing_classes"]) == 0
    assert "domain 'c' has no example of the class(es) 'z'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Tinny", "did you mean 'Tiny'"),
        ("RotatedDigits", "RotatedDigits needs no files"),
        ("folder:/x", "reads your own files"),
    ],
)
def test_what_can_not_be_downloaded_is_told(name: str, said: str, command: Command) -> None:
    code, _, err = command(name=name)
    assert code == 2
    assert said in err


def test_where_to_is_asked_for(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, ["Tiny", "--include", str(file), "--remove_duplicates", str(file)]) == 2
    said = capsys.readouterr().err
    assert "--data_dir is needed: Tiny belongs into its folder tiny" in said
    assert "Tiny was not published with duplicates" in said


def test_a_link_in_the_place_of_its_own_folder_is_not_followed(command: Command, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("three years")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".tiny.download").symlink_to(tmp_path / "thesis")
    code, _, err = command()
    assert code == 2
    assert ".tiny.download is a link, and nothing is removed through one" in err
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "three years"
