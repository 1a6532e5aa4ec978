"""Sweeps through the real commands, in processes of their own: what is executed, how often, and what mends them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dgbench import cli
from dgbench.catalogue.catalogue import Catalogue
from dgbench.launchers.prepare import reopen
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.planfile import read_plan
from dgbench.store.folder import Store
from dgbench.store.state import State
from dgbench.sweep import main
from tests.support.layouts import write_csv, write_folders, write_mnist

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("preloaded")]
REAL = sys.executable
"""The interpreter of launches that are interrupted and killed."""

ROWS = ("ERM", "ERM+SWAD", "ERM+SMA", "ERM+DiWA", "ERM+EoA", "ERM+T3A")
FOLD = ("--test_envs", "75", "--single_test_envs")
SMALL = ("--n_hparams", "2", "--n_trials", "1", "--steps", "12", "--checkpoint_freq", "5")
HPARAMS = ("--hparams", '{"batch_size": 16}')
HERE = ("--device", "cpu", "--jobs", "2")


def command(name: str, root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "dgbench.sweep", name, *words, "--output_dir", str(root)]


def sweep(name: str, root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(name, root, *words), capture_output=True, text=True, stdin=subprocess.DEVNULL)


def digits(*rows: str) -> list[str]:
    return ["--algorithms", *rows, "--datasets", "RotatedDigits", *FOLD, *SMALL, *HPARAMS, *HERE]


def launch(root: Path, *words: str, code: int = 0) -> str:
    """Launch; what was printed, having seen the exit code."""
    done = sweep("launch", root, *words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def states(root: Path) -> Counter[tuple[str, str]]:
    """(method, state) -> runs of the plan, as `status --json` tells them."""
    done = sweep("status", root, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    by_id = {run.id: run for run in read_plan(root).runs}
    assert [line["name"] for line in lines] == [read_plan(root).name(run) for run in by_id.values()]
    assert done.returncode == (0 if all(line["state"] == "done" for line in lines) else done.returncode)
    return Counter((by_id[line["id"]].method, line["state"]) for line in lines)


def leases(root: Path) -> Counter[str]:
    """Run -> how many attempts were made at it."""
    return Counter(path.parent.name for path in root.glob("runs/*/lease-????"))


def records(root: Path) -> dict[str, bytes]:
    return {run.id: (root / "runs" / run.id / "records.jsonl").read_bytes() for run in read_plan(root).runs}


def collected(root: Path) -> str:
    words = [sys.executable, "-m", "dgbench.collect", "--input_dir", str(root)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of all rows, launched once."""
    root: Path = tmp_path_factory.mktemp("finished") / "sweep"
    launch(root, *digits(*ROWS))
    return root


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The same in a folder that may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "sweep"))


# -- once, and again ----------------------------------------------------------------------------------------------


def test_each_algorithm_is_trained_once_for_all_rows(finished: Path) -> None:
    expected = {("ERM", "done"): 2, ("DiWA", "done"): 1, ("EoA", "done"): 1, ("T3A", "done"): 2}
    assert states(finished) == expected
    assert set(leases(finished).values()) == {1}
    assert len(leases(finished)) == len(list((finished / "runs").iterdir())) == 6
    said = collected(finished)
    for row in ROWS:
        assert f"\n{row}  " in said
    assert "missing" not in said.replace("0 missing", "")


def test_launching_again_does_nothing(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.glob("runs/**/*") if path.is_file()}
    assert "6 done" in launch(copy, *digits(*ROWS))
    assert {path: path.stat().st_mtime_ns for path in copy.glob("runs/**/*") if path.is_file()} == before


def test_two_launches_at_once_share_the_work(tmp_path: Path, finished: Path) -> None:
    words = command("launch", tmp_path / "shared", *digits(*ROWS))
    both = [subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=600) for process in both] == [0, 0]
    assert set(leases(tmp_path / "shared").values()) == {1}
    assert records(tmp_path / "shared") == records(finished)


def test_a_sweep_grows_and_keeps_what_is_done(copy: Path) -> None:
    before = records(copy)
    launch(copy, *digits("ERM", "VREx"), "--n_hparams", "3")
    assert states(copy)["ERM", "done"] == states(copy)["VREx", "done"] == 3
    assert states(copy)["DiWA", "done"] == 1, "asked for two hyperparameter draws, and not again"
    after = records(copy)
    assert {id: after[id] for id in before} == before
    assert set(leases(copy).values()) == {1}


