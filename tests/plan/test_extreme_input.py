"""Input at the edges of what can be written: very long, very deep, very many, below zero. Each is refused in a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dgbench import cli
from tests.plan.conftest import Refused
from tests.support.commands import sweep, train

LONG = "n" * 300


@pytest.fixture
def declared(tmp_path: Path, refused: Refused) -> Callable[[str], list[str]]:
    """Launch a sweep file of this text; the lines of what was said."""

    def launch(text: str) -> list[str]:
        (tmp_path / "own.toml").write_text(text, encoding="utf-8")
        return refused("--sweep", f"{tmp_path}/own.toml")

    return launch


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--n_trials_from", "-1"], "--n_trials_from must be at least 0, not -1"),
        (["--n_hparams_from", "-2", "--n_hparams", "2"], "--n_hparams_from must be at least 0, not -2"),
        (["--n_trials", "-3"], "--n_trials -3 leaves no trial: it ends a range from 0"),
        (
            ["--n_trials", "100000000"],
            "--n_trials and --n_hparams ask for 2,000,000,000 runs of each row in each fold, more than 1,000,000",
        ),
        (
            ["--n_trials", "4000"],
            "rows, folds, --n_trials and --n_hparams ask for 1,680,000 runs on RotatedDigits, more than 1,000,000",
        ),
        (["--n_trials_from", "9" * 30], "--n_trials_from must fit in 64 bits, not 999999"),
        (["--n_hparams", "9" * 30], "--n_hparams must fit in 64 bits, not 999999"),
        (["--steps", "9" * 30], "--steps must fit in 64 bits, not 999999"),
        (["--steps", "9" * 5000], "argument --steps: invalid int value: '9999"),
        (
            ["--steps", "100000000", "--checkpoint_freq", "1"],
            "on RotatedDigits 100,000,000 steps with checkpoint_freq 1 are 100,000,000 evaluations, more than 100,000",
        ),
        (["--hparams", '{"batch_size": ' + "9" * 30 + "}"], "ERM: batch_size must fit in 64 bits, not 999999"),
        (["--hparams", '{"lr": ' + "9" * 400 + "}"], "ERM: lr must fit in 64 bits, not 99999"),
        (["--hparams", '{"lr": ' + "9" * 5000 + "}"], "--hparams is not JSON: "),
        (["--hparams", '{"lr": NaN}'], "ERM: lr is a float, not nan"),
        (["--hparams", "[" * 100_000], "--hparams is not JSON: it is nested too deeply"),
        (["--hparams", "[" + "1, " * 10_000 + "1]"], '--hparams is a JSON object like {"lr": 0.001}, not [1, 1'),
        (["--test_envs", "9" * 5000], "no domain is called 9999"),
        (["--algorithms", LONG], f"unknown algorithm '{LONG}'"),
        (["--include", f"/tmp/{LONG}.py"], "File name too long"),
        (["--include", f"/tmp/{LONG}.py:Name"], "File name too long"),
        (["--datasets", f"folder:/tmp/{LONG}"], "File name too long"),
        (["--datasets", f"csv:/tmp/{LONG}.csv"], "File name too long"),
        (["--datasets", "PACS", "--data_dir", f"/tmp/{LONG}"], "File name too long"),
        (["--sweep", f"/tmp/{LONG}.toml"], "File name too long"),
        (["--backbone_weights", f"/tmp/{LONG}.pth"], "File name too long"),
        (["--cache_dir", f"/tmp/{LONG}"], "File name too long"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_is_too_long_or_too_much_is_one_short_line(words: list[str], said: str, refused: Refused) -> None:
    (line,) = refused(*words)
    assert said in line
    assert len(line) < 2_000


@pytest.mark.parametrize("output_dir", ["/dev/null/x", f"/tmp/{LONG}", f"/tmp/{LONG}/x", "/dev/null"])
def test_an_output_folder_that_cannot_be_is_refused_before_work(output_dir: str, refused: Refused) -> None:
    (line,) = refused(output_dir=Path(output_dir))
    assert "--output_dir" in line or "File name too long" in line


@pytest.mark.parametrize("command", ["status", "retry", "cancel", "delete_incomplete", "prune"])
@pytest.mark.parametrize("output_dir", ["/dev/null/x", f"/tmp/{LONG}"])
def test_every_command_refuses_such_a_folder(command: str, output_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(sweep.main, [command, "--output_dir", output_dir]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = " + "[" * 50_000, "own.toml can't be read: it is nested too deeply"),
        ("setting.steps" + ".a" * 2_000 + " = 1", "setting 'steps' is an int, not {'a': "),
        ("hparams.ERM.lr" + ".a" * 2_000 + " = 1", "ERM: lr is a float, not {'a': "),
        ("space.lr" + ".a" * 2_000 + " = 1", "[space] lr is a draw in quotes, such as 'U(0, 1)', not {'a': "),
        (f"n_trials_from = {'9' * 30}", "n_trials_from must fit in 64 bits"),
        ("n_trials_from = -1", "n_trials_from must be at least 0, not -1"),
        (r'datasets = ["folder:/tmp/a\u0000b"]', "a\\x00b"),
        ('space.lr = "U(1, 0)"', "[space] ERM: lr draws from 1 down to 0, which leaves nothing: write U(0, 1)"),
        ('space.lr = "10^U(-3, -5)"', "lr draws from -3 down to -5, which leaves nothing: write 10^U(-5, -3)"),
        ('space.lr = "10^U(0, 1000)"', "lr is a float, which 10^U(0, 1000) does not give at its ends"),
        ('space.lr = "-1^U(0, 1.5)"', "lr is a float, which -1^U(0, 1.5) does not give at its ends"),
        ('space.lr = "0^U(-1, 1)"', "lr is a float, which 0^U(-1, 1) does not give at its ends"),
        ('space.batch_size = "int U(0, 1e999)"', "batch_size is an int, which int U(0, inf) does not give at its ends"),
        ('space.batch_size = "int U(1, 1e30)"', "batch_size must fit in 64 bits"),
        (f'space.batch_size = "{{8, {"9" * 30}}}"', "batch_size must fit in 64 bits"),
    ],
    ids=lambda text: text[:24],
)
def test_sweep_files_at_the_edges_are_told_in_a_line(
    text: str, said: str, declared: Callable[[str], list[str]]
) -> None:
    names = [f"{key} = [{value!r}]\n" for key, value in (("algorithms", "ERM"), ("datasets", "RotatedDigits"))]
    (line,) = declared("".join(name for name in names if name.split()[0] not in text) + text)
    assert said in line
    assert len(line) < 2_000


@pytest.mark.parametrize(
    "code", ["import sys\nsys.exit(0)", "raise SystemExit", "exit()", "import sys; sys.exit('no')"]
)
@pytest.mark.parametrize("name", ["", ":Mine"])
def test_an_included_file_that_exits_is_refused(code: str, name: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "script.py").write_text(code)
    (line,) = refused("--include", f"{tmp_path}/script.py{name}")
    assert "it ends the process while it is imported (sys.exit)" in line
    assert "script.py" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hparams_seed", "-1"], "--hparams_seed must be at least 0, not -1"),
        (["--trial_seed", "-1"], "--trial_seed must be at least 0, not -1"),
        (["--trial_seed", "9" * 30], "--trial_seed must fit in 64 bits"),
        (["--threads", "0"], "--threads must be at least 1, not 0"),
        (["--workers", "-1"], "--workers must be at least 0, not -1"),
    ],
)
def test_numbers_of_one_run_by_hand_have_limits(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    basic = ["--algorithm", "ERM", "--dataset", "RotatedDigits", "--test", "75", "--output_dir", f"{tmp_path}/new"]
    assert cli.run(train.main, [*basic, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "new").exists()
