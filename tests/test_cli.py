"""Both spellings of a flag, wrong input in full, exit code 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dgbench.cli import Parser, run
from dgbench.core.errors import UserError


@pytest.fixture
def parser() -> Parser:
    made = Parser(prog="dgbench test")
    made.add_argument("--input_dir", required=True)
    made.add_argument("--dry-run", action="store_true")
    commands = made.add_subparsers(dest="command")
    commands.add_parser("launch").add_argument("--n_hparams", type=int, default=20)
    return made


@pytest.mark.parametrize("flag", ["--input_dir", "--input-dir"])
@pytest.mark.parametrize("joined", [True, False])
def test_either_spelling_with_value_apart_or_joined(parser: Parser, flag: str, joined: bool) -> None:
    words = [f"{flag}=a-b_c"] if joined else [flag, "a-b_c"]
    assert parser.parse_args(words).input_dir == "a-b_c"


def test_a_flag_declared_with_a_dash_takes_an_underscore(parser: Parser) -> None:
    assert parser.parse_args(["--input_dir", "x", "--dry_run"]).dry_run


def test_subcommands_take_either_spelling(parser: Parser) -> None:
    assert parser.parse_args(["--input-dir", "x", "launch", "--n-hparams", "3"]).n_hparams == 3


def test_every_unknown_flag_is_told_with_its_nearest(parser: Parser) -> None:
    with pytest.raises(UserError) as caught:
        parser.parse_args(["--input_dir", "x", "--dryrun", "launch", "--n_hparam=3", "stray"])
    assert set(caught.value.problems) == {
        "unknown flag '--dryrun': did you mean '--dry-run'?",
        "unknown flag '--n_hparam': did you mean '--n_hparams'?",
        "unexpected argument 'stray'",
    }


def test_what_argparse_refuses_is_a_user_error(parser: Parser) -> None:
    with pytest.raises(UserError, match="--input_dir"):
        parser.parse_args([])


@pytest.fixture
def placed() -> Parser:
    """Two subcommands: `one` takes one folder, `many` takes several."""
    made = Parser(prog="dgbench test")
    commands = made.add_subparsers(dest="command", required=True)
    for name in ("many", "one"):
        command = commands.add_parser(name, prog=f"dgbench {name}")
        command.add_folder("input_dir", "the folder", several=name == "many")
        command.add_argument("--n", type=int)
        command.add_argument("--names", nargs="+")
    return made


@pytest.mark.parametrize(
    "words",
    [
        ["one", "runs/a"],
        ["one", "runs/a", "--n", "3"],
        ["one", "--n", "3", "runs/a"],
        ["one", "--names", "x", "y", "--n", "3", "runs/a"],
        ["one", "--input-dir", "runs/a"],
        ["one", "runs/a", "--input_dir", "runs/a/"],
        ["one", "--", "runs/a"],
    ],
)
def test_a_folder_is_a_plain_argument_or_a_flag(placed: Parser, words: list[str]) -> None:
    found = placed.parse_args(words)
    assert found.input_dir == Path("runs/a")
    assert not {"folder", "_folder"} & vars(found).keys()


def test_several_folders_are_taken_in_their_order_each_once(placed: Parser) -> None:
    for words in (["many", "b", "a", "b/"], ["many", "--input_dir", "b", "a"], ["many", "b", "--n", "1", "a"]):
        assert placed.parse_args(words).input_dir == [Path("b"), Path("a")]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["one"], "name the sweep's folder, as in `dgbench one runs/mine` or by --input_dir"),
        (["many", "--names", "x", "runs/a"], "a plain argument goes before flags that take several words"),
        (["one", "a", "--input_dir", "b"], r"the folder is given twice, and differs: a and b \(--input_dir\)"),
        (["many", "a", "b", "--input_dir", "a"], "given twice, and differs: a, b and a"),
        (["one", "a", "--n", "3", "b"], "`dgbench one` takes one folder, not a, b"),
        (["one", "a" * 300], "File name too long"),
    ],
)
def test_no_folder_or_different_ones_are_refused(placed: Parser, words: list[str], why: str) -> None:
    with pytest.raises(UserError, match=why):
        placed.parse_args(words)


def test_an_unknown_flag_is_told_rather_than_the_words_behind_it(placed: Parser) -> None:
    with pytest.raises(UserError) as caught:
        placed.parse_args(["one", "a", "--nn", "3"])
    assert caught.value.problems == ("unknown flag '--nn': did you mean '--n'?", "unexpected argument '3'")


def test_ctrl_c_is_told_in_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str]) -> int:
        raise KeyboardInterrupt

    assert run(main, []) == 130
    assert capsys.readouterr().err == "dgbench: interrupted\n"


def test_run_prints_every_problem_and_gives_2(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str]) -> int:
        raise UserError("one", "two")

    assert run(main, []) == 2
    said = capsys.readouterr()
    assert said.err == "dgbench: error: one\ndgbench: error: two\n"
    assert said.out == ""


def test_run_passes_words_and_exit_code_through() -> None:
    assert run(len, ["a", "b", "c"]) == 3


def test_a_reader_who_goes_away_leaves_no_traceback() -> None:
    code = "from dgbench.cli import run\nrun(lambda argv: [print('x' * 100) for _ in range(10000)] and 0)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""


def test_names_of_files_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str]) -> int:
        print("\x1b[31mred\x07", "caf\udce9", "two\nlines", "\U0001f4a3 :bomb: [red]")
        assert sys.stdout.encoding
        raise UserError("no folder \x1b]0;title\x07 \x9b2J")

    before = sys.stdout
    assert run(main, []) == 2
    assert sys.stdout is before
    said = capsys.readouterr()
    assert said.out == "\\x1b[31mred\\x07 caf\\xe9 two\nlines \U0001f4a3 :bomb: [red]\n"
    assert said.err == "dgbench: error: no folder \\x1b]0;title\\x07 \\x9b2J\n"


def test_a_long_problem_is_cut_in_the_middle(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str]) -> int:
        raise UserError("unknown name " + "x" * 100_000 + ": write another")

    assert run(main, []) == 2
    said = capsys.readouterr().err
    assert len(said) < 1_600
    assert said.startswith("dgbench: error: unknown name xxx")
    assert said.endswith("xxx: write another\n")
    assert "[... 98,528 more ...]" in said


@pytest.mark.parametrize("name", ["n" * 300, "file/x", "loop/x"])
def test_a_path_that_the_system_can_not_look_at_is_told(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert run(lambda argv: len((tmp_path / argv[0]).read_text()), [name]) == 2
    assert capsys.readouterr().err.startswith(f"dgbench: error: {tmp_path / name} can't be used: ")


def test_a_path_of_a_flag_is_looked_at_before_the_command_begins(parser: Parser) -> None:
    parser.add_argument("--place", type=Path)
    parser.add_argument("--from", dest="sources", nargs="+", type=Path)
    assert parser.parse_args(["--input_dir", "x", "--place", "/new"]).place == Path("/new")
    with pytest.raises(UserError) as caught:
        parser.parse_args(["--input_dir", "x", "--place", "/dev/null/x", "--from", "/dev/null/a", "/dev/null/b"])
    assert caught.value.problems == (
        "--place /dev/null/x can't be: /dev/null is a file",
        "--from /dev/null/a can't be: /dev/null is a file",
        "--from /dev/null/b can't be: /dev/null is a file",
    )
