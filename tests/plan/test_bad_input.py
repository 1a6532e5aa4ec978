"""Wrong input through the real command: told in full, exit code 2, and nothing written."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dgbench import cli, collect
from dgbench.datasets._own import MAY_LACK
from tests.plan.conftest import Refused
from tests.support.commands import sweep, train
from tests.support.in_process import execute_all, sweep_of
from tests.support.layouts import write_csv, write_folders, write_image

# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--algorithms", "ERMM"], "unknown algorithm 'ERMM': did you mean 'ERM'?"),
        (["--algorithms", "sam"], "unknown algorithm 'sam': did you mean 'SAM'?"),
        (["--algorithms", "SAM+SWADD"], "unknown word in 'SAM+SWADD': 'SWADD': did you mean 'SWAD'?"),
        (["--algorithms", "ERM+DiVA"], "unknown word in 'ERM+DiVA': 'DiVA': did you mean 'DiWA'?"),
        (["--algorithms", "T3A+ERM"], "'T3A+ERM' is in the wrong order: write 'ERM+T3A'"),
        (["--datasets", "RotatedDigit"], "unknown data set 'RotatedDigit': did you mean 'RotatedDigits'?"),
        (["--preset", "domainbed"], "unknown preset 'domainbed': did you mean 'domainbed-"),
        (["--n_hparam=3"], "unknown flag '--n_hparam': did you mean '--n_hparams'?"),
        (["--test_envs", "6"], "no domain is called 6, and numbers go from 0 to 5: there are 0, 15, 30, 45, 60, 75"),
        (["--test_envs", "76"], "no domain is called 76"),
        (["--test_domains", "left"], "unknown domain 'left'"),
        (["--test_domains", "0", "--train_domains", "0", "15"], "a domain trains, validates or is tested, not two"),
        (["--holdout_fraction", "0"], "setting 'holdout_fraction' must lie between 0 and 1"),
        (["--holdout_fraction", "1"], "setting 'holdout_fraction' must lie between 0 and 1"),
        (["--holdout_fraction", "half"], "argument --holdout_fraction: invalid float value: 'half'"),
        (["--steps", "0"], "setting 'steps' must be at least 1, not 0"),
        (["--evaluate", "some"], "setting 'evaluate' is one of selectors, all, not 'some'"),
        (["--hparams", "{"], "--hparams is not JSON"),
        (["--hparams", '{"backbone": "ResNet51"}'], "unknown backbone 'ResNet51'"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--include", "/nowhere/mine.py"], "/nowhere/mine.py"),
        (
            ["--datasets", "PACS"],
            "PACS is read from PACS under --data_dir, which is not given: "
            "fetch it with `dgbench download PACS --data_dir DIR`",
        ),
        (
            ["--datasets", "PACS", "--data_dir", "/nowhere"],
            "/nowhere/PACS, which does not exist: fetch it with `dgbench download PACS --data_dir /nowhere`",
        ),
        (["--datasets", "RotatedMNIST", "--data_dir", "/nowhere"], "RotatedMNIST needs train-images-idx3-ubyte"),
        (["--datasets", "folder:/nowhere"], "the folder /nowhere, which does not exist"),
        (["--datasets", "csv:/nowhere.csv"], "/nowhere.csv"),
        (["--sweep", "/nowhere.toml"], "--sweep /nowhere.toml: there is no such file"),
        (
            ["--algorithms", "DiWA", "--n_hparams", "1"],
            "DiWA merges the runs of one trial, at least 2; ",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_thing_wrong_is_one_line(words: list[str], said: str, refused: Refused) -> None:
    (line,) = refused(*words)
    assert said in line


def test_all_that_is_wrong_with_hparams_is_told_at_once(refused: Refused) -> None:
    hparams = '{"lrr": 1, "lr": "fast", "batch_size": 2.5, "SWAD": {"tolerance": 1}, "steps": true}'
    lines = refused("--algorithms", "ERM+SWAD", "--hparams", hparams)
    assert [line.partition(":")[0] for line in lines] == [
        "unknown hyperparameter 'lrr'",
        "ERM",
        "ERM",
        "unknown hyperparameter of SWAD 'tolerance'",
    ]
    assert lines[1:3] == ["ERM: lr is a float, not 'fast'", "ERM: batch_size is an int, not 2.5"]
    (line,) = refused("--hparams", '{"steps": true}')
    assert line == "setting 'steps' is an int, not True"


def test_values_that_a_method_can_t_work_with_are_told_at_once_with_its_name(refused: Refused) -> None:
    rows = ("--algorithms", "ERM+SWAD", "SAM", "UDIM", "DiWA+TENT")
    hparams = '{"SWAD": {"n_converge": 0, "form": "oficial"}, "lr": -1, "rho": -2, "TENT": {"steps": 0}}'
    assert refused(*rows, "--hparams", hparams) == [
        "SWAD: n_converge must be at least 1, not 0",
        "SWAD: form is one of official, paper, not 'oficial'",
        "ERM, SAM, UDIM: lr must be at least 0, not -1",
        "SAM, UDIM: rho must be at least 0, not -2",
        "TENT: steps must be at least 1, not 0",
    ]


def test_values_that_do_not_go_together_are_told_at_once_with_the_methods_name(refused: Refused) -> None:
    rows = ("--algorithms", "ERM+SWA", "KNN", "SMA", "T3A", "KD")
    hparams = """{"SWA": {"lowest": 0.7}, "k": 5000, "SMA": {"start": 1}, "T3A": {"filter_K": 0},
        "KD": {"teacher": "SMA"}}"""
    assert sorted(refused(*rows, "--hparams", hparams)) == [
        "KD's teacher: SMA: start must be at least 2, not 1: the step before it is averaged too",
        "KNN: k must not be above queue_size, 1000, but it is 5000",
        "SMA: start must be at least 2, not 1: the step before it is averaged too",
        "SWA: lowest must not be above factor, 0.5, but it is 0.7",
        "T3A: filter_K must be at least 1, or -1 for all, not 0",
    ]


def test_a_declared_draw_of_values_that_a_method_can_t_work_with_is_told(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        'algorithms = ["SAM", "KNN"]\ndatasets = ["RotatedDigits"]\n[space]\nrho = "U(-1, 0)"\n'
    )
    assert refused("--sweep", f"{tmp_path}/own.toml") == [
        "[space] SAM: rho must be at least 0, not -1.0, as U(-1, 0) draws it"
    ]
    (tmp_path / "own.toml").write_text(
        'algorithms = ["SAM", "KNN"]\ndatasets = ["RotatedDigits"]\n[space]\nk = "{10, 20000}"\n'
    )
    (line,) = refused("--sweep", f"{tmp_path}/own.toml")
    assert line.startswith("KNN: k must not be above queue_size, ")
    assert line.endswith(", but it is 20000")


def test_all_that_is_wrong_with_a_command_line_is_told_at_once(refused: Refused, tmp_path: Path) -> None:
    write_image(tmp_path / "one" / "a" / "x" / "1.jpg")
    lines = refused(
        *("--algorithms", "ERMM", "SAM+SWADD", "--datasets", "PACKS", "PACS", f"folder:{tmp_path}/one"),
        *("--n_hparams", "0", "--n_trials", "0", "--holdout_fraction", "1", "--preset", "x", "--jobs", "0"),
        *("--single_source", "--test_envs", "0", "--hparams", '{"steps": 0}'),
    )
    wanted = ["--jobs", "'ERMM'", "'SWADD'", "'PACKS'", "--n_hparams 0", "--n_trials 0", "'x'", "'steps'"]
    wanted += ["holdout_fraction", "--single_source", "--data_dir", "must be at least 2"]
    assert [part for part, line in zip(wanted, lines, strict=True) if part not in line] == []


# -- data ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "toy", {"a": 8, "b": 8, "c": 8}, ["x", "y"])


def only_domain_a(toy: Path) -> None:
    shutil.rmtree(toy / "b")
    shutil.rmtree(toy / "c")


def empty_class(toy: Path) -> None:
    for path in (toy / "b" / "x").iterdir():
        path.unlink()


def other_class(toy: Path) -> None:
    (toy / "c" / "x").rename(toy / "c" / "z")


def empty_image(toy: Path) -> None:
    (toy / "a" / "x" / "0000.jpg").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (only_domain_a, ["has 1 domain(s), there must be at least 2"]),
        (empty_class, ["class 'x' of domain 'b' has no image", MAY_LACK]),
        (lambda toy: shutil.rmtree(toy / "b" / "y"), ["domain(s) 'b' lack the class(es) 'y'", MAY_LACK]),
        (other_class, ["domain(s) 'c' have the class(es) 'z'", "domain(s) 'c' lack the class(es) 'x'", MAY_LACK]),
        (empty_image, ["1 image(s) hold nothing: 'a/x/0000.jpg'; --skip_bad_images leaves them out"]),
    ],
)
def test_what_is_wrong_with_a_folder_of_images_is_named(
    damage: Callable[[Path], object], said: list[str], toy: Path, refused: Refused
) -> None:
    damage(toy)
    lines = refused("--datasets", f"folder:{toy}", "--hparams", '{"batch_size": 2}')
    assert [part for part in said if not any(part in line for line in lines)] == []
    assert len(lines) == len(said)


def test_a_domain_smaller_than_the_batch_is_named_with_the_way_out(toy: Path, refused: Refused) -> None:
    lines = refused("--datasets", f"folder:{toy}", "--n_hparams", "1")
    [line] = lines
    assert line.endswith(
        "folder:toy: domain a has 7, domain b has 7, domain c has 7 examples to train on, fewer than a batch of 32: "
        "give a smaller one, --set batch_size=7"
    )


def test_what_is_wrong_with_a_csv_file_is_named(toy: Path, tmp_path: Path, refused: Refused) -> None:
    rows = [(f"toy/{d}/{c}/000{n}.jpg", d, c) for d in "ab" for n, c in enumerate("xy")]
    path = write_csv(tmp_path / "list.csv", [*rows, ("toy/nowhere.jpg", "a", "x")])
    (line,) = refused("--datasets", f"csv:{path}")
    assert line == f"{path} lists 1 file(s) that do not exist: 'toy/nowhere.jpg'; paths are below {tmp_path}"
    write_csv(path, rows, columns=("file", "domain", "label"))
    (line,) = refused("--datasets", f"csv:{path}")
    assert line.startswith(f"{path} lacks the column(s) 'path'")
    write_csv(path, [row for row in rows if row[1] == "a"])
    (line,) = refused("--datasets", f"csv:{path}")
    assert "at least 2" in line


# -- the sweep's folder -------------------------------------------------------------------------------------------


def test_a_folder_that_holds_another_sweep_or_something_else_is_left_alone(tmp_path: Path, refused: Refused) -> None:
    other = tmp_path / "other"
    sweep_of(other, "ERM", test_domains=["75"])
    lines = refused(
        *("--steps", "7", "--preset", "domainbed-2024", "--single_test_envs", "--hparams", '{"batch_size": 3}'),
        output_dir=other,
    )
    assert f"{other} holds a sweep with steps 20, not 7: use another folder" in lines
    assert f"{other} holds a sweep with preset 'dgbench', not 'domainbed-2024': use another folder" in lines
    assert f"{other} holds a sweep with other --hparams or space: use another folder" in lines
    assert f"{other} holds a explicit sweep, not leave-one-domain-out: use another folder" in lines
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "thesis.tex").write_text("irreplaceable")
    assert refused(output_dir=stranger) == [f"--output_dir {stranger} holds something else: use a new folder"]


def test_data_that_changed_since_are_refused(toy: Path, tmp_path: Path, refused: Refused) -> None:
    words = ["--datasets", f"folder:{toy}", "--test_envs", "c", "--n_hparams", "1", "--hparams", '{"batch_size": 2}']
    root = tmp_path / "begun"
    sweep_of(root, "ERM", datasets=[f"folder:{toy}"], test_envs=["c"], hparams={"batch_size": 2})
    write_image(toy / "a" / "x" / "0009.jpg")
    setting = ["--steps", "20", "--checkpoint_freq", "6"]
    (line,) = refused(*words, *setting, output_dir=root)
    assert line == (f"folder:toy is not the data that {root} was begun with (fingerprints differ): use another folder")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file system that can't be written."""
    place = tmp_path / "read_only"
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k,ro", "tmpfs", str(place)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_read_only_disk_is_told(read_only: Path, refused: Refused) -> None:
    assert refused(output_dir=read_only) == [f"{read_only} can't be used: Read-only file system"]
    (line,) = refused(output_dir=read_only / "new")
    assert line == f"--output_dir {read_only / 'new'} can't be made: {read_only} can't be written to"


