"""What happens with inputs as people really have them: each row of tests/cases/README.md, by the commands.

What is read of each file is held in tests/datasets/test_own.py and tests/data/test_decoding.py.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from dgbench import cli, collect
from dgbench.report.render import FORMATS
from tests.cases.make_cases import tree
from tests.conftest import Cases
from tests.support.commands import sweep, train
from tests.support.places import TESTS

FLAGS = ("--algorithms", "ERM", "--n_hparams", "1", "--n_trials", "1", "--hparams", '{"batch_size": 4}', "--dry_run")


def planned(capfd: pytest.CaptureFixture[str], root: Path, data: str, *words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a launch that is planned and not begun."""
    code = cli.run(sweep.main, ["launch", *FLAGS, "--datasets", data, "--output_dir", str(root), *words])
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    assert not root.exists()
    return code, said.out, said.err


def test_the_table_of_cases_names_what_is_made(cases: Cases) -> None:
    said = (TESTS / "cases" / "README.md").read_text()
    for group, names in {"folders": 12, "csv_files": 4, "modes": 8, "domainbed": 5, "weights": 7}.items():
        assert f"{group}/" in said
        made = [path.name for path in cases(group).iterdir()]
        assert len(made) == names
        unnamed = {name for name in made if not re.search(re.escape(re.split(r"[ .]", name)[0]), said)}
        assert unnamed <= {"images", "good.csv", "plain.pth"}  # what is right, beside which the others stand


def at(cases: Cases, data: str) -> str:
    """Name a data set `folder:GROUP/CASE` by the place where the case lies."""
    kind, _, path = data.partition(":")
    group, _, name = path.partition("/")
    return f"{kind}:{cases(group) / name}"


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        ("folder:folders/split_as_class", "dgbench splits domains itself: merge these folders"),
        (
            "folder:folders/class_missing",
            "--allow_missing_classes trains and scores on the classes that each domain has",
        ),
        ("csv:csv_files/class_missing.csv", "domain(s) 'c' lack the class(es) 'y'"),
        ("csv:csv_files/two_spellings.csv", "more than once, in any spelling: './images/a/x/000.png'"),
    ],
)
def test_what_is_refused_at_launch(
    cases: Cases, tmp_path: Path, capfd: pytest.CaptureFixture[str], data: str, refusal: str
) -> None:
    code, _, errors = planned(capfd, tmp_path / "out", at(cases, data))
    assert code == 2
    assert refusal in errors


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("folder:folders/jfif_half", "72 examples in 3 domain(s): a 24, b 24, c 24; 2 class(es): x, y\n"),
        ("folder:folders/gif", "36 examples in 3 domain(s): a 12, b 12, c 12; 2 class(es): x, y\n"),
        ("folder:folders/link_loop", "72 examples in 3 domain(s): a 24, b 24, c 24"),
        ("folder:folders/not_utf8", "72 examples in 3 domain(s): a 24, b 24, c 24"),
        ("folder:folders/same_bytes", "the same bytes lie in two domains or classes, 6 time(s)"),
        ("folder:folders/odd names (2) [new]", "Avg 24, art painting 24, photo, real 24, sketch|bw 24; 2 class(es)"),
        ("folder:folders/escape", r"a\x1b[31m 24, b 24, c\nd 24; 2 class(es)"),
        ("folder:folders/bomb", "folder:bomb: 72 examples"),
        ("csv:csv_files/good.csv", "36 examples in 3 domain(s): a 12, b 12, c 12; 2 class(es): x, y\n"),
    ],
)
def test_what_is_planned_is_said_in_full(
    cases: Cases, tmp_path: Path, capfd: pytest.CaptureFixture[str], data: str, said: str
) -> None:
    code, output, _ = planned(capfd, tmp_path / "out", at(cases, data))
    assert code == 0
    assert said in output
    assert output.replace("\n", "").isprintable()