def test_a_folder_alone_goes_on_with_what_it_was_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "my sweep"
    assert "holds no sweep to go on with: ask for one by --sweep, or by --algorithms" in launch(root, code=2)
    launch(root, *digits("ERM"))
    (first, *_) = sorted((root / "runs").iterdir())
    shutil.rmtree(first)
    before = (root / "sweep.json").read_bytes(), (root / "plan.json").read_bytes()
    words = [sys.executable, "-m", "dgbench", "launch", str(root), "--jobs", "2"]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 done"), done.stderr
    assert ((root / "sweep.json").read_bytes(), (root / "plan.json").read_bytes()) == before
    assert states(root) == {("ERM", "done"): 2}
    for words, runs in ((["--n_trials", "2"], 4), (["--algorithms", "CORAL"], 4), (["--steps", "12"], 2)):
        said = launch(root, *words, "--dry_run", "--json")
        assert len(said.splitlines()) == runs, "what is not given is the folder's"
    assert "holds a sweep with steps 12, not 13" in launch(root, "--steps", "13", code=2)


# -- looking ------------------------------------------------------------------------------------------------------


def test_a_dry_run_describes_each_run_and_writes_nothing(tmp_path: Path) -> None:
    said = launch(tmp_path / "new", *digits(*ROWS), "--dry_run", "--json")
    runs = [json.loads(line) for line in said.splitlines()]
    keys = "id kind algorithm averages dataset test_domains trial_seed hparams_seed hparams inputs"
    assert {tuple(run) for run in runs} == {tuple(keys.split())}
    assert Counter(run["kind"] for run in runs) == {"train": 2, "merge": 2, "adapt": 2}
    train = runs[0]
    assert (train["algorithm"], train["dataset"], train["test_domains"]) == ("ERM", "RotatedDigits", ["75"])
    assert (train["trial_seed"], train["hparams_seed"], train["averages"]) == (0, 0, ["SMA", "SWAD"])
    assert train["hparams"]["batch_size"] == 16
    trained = {run["id"] for run in runs if run["kind"] == "train"}
    assert all(set(run["inputs"]) <= trained for run in runs)
    assert "6 runs" in launch(tmp_path / "new", *digits(*ROWS), "--dry-run")
    assert not (tmp_path / "new").exists()


def test_on_a_terminal_it_asks_first_unless_told_not_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[str] = []
    answers = ["n", "", "y", "no", "YES", "n"]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or answers.pop(0))
    monkeypatch.setattr(Sweep, "execute", lambda self, *args, **jobs: 0)

    def code(name: str, *words: str) -> int:
        return cli.run(main, [name, *words, "--output_dir", str(tmp_path / "sweep")])

    asked = ["--algorithms", "ERM", "--datasets", "RotatedDigits", *FOLD, *SMALL]
    assert [code("launch", *asked) for _ in range(3)] == [1, 1, 0]
    for run in reopen(tmp_path / "sweep").plan.runs:
        Store(tmp_path / "sweep").folder(run.id).create(run)
    assert [code("delete_incomplete") for _ in range(2)] == [1, 0]
    (tmp_path / "sweep" / "runs" / ("0" * 20)).mkdir(parents=True)
    assert code("prune") == 1
    assert questions == [
        *["About to launch 2 runs of 2. Go on? [y/N] "] * 3,
        *["About to remove what 2 unfinished runs left, with checkpoints. Go on? [y/N] "] * 2,
        "About to remove 1 run that the sweep no longer asks for, and the weights of 0 finished ones. Go on? [y/N] ",
    ]
    for name, words in (("launch", asked), ("delete_incomplete", []), ("prune", [])):
        assert code(name, *words, "--skip_confirmation") == 0
    assert code("prune") == 0, "there is nothing left to ask about"
    assert answers == []