def test_a_file_in_the_way_is_told(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("")
    (line,) = refused(output_dir=tmp_path / "file")
    assert line == f"--output_dir {tmp_path / 'file'} is a file: use a new folder"


@pytest.mark.parametrize("command", ["status", "retry", "cancel", "delete_incomplete", "prune"])
def test_a_folder_without_a_sweep_is_told_by_every_command(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(sweep.main, [command, "--output_dir", str(tmp_path)]) == 2
    assert f"{tmp_path} holds no sweep: there is no " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# -- other commands -----------------------------------------------------------------------------------------------


def test_an_unknown_selector_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep_of(tmp_path, "ERM")
    assert cli.run(collect.main, ["--input_dir", str(tmp_path), "--selector", "orcale"]) == 2
    assert "unknown selector 'orcale': did you mean 'oracle'?" in capsys.readouterr().err


def test_torn_and_garbage_records_are_cut_off_and_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = execute_all(sweep_of(tmp_path, "ERM"))
    words = ["--input_dir", str(tmp_path), "--selector", "oracle", "--format", "csv"]
    assert collect.main(words) == 0
    table = capsys.readouterr().out
    records = tmp_path / "runs" / found.plan.runs[0].id / "records.jsonl"
    with records.open("ab") as file:
        file.write(b'\x00\xff garbage\n{"step": 19, "predic')
    assert collect.main(["--input_dir", str(tmp_path), "--selector", "oracle"]) == 0
    said = capsys.readouterr().out
    assert "2 torn lines, cut off" in said
    assert collect.main(words) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "ERM" in line] == [
        line for line in table.splitlines() if "ERM" in line
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--algorithm", "VRex", "--test", "75"], "unknown algorithm 'VRex': did you mean 'VREx'?"),
        (["--algorithm", "ERM", "--test", "9"], "no domain is called 9"),
        (["--algorithm", "DiWA", "--test", "75"], "'DiWA' merges several runs"),
        (["--algorithm", "ERM"], "--test"),
        (["--algorithm", "ERM", "--test", "75", "--hparams", '{"rho": 1}'], "unknown hyperparameter 'rho'"),
    ],
)
def test_one_run_by_hand_refuses_as_well(
    words: list[str], said: str, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(train.main, ["--dataset", "RotatedDigits", *words, "--output_dir", str(new)]) == 2
    assert said in capsys.readouterr().err
    assert not new.exists()