def test_names_steer_no_terminal_on_the_way_from_a_folder_to_its_tables(
    cases: Cases, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "odd\x1b[5m\nname", tmp_path / "out\x1b[5m"
    shutil.copytree(cases("folders") / "escape", folder)
    hparams = '{"batch_size": 4, "backbone": "MLP", "image_size": 8, "cache": "off"}'
    words = ["--algorithm", "ERM", "--dataset", f"folder:{folder}", "--test", "a\x1b[31m", "--hparams", hparams]
    words += ["--steps", "3", "--device", "cpu", "--threads", "1", "--output_dir", str(out)]
    assert cli.run(train.main, words) == 0
    said = capfd.readouterr()
    assert r"held out: a\x1b[31m of folder:odd\x1b[5m\nname" in said.err
    assert r"c\nd" in said.err
    assert cli.run(sweep.main, ["status", "--output_dir", str(out)]) == 0
    shown = [said.out, said.err, capfd.readouterr().out]
    for form in FORMATS:
        assert cli.run(collect.main, ["--input_dir", str(out), "--format", form]) == 0
        shown.append(capfd.readouterr().out)
    for text in shown:
        assert text
        assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("data", ["folder:folders/class_missing", "csv:csv_files/class_missing.csv"])
def test_where_a_class_is_missing_there_is_a_table_of_what_there_is(
    cases: Cases, tmp_path: Path, capfd: pytest.CaptureFixture[str], data: str
) -> None:
    kind, _, path = data.partition(":")
    name = path.partition("/")[2]
    hparams = '{"batch_size": 4, "backbone": "MLP", "image_size": 8, "cache": "off"}'
    words = ["--algorithm", "ERM", "--dataset", at(cases, data), "--test", "c", "--hparams", hparams]
    words += ["--steps", "3", "--device", "cpu", "--threads", "1", "--output_dir", str(tmp_path / "out")]
    assert cli.run(train.main, words) == 2
    assert "--allow_missing_classes" in capfd.readouterr().err
    assert cli.run(train.main, [*words, "--allow_missing_classes"]) == 0
    said, lacking = capfd.readouterr(), "z" if kind == "folder" else "y"
    assert f"# no example of: {lacking} in {kind}:{name} c (trained and scored on what there is)" in said.out
    assert f"domain 'c' has no example of the class(es) '{lacking}'" in said.err
    assert cli.run(train.main, words) == 0, "a folder keeps what it was begun with"
    words[1] = "TRM"
    assert cli.run(train.main, [*words[:-1], str(tmp_path / "trm"), "--allow_missing_classes"]) == 2
    assert f"TRM needs every class in every domain, which it would not have on {kind}:{name}" in capfd.readouterr().err


def test_an_image_that_can_not_be_decoded_is_refused_before_a_run_starts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tree(tmp_path / "own", n=4)
    (data / "a" / "x" / "002.png").write_text("<html>quota exceeded</html>")
    words = ["--algorithm", "ERM", "--dataset", f"folder:{data}", "--test", "c", "--steps", "3", "--threads", "1"]
    words += [
        "--hparams",
        '{"batch_size": 2, "backbone": "MLP", "image_size": 8}',
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert cli.run(train.main, words) == 2
    (said,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("dgbench: error"))
    assert f"image {data}/a/x/002.png can't be decoded" in said
    assert "repair it, or use --skip_bad_images" in said
    words[-1] = str(tmp_path / "without")
    assert cli.run(train.main, [*words, "--skip_bad_images"]) == 0
    assert "a 7, b 8, c 8" in capfd.readouterr().err


@pytest.mark.parametrize(("asked", "tested"), [("1", "1"), ("3", "3"), ("0", None)])
def test_a_number_is_the_name_of_a_domain_that_has_it(
    cases: Cases, tmp_path: Path, capfd: pytest.CaptureFixture[str], asked: str, tested: str | None
) -> None:
    data = f"folder:{cases('folders') / 'numeric_names'}"
    code, output, errors = planned(capfd, tmp_path / "out", data, "--test_envs", asked, "--single_test_envs")
    if tested is None:
        assert code == 2
        assert "no domain is called 0, and the domains have numbers for names: there are 1, 2, 3" in errors
    else:
        assert code == 0
        assert f"folder:numeric_names: tested are {tested}\n" in output


def test_how_own_images_are_turned_is_kept_with_a_sweep(
    cases: Cases, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tree(tmp_path / "own", n=4)
    shutil.copy(cases("modes") / "turned.jpg", data / "a" / "x" / "000.jpg")
    hparams = '{"batch_size": 2, "backbone": "MLP", "image_size": 8}'
    words = ["--algorithm", "ERM", "--dataset", f"folder:{data}", "--test", "c", "--steps", "3", "--threads", "1"]
    words += ["--hparams", hparams, "--output_dir", str(tmp_path / "out")]
    assert cli.run(train.main, [*words, "--exif", "turn"]) == 0
    table = capfd.readouterr().out
    assert cli.run(train.main, words) == 0
    assert capfd.readouterr().out == table
    assert cli.run(train.main, [*words, "--exif", "keep"]) == 2
    assert "is not the data that" in capfd.readouterr().err
