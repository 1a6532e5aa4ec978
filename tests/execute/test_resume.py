"""Exact resume, by killing for real: records must be byte for byte those of a sweep that nobody touched."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dgbench import cli, collect
from dgbench.core.site import Site
from dgbench.launchers.prepare import reopen
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.planfile import read_plan
from dgbench.store.folder import Store
from dgbench.store.lease import newest
from dgbench.store.state import State
from tests.support.commands import sweep
from tests.support.in_process import execute, execute_all, sweep_of, train, training_of
from tests.support.language_models import save_model
from tests.support.places import EXAMPLES
from tests.support.wilds_layouts import write_civilcomments

ROWS = ["ERM+SWAD", "Fish", "SAM"]
COMMAND = [
    *(sys.executable, "-m", "dgbench.sweep", "launch", "--algorithms", *ROWS, "--n_hparams", "1", "--n_trials", "1"),
    *("--checkpoint_freq", "8", "--jobs", "2", "--device", "cpu", "--retries", "1000"),
]


def digits(_: Path) -> list[str]:
    return ["--datasets", "RotatedDigits", "--test_envs", "75", "--single_test_envs", "--steps", "120"]


def language_model(place: Path) -> list[str]:
    """Toxic and kind comments, of which a batch is that of four of their groups."""
    backbone, data_dir = save_model(place / "model"), place / "data"
    write_civilcomments(data_dir)
    include = str(EXAMPLES / "tiny_wilds.py")
    hparams = json.dumps({"backbone": backbone, "batch_size": 4, "domains_per_step": 4, "lr": 0.01})
    where = ["--include", include, "--data_dir", str(data_dir)]
    return ["--datasets", "TinyComments", *where, "--hparams", hparams, "--steps", "40"]


def start(root: Path, words: list[str]) -> subprocess.Popen[bytes]:
    command = [*COMMAND, *words, "--output_dir", str(root)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def records(root: Path) -> dict[str, bytes]:
    return {run.id: (root / "runs" / run.id / "records.jsonl").read_bytes() for run in read_plan(root).runs}


def executing(root: Path) -> list[int]:
    """Process ids of the runs that are executed now, by their leases."""
    store, found = Store(root), []
    for id in store.ids():
        folder = store.folder(id)
        if folder.state(retries=1000) is State.RUNNING:
            number, _ = newest(os.listdir(folder.path))
            found.append(json.loads((folder.path / f"lease-{number:04d}").read_text())["pid"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "enough"), [(digits, 8), (language_model, 2)])
def test_records_survive_kills_of_runs_and_of_the_launcher(
    asked: Callable[[Path], list[str]], enough: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = asked(tmp_path)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert start(undisturbed, words).wait(timeout=120) == 0
    rng = random.Random(0)
    launcher = start(disturbed, words)
    kills = 0
    deadline = time.monotonic() + 200
    while launcher.poll() is None and time.monotonic() < deadline:
        time.sleep(rng.uniform(0.05, 0.4))
        if kills >= enough:
            continue
        for pid in executing(disturbed):
            os.kill(pid, signal.SIGKILL)
            kills += 1
        if kills in (4, 8):
            launcher.kill()
            launcher.wait()
            launcher = start(disturbed, words)
            kills += 1
    assert launcher.wait(timeout=120) == 0
    assert kills >= enough
    assert records(disturbed) == records(undisturbed)
    assert collect.main(["--input_dir", str(disturbed)]) == 0
    assert "0 missing, 0 failed" in capsys.readouterr().out


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut short":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    else:
        content[len(content) // 3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["checkpoint.pt", "records.jsonl"])
@pytest.mark.parametrize("how", ["cut short", "empty", "one bit"])
def test_a_run_whose_checkpoint_is_garbled_begins_anew_and_says_so(
    file: str, how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed, disturbed = (sweep_of(tmp_path / name, "ERM+SWAD") for name in ("undisturbed", "disturbed"))
    execute_all(undisturbed)
    (run,) = disturbed.plan.runs
    folder = disturbed.store.folder(run.id)
    assert train(training_of(disturbed, run), stop_after=14)
    damage(folder.path / file, how)
    assert execute(disturbed, run) == 0
    assert records(tmp_path / "disturbed") == records(tmp_path / "undisturbed")
    assert folder.failures() == []
    assert "begun anew: " in caplog.text
    assert sweep.main(["status", "--output_dir", str(tmp_path / "disturbed")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "begun anew" in line]
    assert line.startswith(f"begun anew: {run.name}: {folder.path / file} ")
    assert line.endswith(f"(log: {folder.log_path})")


OWN = """
from dgbench.methods.algorithm import Algorithm
from dgbench.core.cards import AlgorithmCard