def test_something_is_shown_as_soon_as_a_launch_is_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    def confirm(question: str) -> str:
        shown.append(capsys.readouterr().out)
        return "y"

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", confirm)
    monkeypatch.setattr(Sweep, "ensure_inputs", lambda self: shown.append(capsys.readouterr().out))
    monkeypatch.setattr(Sweep, "execute", lambda self, *args, **jobs: 0)
    root = tmp_path / "sweep"
    assert cli.run(main, ["launch", str(root), *digits("ERM", "ERM+DiWA")]) == 0
    before, after = shown
    lines = before.splitlines()
    assert lines[0].startswith("RotatedDigits: 1,797 examples in 6 domain(s): ")
    assert lines[1:4] == [
        "RotatedDigits: tested are 75",
        "runs: 3 of 3 are left (2 train, 1 merge)",
        "time: unknown until runs finish",
    ]
    assert lines[4].startswith("disk: 2 models kept; ")
    assert after == f"preparing 3 runs in {root}\n"


def test_files_that_a_folder_names_are_asked_about_before_they_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imported: list[Path] = []
    real = Catalogue.__init__
    monkeypatch.setattr(
        Catalogue, "__init__", lambda self, include=(): (imported.extend(include), real(self, include))[1]
    )
    (tmp_path / "moody.py").write_text(MOODY)
    root, questions, answers = tmp_path / "sweep", list[str](), ["n", "y", "n"]
    monkeypatch.setattr(Sweep, "execute", lambda self, *args, **jobs: 0)
    asked = ["launch", "--algorithms", "ERM", "--datasets", "RotatedDigits", *FOLD, *SMALL, "--output_dir", str(root)]
    include = ["--include", str(tmp_path / "moody.py")]
    assert cli.run(main, [*asked, *include]) == 0
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or answers.pop(0))
    retry = ["retry", "--output_dir", str(root)]
    for words, code, runs in (
        (retry, 1, False),
        (retry, 0, True),
        (asked, 1, False),
        ([*retry, "--skip_confirmation"], 0, True),
        ([*retry, *include], 0, True),
    ):
        imported.clear()
        capsys.readouterr()
        assert cli.run(main, words) == code
        assert bool(imported) is runs, words
        named = f"sweep.json includes {tmp_path / 'moody.py'}" in capsys.readouterr().out
        assert named is ("--include" not in words)
    assert questions == ["About to run 1 Python file that the folder names. Go on? [y/N] "] * 3
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    assert cli.run(main, retry) == 0
    assert f"sweep.json includes {tmp_path / 'moody.py'}" in capsys.readouterr().out


def test_status_tells_what_is_done(finished: Path) -> None:
    done = sweep("status", finished)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split() == ["missing", "waiting", "running", "failed", "damaged", "done"]
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert ["train", "ERM", "0", "0", "0", "0", "0", "2"] in rows
    assert ["merge", "DiWA", "0", "0", "0", "0", "0", "1"] in rows


# -- failing and mending ------------------------------------------------------------------------------------------

MOODY = '''
from pathlib import Path

from dgbench.methods.algorithm import Algorithm
from dgbench.core.cards import AlgorithmCard


class Moody(Algorithm):
    """It fails in its third step until a file says that it may not."""

    card = AlgorithmCard(paper="none")

    def loss(self, batches):
        if self.step == 2 and not Path(__file__).with_name("mended").exists():
            raise RuntimeError("in a mood")
        return self.joint_loss(batches)
'''


def test_what_trying_again_cannot_mend_is_tried_once_and_by_retry(tmp_path: Path) -> None:
    moody = MOODY.replace("RuntimeError", "UserError").replace(
        "from dgbench.core.cards", "from dgbench.core.errors import UserError\nfrom dgbench.core.cards"
    )
    (tmp_path / "moody.py").write_text(moody)
    root = tmp_path / "sweep"
    words = [*digits("Moody"), "--include", str(tmp_path / "moody.py"), "--n_hparams", "1", "--retries", "5"]
    said = launch(root, *words, code=1)
    assert "1 failed" in said
    assert "UserError: in a mood (not tried again by itself: mend that, then `dgbench sweep retry`; log: " in said
    assert set(leases(root).values()) == {1}
    assert "UserError: in a mood (not tried again by itself: mend that, " in sweep("status", root).stdout
    (tmp_path / "mended").touch()
    assert sweep("retry", root, "--jobs", "1").returncode == 0


