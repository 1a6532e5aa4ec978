"""The wheel, built and installed into an environment that has nothing of ours, and used from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support.pages import Reader, blocks
from tests.support.places import ROOT

pytestmark = pytest.mark.slow


def run(*words: str | Path, where: Path) -> str:
    """What a command prints; it must succeed, and finds nothing by way of this process."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([str(word) for word in words], cwd=where, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what a source distribution holds, so that nothing is left in the checkout."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    shutil.copytree(ROOT / "dgbench", source / "dgbench", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, source, where=place)
    (found,) = place.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment that has the wheel, and our dependencies by a plain path."""
    place = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", place / "venv", where=place)
    folder = place / "venv" / "bin"
    run(folder / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, where=place)
    (site,) = (place / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def test_it_holds_the_package_whole_and_nothing_beside(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"dgbench"}
    packed = {name for name in names if name.startswith("dgbench/")}
    there = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "dgbench").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == there
    for expected in ("py.typed", "algorithms/erm.py", "datasets/_digits.py", "averaging/swad.py", "merging/diwa.py"):
        assert f"dgbench/{expected}" in packed


def test_it_trains_from_another_folder(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import dgbench; print(dgbench.__file__)", where=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    words = ["--algorithm", "ERM+SMA", "--dataset", "RotatedDigits", "--test", "75", "--steps", "5", "--threads", "1"]
    said = run(installed / "python", "-m", "dgbench.train", *words, where=tmp_path)
    assert "\nERM+SMA " in said
    assert list(tmp_path.glob("train_output/ERM+SMA-*/plan.json"))


def test_the_console_command_lists_the_catalogue(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "dgbench", "list", "datasets", where=tmp_path)
    assert "RotatedDigits" in said
    assert "PACS" in said
    assert "DiWA" in run(installed / "dgbench", "list", "mergers", where=tmp_path)
    assert "\npacs " in run(installed / "dgbench", "list", "sweeps", where=tmp_path)


def test_a_shipped_sweep_is_launched_by_its_name(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "dgbench", "launch", "runs/quick", "--sweep", "quickstart", "--dry_run", where=tmp_path)
    assert "\n252 runs\n" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(600)
def test_every_command_of_the_readme_works(installed: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path / "reader", checkout=False, python=str(installed / "python"))
    followed = [block for block in blocks((ROOT / "README.md").read_text()) if block.is_followed and not block.skip]
    assert len(followed) >= 2
    for block in followed:
        reader.follow(block)
