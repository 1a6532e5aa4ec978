from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from dgbench.core.data_cards import Archive
from dgbench.core.errors import UserError
from dgbench.data.archives import extract, move_folder_of, unpack_archives
from dgbench.data.downloads import Unreachable
from tests.support.layouts import write_tar, write_zip


def silent(what: str, done: int, total: int) -> None:
    pass


def packed(folder: Path, suffix: str, files: dict[str, bytes]) -> Path:
    write = write_zip if suffix == ".zip" else write_tar
    return write(folder / f"a{suffix}", files)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz"])
def test_files_come_out_as_they_went_in(suffix: str, tmp_path: Path) -> None:
    files = {"a/b c/1.jpg": b"one", "a/2.jpg": b"", "3": b"three"}
    extract(packed(tmp_path, suffix, files), tmp_path / "out", silent)
    assert contents(tmp_path / "out") == files


def test_what_macos_packs_beside_is_left_out(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"a/1.jpg": b"one", "__MACOSX/a/._1.jpg": b"x"})
    extract(archive, tmp_path / "out", silent)
    assert contents(tmp_path / "out") == {"a/1.jpg": b"one"}


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a\\..\\x", "C:/x"])
def test_nothing_is_written_outside(suffix: str, name: str, tmp_path: Path) -> None:
    archive = packed(tmp_path, suffix, {"a/1": b"1", name: b"evil"})
    with pytest.raises(UserError, match="outside its folder"):
        extract(archive, tmp_path / "deep" / "out", silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == [archive.name, "deep"]
    assert contents(tmp_path / "deep") == {"out/a/1": b"1"}


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_name_that_no_disk_holds_is_told(suffix: str, tmp_path: Path) -> None:
    long = "a/" + 300 * "n" + "/1.jpg"
    archive = packed(tmp_path, suffix, {"a/0.jpg": b"0", long: b"1"})
    with pytest.raises(UserError) as caught:
        extract(archive, tmp_path / "out", silent)
    (said,) = caught.value.problems
    assert said.startswith(f"{archive} holds 'a/nnn")
    assert "(File name too long): unpack it elsewhere" in said
    assert len(said) < len(str(archive)) + 250


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_compressed_archive_with_a_wrong_byte_is_told(suffix: str, tmp_path: Path) -> None:
    archive = tmp_path / f"x{suffix}"
    with tarfile.open(archive, f"w:{suffix.rpartition('.')[2]}") as tar:
        for number in range(3):
            member = tarfile.TarInfo(f"{number}.bin")
            content = os.urandom(700_000)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    content = bytearray(archive.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"can't be unpacked .*: it is damaged or not an archive"):
        extract(archive, tmp_path / "out", silent)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("a")
        member.type, member.linkname = kind, "../../etc"
        archive.addfile(member)
    with pytest.raises(UserError, match="a link or a device, 'a'"):
        extract(tmp_path / "a.tar", tmp_path / "out", silent)


def test_links_in_zip_files_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        member = zipfile.ZipInfo("a")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "../..")
    with pytest.raises(UserError, match="a link or a device, 'a'"):
        extract(tmp_path / "a.zip", tmp_path / "out", silent)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_bomb_is_stopped_at_its_bound(suffix: str, tmp_path: Path) -> None:
    archive = packed(tmp_path, suffix, {"a": bytes(20_000_000)})
    for limit in (0, 5_000_000):
        with pytest.raises(UserError, match=f"unpacks to more than {limit or 100 * archive.stat().st_size:,} bytes"):
            extract(archive, tmp_path / str(limit), silent, limit=limit)
        assert (tmp_path / str(limit) / "a").stat().st_size <= (limit or 100 * archive.stat().st_size)
    extract(archive, tmp_path / "enough", silent, limit=20_000_000)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for n, names in enumerate((["a", "a"], ["a", "a/b"], ["a/b", "a"])):
        with tarfile.open(tmp_path / f"{n}.tar", "w") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        with pytest.raises(UserError, match="two files of the same name"):
            extract(tmp_path / f"{n}.tar", tmp_path / str(n), silent)


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_a_damaged_archive_is_told(suffix: str, tmp_path: Path) -> None:
    archive = packed(tmp_path, suffix, {"a/1": os.urandom(50_000), "a/2": os.urandom(50_000)})
    content = bytearray(archive.read_bytes())
    if suffix == ".zip":
        content[60_000:60_100] = bytes(100)
    else:
        del content[60_000:]
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"can't be unpacked \(.+\): it is damaged"):
        extract(archive, tmp_path / "out", silent)