def test_a_failure_is_told_and_can_be_retried(tmp_path: Path) -> None:
    (tmp_path / "moody.py").write_text(MOODY)
    words = [
        *digits("ERM", "Moody", "Moody+T3A"),
        "--include",
        str(tmp_path / "moody.py"),
        "--n_hparams",
        "1",
        "--retries",
        "1",
    ]
    root = tmp_path / "sweep"
    said = launch(root, *words, code=1)
    assert "1 done, 1 failed, 1 blocked" in said
    done = sweep("status", root)
    assert done.returncode == 1
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("failed: "))
    assert told.startswith("failed: Moody RotatedDigits [75] hparams 0 trial 0: RuntimeError: in a mood (log: ")
    log = Path(told.rpartition("(log: ")[2].removesuffix(")"))
    assert "RuntimeError: in a mood" in log.read_text()
    (moody,) = (run for run in read_plan(root).runs if run.method == "Moody")
    assert leases(root)[moody.id] == 2, "tried again once"
    assert "in a mood" in collected(root)
    (tmp_path / "mended").touch()
    launch(root, *words, code=1)
    assert leases(root)[moody.id] == 2, "launching again doesn't forgive"
    done = sweep("retry", root, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "1 failed or damaged run may run again" in done.stdout
    assert states(root) == {("ERM", "done"): 1, ("Moody", "done"): 1, ("T3A", "done"): 1}
    assert leases(root)[moody.id] == 3


SLOW = '''
import time
from pathlib import Path

from dgbench.algorithms.erm import ERM
from dgbench.core.cards import AlgorithmCard


class Slow(ERM):
    """ERM that takes its time while a file says so."""

    card = AlgorithmCard(paper="none")

    def loss(self, batches):
        if Path(__file__).with_name("slow").exists():
            time.sleep(0.1 if self.step < 5 else 3)  # less than a run has to save, and minutes in all
        return super().loss(batches)
'''


def slow_words(place: Path) -> list[str]:
    steps = ["--steps", "60", "--checkpoint_freq", "8", "--include", str(place / "slow.py")]
    return [*digits("Slow+SWAD"), *steps]


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A launch in `tmp_path`/sweep whose runs are under way and take seconds more."""
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "slow").touch()
    words = [REAL, *command("launch", tmp_path / "sweep", *slow_words(tmp_path))[1:]]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300
        while len(list(tmp_path.glob("sweep/runs/*/checkpoint.pt"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


def ids_in(root: Path, state: State) -> list[str]:
    store = Store(root)
    return [id for id, found in store.states(store.ids(), 0).items() if found is state]


def test_cancelled_runs_save_and_go_on(begun: subprocess.Popen[str], tmp_path: Path) -> None:
    root, whole = tmp_path / "sweep", tmp_path / "whole"
    done = sweep("cancel", root)
    assert (done.returncode, done.stdout[:5]) == (0, "asked")
    assert done.stdout.endswith(f"to go on: dgbench launch {root}\n")
    assert begun.wait(timeout=300) == 75
    waiting = ids_in(root, State.WAITING)
    assert len(waiting) == 2
    (tmp_path / "slow").unlink()
    launch(root, *slow_words(tmp_path))
    launch(whole, *slow_words(tmp_path))
    assert records(root) == records(whole)
    for id in waiting:
        assert "resumed at step" in (root / "runs" / id / "log.txt").read_text()


def test_ctrl_c_says_which_command_goes_on(begun: subprocess.Popen[str], tmp_path: Path) -> None:
    begun.send_signal(signal.SIGINT)
    assert begun.wait(timeout=300) == 75
    assert begun.stdout is not None
    *_, counts, last = begun.stdout.read().splitlines()
    assert (counts, last) == ("2 left", f"to go on: dgbench launch {tmp_path / 'sweep'}")
    (tmp_path / "slow").unlink()
    done = subprocess.run([sys.executable, "-m", *last.split()[3:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unfinished_runs_are_deleted_but_for_those_that_run(begun: subprocess.Popen[str], tmp_path: Path) -> None:
    root = tmp_path / "sweep"
    assert len(ids_in(root, State.RUNNING)) == 2
    done = sweep("delete_incomplete", root)
    assert (done.returncode, done.stdout) == (0, "from nothing next time: 0 unfinished runs\n")
    assert len(list(root.glob("runs/*/checkpoint.pt"))) == 2
    done = sweep("status", root)
    assert done.returncode == 1
    assert done.stdout.count("running: Slow RotatedDigits [75] hparams ") in (0, 1, 2), "known after some seconds"
    begun.kill()
    begun.wait()
    deadline = time.monotonic() + 300
    while ids_in(root, State.RUNNING):
        assert time.monotonic() < deadline, "runs end with their launcher"
        time.sleep(0.1)
    done = sweep("delete_incomplete", root)
    *named, last = done.stdout.splitlines()
    assert [line.partition(" hparams")[0] for line in named] == ["begins anew: Slow RotatedDigits [75]"] * 2
    assert last == "from nothing next time: 2 unfinished runs"
    for folder in (root / "runs").iterdir():
        names = os.listdir(folder)
        assert all(name == "run.json" or name.startswith("lease-") for name in names), names


def test_deleting_what_is_unfinished_leaves_what_is_done(copy: Path) -> None:
    before = records(copy)
    assert sweep("delete_incomplete", copy).stdout.startswith("from nothing next time: 0 unfinished runs")
    assert records(copy) == before


def test_pruned_weights_are_made_again_when_they_are_read(copy: Path) -> None:
    before = records(copy)
    assert list(copy.glob("runs/*/models/*"))
    done = sweep("prune", copy)
    assert done.returncode == 0
    *named, last = done.stdout.splitlines()
    assert len(named) == 2
    assert all(line.endswith(" MB, weights") for line in named)
    assert last.startswith("0 runs removed, ")
    assert " 0.0 MB" not in last
    assert not list(copy.glob("runs/*/models/*"))
    before_launch = leases(copy)
    assert "6 done" in launch(copy, *digits(*ROWS)), "finished runs need no weights"
    assert leases(copy) == before_launch
    said = launch(copy, *digits("ERM+DiWA+T3A"))
    assert said.count("it runs again") == 3
    after = records(copy)
    assert {id: after[id] for id in before} == before
    plan = {run.id: run for run in read_plan(copy).runs}
    attempts = {(plan[id].method, count) for id, count in leases(copy).items()}
    assert attempts == {("ERM", 4), ("DiWA", 3), ("EoA", 1), ("T3A", 1)}, "each removal takes a lease too"


def test_runs_that_are_not_asked_for_any_more_are_pruned(copy: Path) -> None:
    launch(copy, *digits("ERM+SWAD"), "--n_hparams", "1")
    (copy / "runs" / "0123456789abcdef0123").mkdir()
    assert "1 run in " in sweep("status", copy).stdout
    assert "\n1 run removed" in sweep("prune", copy).stdout
    assert not (copy / "runs" / "0123456789abcdef0123").exists()


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A file system of 200 KiB at `tmp_path`/tiny, which a call gives another size."""
    place = tmp_path / "tiny"
    place.mkdir()

    def mount(options: str) -> bool:
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        return os.geteuid() == 0 and subprocess.run(words, capture_output=True, check=False).returncode == 0

    if not mount("size=200k"):
        pytest.skip("needs the right to mount a tmpfs")
    yield lambda size: None if mount(f"remount,size={size}") else pytest.fail("cannot remount")
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_fails_the_runs_and_with_space_again_they_finish(
    tiny: Callable[[str], None], tmp_path: Path
) -> None:
    """Nothing but checkpoints is large here; with weights to keep too, no failure could be recorded beside them."""
    root = tmp_path / "tiny" / "sweep"
    words = digits("ERM+SWAD")
    said = launch(root, *words, "--retries", "0", "--jobs", "1", code=1)
    assert "2 failed" in said
    done = sweep("status", root)
    assert done.stdout.count("No space left on device") == 2, done.stdout
    assert not list(root.glob("runs/*/.*.tmp"))
    for path in root.glob("runs/*/records.jsonl"):
        assert path.read_bytes().endswith(b"\n")
        assert all(json.loads(line) for line in path.read_text().splitlines())
    tiny("32m")
    done = sweep("retry", root, "--jobs", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    launch(tmp_path / "whole", *words, "--jobs", "1")
    assert records(root) == records(tmp_path / "whole")


# -- other data, other protocols ----------------------------------------------------------------------------------

IMAGES = ("--n_hparams", "1", "--n_trials", "1", "--steps", "4", *HERE)
TINY = ("--hparams", '{"batch_size": 4, "image_size": 16}')

SMALL_PACS = '''
import dataclasses

from dgbench.datasets.pacs import PACS


class SmallPACS(PACS):
    """PACS with 14 images a domain."""

    card = dataclasses.replace(PACS.card, counts=dict.fromkeys(PACS.card.domains, 14))
'''


def test_folders_tables_and_named_data_are_launched_and_collected_and_may_move(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_folders(data / "toy", {"a": 12, "b": 12, "c": 12}, ["x", "y"])
    listing = [(str(path.relative_to(data)), *path.parts[-3:-1]) for path in sorted((data / "toy").glob("*/*/*.jpg"))]
    write_csv(data / "list.csv", listing)
    classes = ["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]
    write_folders(data / "PACS", dict.fromkeys(("art_painting", "cartoon", "photo", "sketch"), 14), classes)
    (tmp_path / "small.py").write_text(SMALL_PACS)

    def words(place: Path) -> list[str]:
        datasets = [f"folder:{place / 'toy'}", f"csv:{place / 'list.csv'}", "SmallPACS"]
        where = ["--data_dir", str(place), "--include", str(tmp_path / "small.py")]
        return ["--algorithms", "ERM", "--datasets", *datasets, "--test_envs", "0", "--single_test_envs", *where]

    root = tmp_path / "sweep"
    launch(root, *words(data), *IMAGES, *TINY)
    said = collected(root)
    for name, column in (("folder:toy", "a"), ("csv:list.csv", "a"), ("SmallPACS", "art_painting")):
        assert f"Dataset: {name}," in said
        assert f"  {column}" in said
    before = records(root)
    assert len(before) == 3
    data.rename(tmp_path / "moved")
    launch(root, *words(tmp_path / "moved"), *IMAGES, *TINY, "--n_trials", "2")
    after = records(root)
    assert len(after) == 6
    assert {id: after[id] for id in before} == before


def test_domainbeds_preset_on_digits_of_28_pixels_whose_folder_moves(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(
        "import dataclasses\nfrom dgbench.datasets.rotated import RotatedMNIST\n\n\n"
        "class TinyMNIST(RotatedMNIST):\n    'Rotated digits, 20 a domain.'\n\n"
        "    card = dataclasses.replace(RotatedMNIST.card, counts=dict.fromkeys(RotatedMNIST.card.domains, 20))\n"
    )
    write_mnist(tmp_path / "data", train=80, test=40)
    words = ["--algorithms", "ERM", "--datasets", "TinyMNIST", "--preset", "domainbed-2020", "--test_envs", "5"]
    words += ["--include", str(tmp_path / "tiny.py"), "--hparams", '{"batch_size": 4}', "--data_dir"]
    root = tmp_path / "sweep"
    launch(root, *words, str(tmp_path / "data"), *IMAGES, "--single_test_envs")
    before = records(root)
    assert "domainbed-2020" in collected(root)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    (run,) = Store(root).ids()
    (root / "runs" / run / "done").unlink()
    done = sweep("retry", root, "--jobs", "2", "--data_dir", str(tmp_path / "elsewhere"))
    assert done.returncode == 0, done.stderr
    assert records(root) == before


@pytest.mark.parametrize(
    ("protocol", "folds", "columns"),
    [
        (["--single_source"], 3, ["+90%", "+80%", "-90%"]),
        (["--train_domains", "+90%", "--val_domains", "+80%", "--test_domains", "-90%"], 1, ["-90%"]),
    ],
    ids=["single source", "explicit"],
)
def test_protocols_are_launched_and_collected(
    protocol: list[str], folds: int, columns: list[str], tmp_path: Path
) -> None:
    launch(tmp_path / "s", "--algorithms", "ERM", "--datasets", "ColoredDigits", *protocol, *IMAGES)
    assert len(records(tmp_path / "s")) == folds
    said = collected(tmp_path / "s")
    assert all(column in said for column in columns)
    assert "ERM  " in said