class Own(Algorithm):
    "Joint cross-entropy."

    card = AlgorithmCard(paper="none")

    def loss(self, batches):
        return self.joint_loss(batches)
"""


@pytest.mark.parametrize("command", ["retry", "launch"])
def test_an_included_file_may_move(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    begun = sweep_of(tmp_path / "sweep", "Own", site=Site(device="cpu", include=(str(tmp_path / "own.py"),)))
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "own.py").rename(tmp_path / "moved" / "own.py")
    monkeypatch.setattr(Sweep, "execute", lambda self, *args, **jobs: int(self.site.include != (str(moved),)))
    words = [command, "--output_dir", str(tmp_path / "sweep")]
    if command == "launch":
        words += ["--algorithms", "Own", "--datasets", "RotatedDigits", "--test_envs", "75", "--single_test_envs"]
        words += ["--n_hparams", "1", "--n_trials", "1", "--steps", "20", "--checkpoint_freq", "6"]
        words += ["--hparams", '{"batch_size": 16}']
    else:
        assert cli.run(sweep.main, words) == 2
        assert f"--include {tmp_path / 'own.py'}: there is no such file" in capsys.readouterr().err
        assert cli.run(sweep.main, ["prune", "--output_dir", str(tmp_path / "sweep")]) == 0
    assert cli.run(sweep.main, [*words, "--include", str(moved)]) == 0
    again = reopen(tmp_path / "sweep")
    assert again.site.include == (str(moved),)
    assert again.plan == begun.plan


def test_who_sits_at_a_terminal_is_asked_before_checkpoints_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = sweep_of(tmp_path, "ERM")
    (run,) = begun.plan.runs
    assert train(training_of(begun, run), stop_after=14)
    checkpoint = begun.store.folder(run.id).path / "checkpoint.pt"
    words, asked = ["delete_incomplete", "--output_dir", str(tmp_path)], list[str]()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    assert sweep.main(words) == 1
    assert "what 1 unfinished run left, with checkpoints" in asked[0]
    assert checkpoint.exists()
    assert sweep.main([*words, "--skip_confirmation"]) == 0
    assert not checkpoint.exists()
    assert len(asked) == 1


def test_who_sits_at_a_terminal_is_asked_before_runs_and_weights_are_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = sweep_of(tmp_path, "ERM")
    (run,) = begun.plan.runs
    folder = begun.store.folder(run.id)
    folder.create(run)
    folder.finish({})
    (folder.path / "models").mkdir()
    (tmp_path / "runs" / ("0" * 20)).mkdir()
    words, asked = ["prune", "--output_dir", str(tmp_path)], list[str]()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    assert sweep.main(words) == 1
    (question,) = asked
    assert "remove 1 run that the sweep no longer asks for, and the weights of 1 finished ones" in question
    assert (folder.path / "models").exists()
    assert sweep.main([*words, "--skip_confirmation"]) == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.id]
    assert not (folder.path / "models").exists()
    assert sweep.main(words) == 0, "nothing is left to ask about"
    assert len(asked) == 1
