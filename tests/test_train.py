"""One run by hand, in this process, and what its folder is good for afterwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from dgbench import cli
from dgbench.core.progress import TrainingDisplay
from dgbench.execute.training import Training
from dgbench.launchers import one_run
from dgbench.plan.planfile import read_plan
from dgbench.store.lease import Stopped
from dgbench.store.run_folder import RunFolder
from dgbench.train import main
from tests.support.in_process import records_of

BRIEF = ("--steps", "8", "--checkpoint_freq", "4", "--hparams", '{"batch_size": 16}', "--device", "cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def by_hand(root: Path, *words: str, algorithm: str = "ERM", test: tuple[str, ...] = ("75",)) -> int:
    basic = ["--algorithm", algorithm, "--dataset", "RotatedDigits", "--test", *test, "--threads", "1"]
    return cli.run(main, [*basic, *BRIEF, "--output_dir", str(root), *words])


def folders(root: Path) -> dict[str, RunFolder]:
    """Method -> the folder of its one run."""
    return {run.method: RunFolder(root, run.id) for run in read_plan(root).runs}


def test_it_trains_and_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert by_hand(tmp_path) == 0
    said = capsys.readouterr().out
    assert "Dataset: RotatedDigits, model selection method: training-domain" in said
    assert "leave-one-domain-out cross-validation" not in said
    folder = folders(tmp_path)["ERM"]
    assert [record["step"] for record in records_of(folder)] == [0, 4, 7]
    chosen = max(records_of(folder), key=lambda r: sum(r["views"][f"{d}/out"]["accuracy"] for d in range(0, 75, 15)))
    row = next(line for line in said.splitlines() if line.startswith("ERM  "))
    assert row.split()[1] == f"{100 * chosen['views']['75/in']['accuracy']:.1f}"


def test_the_log_goes_to_stderr_and_names_what_is_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    assert by_hand(tmp_path, test=("5",)) == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"held out: 75 of RotatedDigits\noutput folder: {tmp_path}\n")
    assert "ERM RotatedDigits [75] hparams 0 trial 0" in said.err
    assert said.out.startswith("Total records: 3\n")
    assert "hparams 0 trial 0" not in said.out


def test_every_evaluation_has_a_line_unless_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {}
    for name, words in (("loud", ()), ("quiet", ("--quiet",))):
        monkeypatch.setattr(logging.root, "handlers", [])
        monkeypatch.setattr(logging.root, "level", logging.WARNING)
        assert by_hand(tmp_path / name, *words) == 0
        said[name] = capsys.readouterr()
    lines = [line.partition(" after ")[2] for line in said["loud"].err.splitlines() if " after " in line]
    assert [line.split(":")[0] for line in lines] == ["1 of 8 steps", "5 of 8 steps", "8 of 8 steps"]
    last = records_of(folders(tmp_path / "loud")["ERM"])[-1]
    score = sum(last["views"][f"{domain}/out"]["accuracy"] for domain in range(0, 75, 15)) / 5
    assert lines[-1] == f"8 of 8 steps: loss {last['train']['loss']:.4g}, accuracy in validation {score:.4g}"
    assert said["quiet"].err == ""
    assert said["quiet"].out == said["loud"].out


def test_a_display_shows_each_step_and_evaluation_of_this_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    class Seen(TrainingDisplay):
        def stepped(self, done: int, steps: int) -> None:
            seen.append((done, steps))

        def evaluated(self, scores: Mapping[str, float]) -> None:
            seen.append([*scores])

    monkeypatch.setattr(one_run, "shown_training", lambda: nullcontext(Seen()))
    assert by_hand(tmp_path) == 0
    steps, scores = [(done, 8) for done in range(1, 9)], ["loss", "accuracy in validation"]
    assert seen == [steps[0], scores, *steps[1:5], scores, *steps[5:], scores]
    seen.clear()
    assert by_hand(tmp_path) == 0
    assert seen == [], "it is done"


@pytest.mark.parametrize(
    ("device", "visible", "said"),
    [
        ("cuda", "", "--device cuda: this machine shows no GPU"),
        ("cuda", "0", "--device cuda: torch finds no GPU on this machine"),
        ("mps", "", "--device mps: torch finds no Apple GPU on this machine"),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    device: str,
    visible: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert by_hand(tmp_path / "out", "--device", device) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"dgbench: error: {said}")
    assert not (tmp_path / "out").exists()


def test_each_command_has_its_own_folder_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--algorithm", "ERM", "--dataset", "RotatedDigits", "--test", "75", "--threads", "1", *BRIEF]
    place = tmp_path / "train_output"
    with monkeypatch.context() as failing:
        failing.setattr(Training, "_step", None)
        assert cli.run(main, words) == 1
    (first,) = place.iterdir()
    assert first.name.startswith("ERM-")
    assert cli.run(main, [*words, "--steps", "5"]) == 0
    assert len(list(place.iterdir())) == 2
    assert cli.run(main, words) == 0
    assert len(list(place.iterdir())) == 2
    assert [record["step"] for record in records_of(folders(first)["ERM"])] == [0, 4, 7]


def test_a_method_that_was_changed_since_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    source = "from dgbench.algorithms.erm import ERM\n\n\nclass Mine(ERM):\n    'ERM.'\n\n    card = ERM.card\n"
    file.write_text(source.replace("ERM.card", "__import__('dataclasses').replace(ERM.card, baseline=False)"))
    assert by_hand(tmp_path / "out", "--include", str(file), algorithm="Mine") == 0
    assert "WARNING" not in capsys.readouterr().err
    file.write_text(file.read_text() + "\n# better\n")
    assert by_hand(tmp_path / "out", "--include", str(file), algorithm="Mine") == 0
    assert "WARNING: Mine is not what 1 finished runs were made by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [("VRex", "unknown algorithm 'VRex': did you mean 'VREx'?"), ("DiWA", "'DiWA' merges several runs")],
)
def test_everything_wrong_is_told_at_once(algorithm: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--algorithm", algorithm, "--dataset", "RotatedDigit", "--test", "75", "--preset", "domainbed"]
    assert cli.run(main, words) == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith(f"dgbench: error: {said}")
    assert len(others) == 2
    assert "unknown data set 'RotatedDigit'" in others[0]
    assert "unknown preset 'domainbed'" in others[1]


def test_what_is_held_out_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, ["--algorithm", "ERM", "--dataset", "RotatedDigits", "--steps", "5"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said == "dgbench: error: name what is held out with --test DOMAIN: of 0, 15, 30, 45, 60, 75"


def test_the_same_command_again_shows_the_table_and_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert by_hand(tmp_path) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(Training, "execute", None)
    assert by_hand(tmp_path) == 0
    assert capsys.readouterr().out == first


def test_seeds_and_rows_add_up_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert by_hand(tmp_path) == 0
    assert by_hand(tmp_path, "--trial_seed", "2", "--hparams_seed", "5", algorithm="ERM+SWAD+T3A") == 0
    runs = [(run.method, run.trial, run.hparams_seed) for run in read_plan(tmp_path).runs]
    assert ("T3A", 2, 5) in runs
    assert ("ERM", 2, 5) in runs
    assert ("ERM", 0, 0) in runs
    assert "ERM+SWAD+T3A" in capsys.readouterr().out


def test_several_held_out_domains_are_one_fold(tmp_path: Path) -> None:
    assert by_hand(tmp_path, test=("0", "75")) == 0
    (run,) = read_plan(tmp_path).runs
    (fold,) = read_plan(tmp_path).folds
    assert fold.held_out == ("0", "75")
    (record, *_) = records_of(RunFolder(tmp_path, run.id))
    assert {"0/in", "75/in", "15/out"} <= record["views"].keys()


def test_a_run_that_fails_is_told_by_the_exit_code_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Training._step

    def broken(self: Training, number: int, minibatch: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(Training, "_step", broken)
    assert by_hand(tmp_path) == 1
    (failure,) = folders(tmp_path)["ERM"].failures()
    assert failure["error"] == "RuntimeError: out of order"
    assert "model selection" not in capsys.readouterr().out
    monkeypatch.setattr(Training, "_step", step)
    assert by_hand(tmp_path) == 0
    assert "model selection" in capsys.readouterr().out


def test_what_is_asked_to_be_kept_is_kept(tmp_path: Path) -> None:
    assert by_hand(tmp_path, "--save_models", "--save_predictions", "--evaluate", "all") == 0
    folder = folders(tmp_path)["ERM"]
    assert {path.name for path in (folder.path / "models").iterdir()} == {
        "model.best.safetensors",
        "model.last.safetensors",
    }
    assert (folder.path / "predictions" / "model.last.safetensors").exists()
    assert "0/in" in records_of(folder)[0]["views"]


def test_a_run_that_another_process_executes_is_left_to_it_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Training, "execute", lambda self, lease: (_ for _ in ()).throw(Stopped))
    assert by_hand(tmp_path) == 1
    folder = folders(tmp_path)["ERM"]
    lease = folder.claim()
    assert lease
    assert by_hand(tmp_path) == 1
    assert "another process executes ERM RotatedDigits [75] hparams 0 trial 0" in capsys.readouterr().err
    lease.release()