@pytest.mark.parametrize(("content", "said"), [(b"<html>quota", "it begins with b'<html>quota'"), (b"", "it is empty")])
def test_what_is_no_archive_is_told(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match=f"neither a zip nor a tar file: {said}"):
        extract(tmp_path / "a.zip", tmp_path / "out", silent)


def test_half_a_zip_is_told_as_that(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"x": os.urandom(1000)})
    archive.write_bytes(archive.read_bytes()[:500])
    with pytest.raises(UserError, match="it begins as a zip file and was cut short, get it again"):
        extract(archive, tmp_path / "out", silent)


def test_sources_are_unpacked_linked_or_copied(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"x/1": b"1"})
    (tmp_path / "own" / "y").mkdir(parents=True)
    (tmp_path / "own" / "y" / "2").write_bytes(b"2")
    (tmp_path / "own" / "y" / "3").symlink_to(tmp_path / "own" / "y" / "2")
    (tmp_path / "list.txt").write_text("l")
    place = unpack_archives(
        [Archive("a.zip", into="z")], tmp_path / "s", [archive, tmp_path / "own", tmp_path / "list.txt"], silent
    )
    assert contents(place) == {"z/x/1": b"1", "y/2": b"2", "y/3": b"2", "list.txt": b"l"}
    assert (place / "y" / "2").samefile(tmp_path / "own" / "y" / "2")
    assert not (place / "y" / "3").is_symlink()


def test_links_that_lead_upward_are_not_copied(tmp_path: Path) -> None:
    given = tmp_path / "given"
    for name in ("a", "b"):
        (given / name).mkdir(parents=True)
        (given / name / "1").write_bytes(b"1")
    (given / "a" / "up").symlink_to(given)
    (given / "a" / "self").symlink_to(given / "a")
    (given / "a" / "other").symlink_to(given / "b")
    (given / "b" / "back").symlink_to(given / "a")
    folder = unpack_archives((), tmp_path / "data", [given], silent)
    assert contents(folder) == dict.fromkeys(("a/1", "b/1", "a/other/1", "b/back/1"), b"1")


def test_all_sources_are_checked_before_any_is_unpacked(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"x/1": b"1"})
    with pytest.raises(UserError) as caught:
        unpack_archives([Archive("a.zip", md5="0")], tmp_path / "s", [archive, tmp_path / "no"], silent)
    first, second = caught.value.problems
    assert "is not the published a.zip" in first
    assert second == f"--from {tmp_path / 'no'}: there is no such file or folder"
    assert not (tmp_path / "s").exists()
    renamed = archive.rename(tmp_path / "mine.zip")
    assert contents(unpack_archives([Archive("a.zip", md5="0")], tmp_path / "s", [renamed], silent)) == {"x/1": b"1"}


def test_what_only_a_browser_gets_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"no program can fetch b.zip"):
        unpack_archives([Archive("a.zip", "http://x"), Archive("b.zip")], tmp_path, (), silent)
    with pytest.raises(Unreachable, match="dgbench doesn't fetch it: get it yourself"):
        unpack_archives([], tmp_path, (), silent)


@pytest.mark.parametrize("wrapped", ["", "kfold", "a/b"])
def test_the_folder_of_the_domains_is_found_wherever_it_is(wrapped: str, tmp_path: Path) -> None:
    for name in ("art", "photo"):
        (tmp_path / "in" / wrapped / name).mkdir(parents=True)
    move_folder_of(("art", "photo"), tmp_path / "in", tmp_path / "out" / "PACS")
    assert sorted(path.name for path in (tmp_path / "out" / "PACS").iterdir()) == ["art", "photo"]


def test_domains_that_are_nowhere_or_twice_are_told(tmp_path: Path) -> None:
    (tmp_path / "x" / "art").mkdir(parents=True)
    with pytest.raises(UserError, match="holds the domains art, photo: missing photo"):
        move_folder_of(("art", "photo"), tmp_path, tmp_path / "out")
    (tmp_path / "y" / "art").mkdir(parents=True)
    with pytest.raises(UserError, match="several folders hold the domains art: x, y"):
        move_folder_of(("art",), tmp_path, tmp_path / "out")
