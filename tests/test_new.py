"""Files that `dgbench new` prints work as they are: each is included, trained and checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dgbench import analyze, cli, load_results, new
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.entry import KINDS
from dgbench.core.site import Site
from dgbench.networks.own import inspect_own
from tests.support.commands import check, sweep, train
from tests.support.in_process import execute_all, sweep_of
from tests.support.places import ROOT

SHORT = ("--steps", "30", "--threads", "1")


@pytest.fixture
def file(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The file of a kind, or of an example of an algorithm, for the name `OfMine`."""
    words = ["algorithm", "OfMine", "--like", request.param] if request.param in new.LIKE else [request.param, "OfMine"]
    assert new.main(words) == 0
    path = tmp_path / "of_mine.py"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.parametrize(
    ("file", "kind"),
    [*((kind, kind) for kind in KINDS), *((like, "algorithm") for like in new.LIKE)],
    indirect=["file"],
)
def test_the_file_defines_one_entry_of_its_kind_and_says_how_to_run_it(file: Path, kind: str) -> None:
    text = file.read_text()
    own = [entry for entry in Catalogue([file]).entries.values() if entry.file == str(file)]
    assert [(entry.kind, entry.name) for entry in own] == [(kind, "OfMine")]
    assert own[0].summary.endswith(".")
    assert "\ndgbench " in text
    assert " --include of_mine.py " in text
    assert "My" not in text.replace("OfMine", "")
    assert "mine.py" not in text.replace("of_mine.py", "")
    subprocess.run([sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), file], check=True)


@pytest.mark.parametrize(
    ("file", "row", "dataset", "test"),
    [
        ("algorithm", "OfMine+SAM+SWAD", "RotatedDigits", "75"),
        ("rule", "CORAL+OfMine", "RotatedDigits", "75"),
        ("average", "ERM+OfMine", "RotatedDigits", "75"),
        ("adapter", "ERM+OfMine", "RotatedDigits", "75"),
        ("dataset", "ERM", "OfMine", "60"),
    ],
    indirect=["file"],
)
def test_it_trains(file: Path, row: str, dataset: str, test: str, tmp_path: Path) -> None:
    words = ["--include", str(file), "--algorithm", row, "--dataset", dataset, "--test", test, *SHORT]
    assert cli.run(train.main, [*words, "--output_dir", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("file", ["network"], indirect=True)
def test_a_network_gives_features(file: Path) -> None:
    catalogue = Catalogue([file])
    name = catalogue.network("OfMine")
    assert list(catalogue.networks) == [name]
    facts = inspect_own(name, (1, 8, 8))
    assert (facts.width, facts.trained) == (128, False)
    subprocess.run([sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), file], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["merger"], indirect=True)
@pytest.mark.usefixtures("preloaded")
def test_a_merger_merges(file: Path, tmp_path: Path) -> None:
    words = ["--include", str(file), "--algorithms", "OfMine", "--datasets", "RotatedDigits", "--test_envs", "75"]
    size = ["--n_hparams", "3", "--n_trials", "1", "--single_test_envs", "--steps", "6", "--jobs", "1"]
    assert cli.run(sweep.main, ["launch", str(tmp_path / "out"), *words, *size, "--device", "cpu"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("file", ["analysis"], indirect=True)
@pytest.mark.usefixtures("preloaded")
def test_an_analysis_measures(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = execute_all(
        sweep_of(tmp_path / "runs", "ERM", setting={"steps": 3}, site=Site(device="cpu", save_models="all"))
    ).root
    words = ["OfMine", str(root), "--include", str(file), "--device", "cpu", "--jobs", "1"]
    out = ["--csv", str(tmp_path / "found.csv"), "--figures", str(tmp_path / "figures")]
    assert cli.run(analyze.main, [*words, *out]) == 0
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"RotatedDigits-OfMine-shares.{suffix}" for suffix in ("pdf", "png", "svg")
    }
    assert "confidence: mean of the largest probability" in capsys.readouterr().out
    results = load_results(root)
    found = results.series("OfMine")
    assert (tmp_path / "found-OfMine-shares.csv").read_text().count("\n") == 1 + len(found)
    views = results.plot.series("OfMine", "shares", dataset="RotatedDigits", held_out="75")
    assert len(views) == found[found["role"] != "validation"]["view"].nunique() - 1, "not the oracle's view"
    sums = found.groupby("view")["share"].sum()
    assert {*sums.index} == {*results.analyses["view"]}
    assert sums.to_numpy() == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["algorithm", *new.LIKE, "merger", "adapter"], indirect=True)
def test_the_method_passes_the_check(file: Path) -> None:
    assert cli.run(check.main, [str(file), "--draws", "0"]) == 0


@pytest.mark.parametrize("name", ["my_method", "My-Method", "2Methods", "_Method", "None", "", "ERM", "PACS", "Tensor"])
def test_names_that_no_entry_can_have_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(new.main, ["algorithm", name]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert name in said.err


def test_everything_wrong_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(new.main, ["algorithms", "sam"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "dgbench: error: unknown kind 'algorithms': did you mean 'algorithm'?",
        "dgbench: error: 'sam' can't name a class: it is one word of letters and digits that begins with a capital",
    ]


def test_examples_are_of_algorithms(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(new.main, ["algorithm", "Mine", "--like", "adversry"]) == 2
    assert "unknown example 'adversry': did you mean 'adversary'?" in capsys.readouterr().err
    assert cli.run(new.main, ["average", "Mine", "--like", "state"]) == 2
    assert "--like state is an example of an algorithm: leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "file"), [("Mine", "mine"), ("MyMethod", "my_method"), ("MyERM2", "my_erm2"), ("ERMLike", "erm_like")]
)
def test_the_file_is_named_as_the_class_in_small_letters(name: str, file: str) -> None:
    assert f"--include {file}.py" in new.new_file("algorithm", name)
