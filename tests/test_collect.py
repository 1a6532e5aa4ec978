"""The command: either kind of folder, any format, wrong input refused, no torch."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dgbench import cli
from dgbench.collect import main
from dgbench.core.protocol import SingleSource
from dgbench.report.domainbed.folder import RunArgs, write_run
from tests.conftest import Cases
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("own")
    OWN["make"](root)
    return root


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("foreign")
    for env in range(4):
        record = {f"env{i}_{part}_acc": (1 + i + env) / 10 for i in range(4) for part in ("in", "out")}
        write_run(root, RunArgs("VLCS", "ERM", (env,), 0, 0).to_json(1, 0.2), {}, [{"step": 0, **record}])
    return root


def test_our_own_folder(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--input_dir", str(own)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "Total records: 108\n\n-------- Dataset: ColoredMNIST, model selection method: training-domain "
    )
    assert said.count("-------- ") == 3
    assert said.count("# protocol: ") == 1, "one signature for all tables"
    assert main([str(own), "--format", "domainbed"]) == 0
    whole = capsys.readouterr().out
    assert (whole.count("-------- "), whole.count("# protocol: ")) == (6, 6), "DomainBed's form has averages too"
    assert "\nERM+SWAD  " in said


def test_a_domainbed_folder(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--input-dir", str(foreign), "--selector", "oracle"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == ["Algorithm", "C", "L", "S", "V", "Avg"]
    assert lines[4].split() == ["ERM", "10.0", "30.0", "50.0", "70.0", "40.0"]


@pytest.mark.parametrize("name", ["text", "markdown", "latex", "csv", "json", "domainbed"])
def test_every_format(own: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--input_dir", str(own), "--format", name, "--selector", "oracle", "training-domain"]) == 0
    said = capsys.readouterr().out
    assert "ERM+DiWA" in said
    assert said.index("oracle") < said.index("training-domain")
    assert "leave-one-domain-out cross-validation" not in said


def test_folders_are_plain_arguments_and_several_make_one_table(
    own: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(own), "--selector", "oracle"]) == 0
    single = capsys.readouterr().out
    (tmp_path / "b").mkdir()
    OWN["make"](tmp_path / "b", dataset="PACS", domains=("a", "b", "c"))
    assert main([str(own), str(tmp_path / "b"), "--selector", "oracle", "--strict"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Total records: 216\n")
    assert single.split("\n#")[0].split("\n\n")[1] in said, "a data set of one folder has the table that it had alone"
    assert f"# folders: {own}: ERM, ERM+SWAD, ERM+DiWA; {tmp_path / 'b'}: ERM, ERM+SWAD, ERM+DiWA\n" in said
    assert cli.run(main, [str(own), str(foreign), "--format", "csv"]) == 2
    assert "error: the folders differ in preset: domainbed-2020 in " in capsys.readouterr().err


def test_output_goes_to_a_file(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.json"
    assert main(["--input_dir", str(own), "--format", "json", "--output", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert json.loads(out.read_text())["records"] == 108


def test_incomplete_and_partial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = OWN["make"](tmp_path)
    folder = OWN["folder"](tmp_path, table, kind="train", hparams_seed=1, trial=0, held_out=("+90%",))
    (folder.path / "done").unlink()
    words = ["--input_dir", str(tmp_path), "--selector", "training-domain"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count("1 run waiting") == 4, "in ERM and ERM+SWAD: cell and average"
    assert "ERM, ERM+SWAD lack ERM [+90%], trial 0 hparams 1: waiting" in said
    assert "*" not in said
    assert main([*words, "--partial"]) == 0
    said = capsys.readouterr().out
    assert "1 run waiting  " not in said
    assert "ERM +90%*: 3 of 4 hyperparameter draws, 2 of 2 trials, 1 run waiting" in said


def test_a_sweep_that_has_not_begun_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OWN["make"](tmp_path, hparams=1, trials=1)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert main(["--input_dir", str(tmp_path), "--selector", "oracle", "--partial"]) == 0
    assert "1 run missing" in capsys.readouterr().out


def test_everything_wrong_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone"
    words = ["--input_dir", str(gone), "--selector", "orakle", "--format", "latx", "--output", str(gone / "x")]
    assert cli.run(main, words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "dgbench: error: unknown selector 'orakle': did you mean 'oracle'?",
        "dgbench: error: unknown format 'latx': did you mean 'latex'?",
        f"dgbench: error: --output {gone / 'x'}: there is no folder {gone}",
        f"dgbench: error: {gone}: there is no such folder",
    ]


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sub").mkdir()
    assert cli.run(main, ["--input_dir", str(tmp_path)]) == 2
    assert "holds no sweep: neither a plan.json nor folders with results.jsonl" in capsys.readouterr().err


def test_the_folder_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, []) == 2
    assert "--input_dir" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], None])
def test_it_imports_nothing_that_takes_long(own: Path, words: list[str] | None) -> None:
    words = words or ["--input_dir", str(own)]
    code = (
        "import sys\n"
        "from dgbench.collect import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    heavy = {'torch', 'torchvision', 'timm', 'pandas', 'scipy.stats', 'sklearn', 'PIL', 'rich'}\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def of_one_domain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("of_one_domain")
    OWN["make"](root, hparams=1, trials=1, protocol=SingleSource())
    return root


@pytest.mark.parametrize(("words", "number"), [([], 3 * 3 + 1), (["--columns", "fold"], 3 + 1)])
def test_columns_of_several_test_domains_are_asked_for(
    of_one_domain: Path, words: list[str], number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--input_dir", str(of_one_domain), "--selector", "oracle", "--format", "json"]
    assert main([*asked, *words]) == 0
    table = json.loads(capsys.readouterr().out)["tables"][0]
    assert len(table["columns"]) == len(table["rows"][0]["cells"]) == number


def test_strict_refuses_runs_that_were_made_differently(cases: Cases, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--input_dir", str(cases("domainbed") / "task"), "--strict", "--selector", "oracle"]
    assert cli.run(main, words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    first, second, last = said.err.splitlines()
    assert "different task on PACS" in first
    assert "different uda_holdout_fraction on PACS" in second
    assert last.startswith("dgbench: error: --strict: ")
    words[1] = str(cases("domainbed") / "single_source")
    assert cli.run(main, words) == 0


def test_a_part_of_the_tables_is_shown(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OWN["make"](tmp_path, dataset="PACS", domains=("a", "b", "c"))
    words = [str(own), str(tmp_path), "--selector", "oracle"]
    assert (
        main([*words, "--datasets", "PACS", "--rows", "ERM", "ERM+D*", "--columns", "b", "Avg", "--sort", "Avg"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("-------- ") for line in lines) == 1
    assert [line.split()[0] for line in lines[3:6]] == ["Algorithm", "ERM", "ERM+DiWA"]
    assert lines[3].split() == ["Algorithm", "b", "Avg"]
    assert "ERM+SWAD" not in lines[6], "the line of in-domain values too"
    wrong = ["--datasets", "VLCS"]
    assert cli.run(main, [*words, *wrong]) == 2
    assert "--datasets: unknown data set 'VLCS'" in capsys.readouterr().err
    assert cli.run(main, [*words, "--rows", "SWAD", "--columns", "Average", "--sort", "ERM"]) == 2
    said = capsys.readouterr().err
    assert "--rows: unknown row 'SWAD': did you mean 'ERM+SWAD'?" in said
    assert "--columns: unknown column 'Average'" in said
    assert "--sort: unknown column 'ERM'" in said


def test_csv_has_its_signature_in_a_file_beside(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(own), "--selector", "oracle", "--format", "csv"]
    asked = ["--rows", "ERM", "--columns", "trial", "score", "--sort", "score"]
    assert main([*words, *asked, "--output", str(tmp_path / "t.csv")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 't.csv'}\nwrote {tmp_path / 't.signature.json'}\n"
    header, *rows = (tmp_path / "t.csv").read_text().splitlines()
    assert header == "trial,score"
    scores = [float(row.split(",")[1]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3 * 2
    content = json.loads((tmp_path / "t.signature.json").read_text())
    assert content["signature"]["protocol"] == "leave-one-domain-out"
    assert cli.run(main, [*words, "--columns", "skore"]) == 2
    assert "--columns: unknown column 'skore': did you mean 'score'?" in capsys.readouterr().err


def test_parquet_needs_a_file(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, [str(own), "--format", "parquet"]) == 2
    assert "--format parquet is written to a file: name it by --output" in capsys.readouterr().err


def test_a_row_a_trial_has_no_place_for_published_numbers(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, [str(own), "--format", "csv", "--beside", "published"]) == 2
    assert "--beside goes with --format text, markdown, latex, json, not csv" in capsys.readouterr().err


def test_published_numbers_stand_beside(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(own), "--selector", "oracle", "--beside", "published"]) == 0
    said = capsys.readouterr().out
    assert "-------- Published, and left out\n# 0 of 28 published tables are shown\n" in said
    assert "# DomainBed 2020, oracle: it trains 5,001 steps, here 10\n" in said
    assert main([str(own), "--selector", "oracle", "--beside", "published", "--format", "json"]) == 0
    (section,) = json.loads(capsys.readouterr().out)["sections"]
    assert len(section["left_out"]) == 6, "of data sets that the sweep has"
