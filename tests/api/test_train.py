"""`dgbench.train`: the bytes of the command, in a process that stays as it was."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dgbench
from dgbench import cli
from dgbench.execute.training import Training
from dgbench.plan.options import TRAIN

BRIEF = {"steps": 8, "checkpoint_freq": 4, "hparams": {"batch_size": 16}, "device": "cpu", "threads": 1, "quiet": True}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(1)


def files(folder: Path) -> dict[str, bytes]:
    """Name -> content of all files that two executions of one request share."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    timed = ("times.jsonl", "done", "lease", "log.txt")  # durations, hosts and processes
    return {name: path.read_bytes() for name, path in found.items() if not any(part in name for part in timed)}


def test_it_writes_what_the_command_writes_in_the_folder_of_that_name(tmp_path: Path) -> None:
    words = ["--algorithm", "ERM+SWAD", "--dataset", "RotatedDigits", "--test", "75", "--steps", "8", "--device", "cpu"]
    words += ["--checkpoint_freq", "4", "--hparams", '{"batch_size": 16}', "--set", "SWAD.n_converge=2"]
    words += ["--threads", "1", "--quiet", "--save_models"]
    assert cli.run(importlib.import_module("dgbench.train").main, words) == 0
    (by_command,) = (tmp_path / "train_output").iterdir()
    by_command.rename(tmp_path / "before")
    found = dgbench.train("ERM+SWAD", "RotatedDigits", test=75, **BRIEF, set={"SWAD.n_converge": 2}, save_models=True)
    assert found.folder.resolve() == by_command
    one, other = files(tmp_path / "before"), files(by_command)
    assert one == other
    assert any(name.endswith(".safetensors") for name in one)
    assert any(name.endswith("records.jsonl") for name in one), sorted(one)
    assert (found.model.facts.row, found.model.facts.held_out) == ("ERM+SWAD", ("75",))
    assert set(found.predict(np.zeros((2, 1, 8, 8), np.uint8)).predicted) <= set("0123456789")


def test_its_result_is_the_table_and_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dgbench.train("VREx", "RotatedDigits", test=["75"], **BRIEF)
    assert "Dataset: RotatedDigits, model selection method: training-domain" in repr(found)
    cell = found.table.set_index("column").loc["75"]
    curve = found.curve()
    assert list(curve.index) == [0, 4, 7]
    assert next(iter(curve.columns)).startswith("75/")
    best = curve[[f"{domain}/out" for domain in range(0, 75, 15)]].mean(axis=1).idxmax()
    assert cell["mean"] == pytest.approx(100 * curve.loc[best, "75/in"])
    assert set(found.curve("loss").columns) == set(curve.columns)
    with pytest.raises(dgbench.UserError, match="unknown metric 'los'"):
        found.curve("los")
    monkeypatch.setattr(Training, "execute", None)
    again = dgbench.train("VREx", "RotatedDigits", test=["75"], **BRIEF)
    assert again == found, "it is done: nothing is trained"


def test_everything_wrong_is_told_at_once_in_words_of_python(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {"step": 5, "workers": "two", "image_size": True, "device": "gpu"}
    with pytest.raises(dgbench.UserError) as caught:
        dgbench.train("ERM", "RotatedDigits", test="75", **wrong)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "unknown argument 'step'",
        "workers is an int, not 'two'",
        "image_size is an int, not True",
        "unknown value of device 'gpu'",
    ]
    with pytest.raises(dgbench.UserError) as caught:
        dgbench.train("VRex", "RotatedDigit", trial_seed=-1, hparams={"lr": "x"})
    assert len(caught.value.problems) > 3
    assert "name what is held out with test DOMAIN" in caught.value.problems
    assert "trial_seed must be at least 0, not -1" in caught.value.problems
    assert list(tmp_path.iterdir()) == []


def test_the_process_stays_as_it_was() -> None:
    torch.set_num_threads(2)
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(3)
    random.seed(3)
    before = [*logging.root.handlers], logging.root.level, random.getstate(), torch.get_rng_state().tolist()
    dgbench.train("ERM", "RotatedDigits", test="75", **BRIEF)
    assert ([*logging.root.handlers], logging.root.level, random.getstate(), torch.get_rng_state().tolist()) == before
    assert torch.get_num_threads() == 2
    assert not torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.benchmark
    assert torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = False


def test_ctrl_c_saves_and_the_same_call_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    step, made = Training._step, list[int]()

    def interrupted(self: Training, number: int, minibatch: Any) -> Any:
        made.append(number)
        if len(made) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, number, minibatch)

    monkeypatch.setattr(Training, "_step", interrupted)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        dgbench.train("ERM", "RotatedDigits", test="75", **BRIEF)
    assert len(made) == 6
    found = dgbench.train("ERM", "RotatedDigits", test="75", **BRIEF)
    assert len(made) == 8, "it goes on where it was"
    assert list(found.curve().index) == [0, 4, 7]


def test_a_failure_is_raised_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Training, number: int, minibatch: Any) -> None:
        raise ArithmeticError("out of order")

    monkeypatch.setattr(Training, "_step", broken)
    with pytest.raises(dgbench.RunFailed, match=r"ArithmeticError: out of order(?s:.*)in broken(?s:.*)train_output"):
        dgbench.train("ERM", "RotatedDigits", test="75", **BRIEF)


def test_it_stays_a_function_when_the_command_is_imported() -> None:
    assert importlib.import_module("dgbench.train") is sys.modules["dgbench.train"]
    assert callable(dgbench.train)
    names = {option.name for own in TRAIN.values() for option in own}
    assert names <= set(inspect.signature(dgbench.train).parameters)
