from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dgbench.core.errors import UserError
from dgbench.data import downloads
from dgbench.data.downloads import Unreachable, download_file
from tests.support.http_server import Host, serving

CONTENT = bytes(range(256)) * 40
MD5 = hashlib.md5(CONTENT).hexdigest()


def silent(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(downloads, "_PAUSE", 0)
    with serving({"/a.zip": CONTENT}) as host:
        yield host


def fetched(host: Host, folder: Path, md5: str = MD5, timeout: float = 5.0) -> bytes:
    return download_file(f"{host.url}/a.zip", folder / "new" / "a.zip", silent, md5=md5, timeout=timeout).read_bytes()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_comes_whole_and_alone(host: Host, tmp_path: Path) -> None:
    assert fetched(host, tmp_path) == CONTENT
    assert files(tmp_path) == ["new/a.zip"]


def test_what_is_there_is_not_fetched_again_if_it_has_the_hash(host: Host, tmp_path: Path) -> None:
    for _ in range(2):
        fetched(host, tmp_path)
    assert len(host.asked) == 1
    (tmp_path / "new" / "a.zip").write_bytes(b"other")
    assert fetched(host, tmp_path) == CONTENT
    assert len(host.asked) == 2


def test_progress_is_told_of_bytes(host: Host, tmp_path: Path) -> None:
    told = list[tuple[str, int, int]]()
    download_file(f"{host.url}/a.zip", tmp_path / "a.zip", lambda *of: told.append(of))
    assert told[-1] == ("bytes of a.zip fetched", len(CONTENT), len(CONTENT))


def test_a_broken_connection_is_taken_up_where_it_broke(host: Host, tmp_path: Path) -> None:
    host.break_after = 4000
    assert fetched(host, tmp_path) == CONTENT
    assert [asked for _, asked in host.asked] == ["", "bytes=4000-", "bytes=8000-"]
    assert files(tmp_path) == ["new/a.zip"]


def test_what_came_before_is_kept_for_the_next_call(host: Host, tmp_path: Path) -> None:
    host.break_after, host.breaks = 4000, 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloads, "_ATTEMPTS", 1)
        with pytest.raises(Unreachable, match=r"after 4,000 of 10,240 bytes; 4,000 bytes have come and are kept"):
            fetched(host, tmp_path)
    assert files(tmp_path) == ["new/a.zip.part", "new/a.zip.tag"]
    assert fetched(host, tmp_path) == CONTENT
    assert host.asked[-1] == ("/a.zip", "bytes=4000-")


@pytest.mark.parametrize("how", ["changed", "no ranges", "shorter"])
def test_parts_of_two_files_are_never_put_together(how: str, host: Host, tmp_path: Path) -> None:
    host.break_after, host.breaks = 4000, 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloads, "_ATTEMPTS", 1)
        with pytest.raises(Unreachable):
            fetched(host, tmp_path)
    content = CONTENT
    if how == "changed":
        host.tag, content = '"2"', CONTENT[::-1]
    elif how == "shorter":
        content = CONTENT[:3000]
    host.ranges = how != "no ranges"
    host.files = {"/a.zip": content}
    assert fetched(host, tmp_path, md5="") == content


@pytest.mark.parametrize("tag", ["", 'W/"1"'])
def test_without_a_tag_nothing_is_kept(tag: str, host: Host, tmp_path: Path) -> None:
    host.tag, host.break_after, host.breaks = tag, 4000, 1
    assert fetched(host, tmp_path) == CONTENT
    assert [asked for _, asked in host.asked] == ["", ""]
    host.breaks, host.files = 10**9, {"/b.zip": CONTENT}
    with pytest.raises(Unreachable, match="ended the connection"):
        download_file(f"{host.url}/b.zip", tmp_path / "b" / "b.zip", silent)
    assert files(tmp_path / "b") == []


def test_another_hash_is_refused_and_nothing_kept(host: Host, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=f"has another file than was published: its MD5 is {MD5}, not 0123"):
        fetched(host, tmp_path, md5="0123")
    assert files(tmp_path) == []


@pytest.mark.parametrize(("status", "times"), [(403, 1), (404, 1), (500, 3), (503, 3)])
def test_errors_are_told_with_their_number(status: int, times: int, host: Host, tmp_path: Path) -> None:
    host.status = status
    with pytest.raises(Unreachable, match=rf"/a.zip can't be fetched: {status} \w+"):
        fetched(host, tmp_path)
    assert len(host.asked) == times
    assert files(tmp_path) == []


def test_a_web_page_is_not_taken_for_the_file(host: Host, tmp_path: Path) -> None:
    host.content_type = "text/html; charset=utf-8"
    with pytest.raises(Unreachable, match="answers with a web page"):
        fetched(host, tmp_path, md5="")
    assert files(tmp_path) == []


def test_a_host_that_falls_silent_is_given_up(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_ATTEMPTS", 1)
    host.hangs = True
    with pytest.raises(Unreachable, match=r"the host sent nothing for 0.2 seconds"):
        fetched(host, tmp_path, timeout=0.2)


def test_a_dead_host_is_given_up(host: Host, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.zip"
    with pytest.raises(Unreachable, match="Connection refused"):
        download_file(url, tmp_path / "a.zip", silent)
    assert files(tmp_path) == []


def test_only_http_is_spoken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not an address"):
        download_file(f"file://{tmp_path}/a", tmp_path / "b", silent)


def test_a_full_disk_is_not_the_hosts_fault(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def on_a_full_disk(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        return opened(Path("/dev/full") if mode == "ab" else path, mode, *more, **named)

    monkeypatch.setattr(Path, "open", on_a_full_disk)
    with pytest.raises(OSError, match="No space left"):
        fetched(host, tmp_path)
    assert len(host.asked) == 1


def test_a_part_whose_tag_a_power_cut_emptied_is_not_resumed(host: Host, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.zip.part").write_bytes(b"of another file")
    (tmp_path / "new" / "a.zip.tag").touch()
    assert fetched(host, tmp_path) == CONTENT
    assert host.asked == [("/a.zip", "")]
    assert files(tmp_path) == ["new/a.zip"]
