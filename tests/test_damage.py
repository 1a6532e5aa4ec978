"""Files of a sweep that a disk or a person damaged: one state for all commands, one message each, and a way out."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dgbench import cli, collect
from dgbench.core.site import Site
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.planfile import read_plan
from dgbench.store import folder as folder_module
from dgbench.store.folder import Store
from dgbench.store.run_folder import RunFolder
from dgbench.store.state import State
from tests.support.commands import sweep
from tests.support.in_process import execute_all, sweep_of

JUNK: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "array": lambda path: path.write_text("[]"),
    "object": lambda path: path.write_text("{}"),
    "null": lambda path: path.write_text("null"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}
junk = pytest.mark.parametrize("damage", JUNK.values(), ids=JUNK)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """One run, done."""
    setting = {"steps": 2, "checkpoint_freq": 1, "backbone": "Linear"}
    return execute_all(sweep_of(tmp_path_factory.mktemp("finished") / "sweep", "ERM", setting=setting))


@pytest.fixture
def root(finished: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in a folder that may be changed; its runs are not executed, as if all were others' to execute."""
    monkeypatch.setattr(Sweep, "execute", lambda self, *args, **options: 0)
    return Path(shutil.copytree(finished.root, tmp_path / "sweep"))


def run_folder(root: Path) -> Path:
    (folder,) = (root / "runs").iterdir()
    return folder


def call(capsys: pytest.CaptureFixture[str], main: Callable[..., int], *words: str) -> tuple[int, str]:
    """Exit code, and what was printed; an exception would be a traceback."""
    code = cli.run(main, words)
    said = capsys.readouterr()
    return code, said.out + said.err


def state(root: Path) -> State:
    (found,) = Store(root).states(Store(root).ids(), 0, thorough=True).values()
    return found


@junk
@pytest.mark.parametrize("name", ["run.json", "done", "records.jsonl"])
def test_a_damaged_run_is_shown_alike_by_all_and_mended_by_retry(
    root: Path, name: str, damage: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_folder(root) / name
    good = (run_folder(root) / "run.json").read_bytes()
    damage(path)
    assert state(root) is State.DAMAGED
    code, said = call(capsys, sweep.main, "status", "--output_dir", str(root))
    assert code == 1
    assert "damaged: ERM RotatedDigits [75] hparams 0 trial 0: " in said
    assert name in said
    assert "`dgbench sweep retry` makes it again" in said
    code, said = call(capsys, collect.main, "--input_dir", str(root))
    assert "damaged" in said
    assert name in said
    assert "Traceback" not in said
    code, said = call(capsys, sweep.main, "status", "--json", "--output_dir", str(root))
    assert json.loads(said)["state"] == "damaged"
    code, said = call(capsys, sweep.main, "retry", "--skip_confirmation", "--output_dir", str(root))
    assert (code, "1 failed or damaged run may run again" in said) == (0, True)
    assert state(root) is State.WAITING
    assert (run_folder(root) / "run.json").read_bytes() == good
    assert not (run_folder(root) / "done").exists()


@pytest.mark.parametrize("name", ["checkpoint.pt", "log.txt", "times.jsonl", "progress.json", "records.jsonl"])
def test_a_folder_in_the_place_of_a_file_is_damage_before_the_run_is_done(root: Path, name: str) -> None:
    (run_folder(root) / "done").unlink()
    assert state(root) is State.WAITING
    (run_folder(root) / name).unlink(missing_ok=True)
    (run_folder(root) / name).mkdir()
    assert state(root) is State.DAMAGED


def test_another_runs_file_is_damage(root: Path) -> None:
    path = run_folder(root) / "run.json"
    path.write_text(path.read_text().replace('"trial": 0', '"trial": 1'))
    assert state(root) is State.DAMAGED
    assert "it holds another run than its folder's name says" in Store(root).folder(run_folder(root).name).damage()


def test_a_run_whose_file_is_gone_is_damaged_if_it_is_done_and_else_begun_anew(root: Path) -> None:
    (run_folder(root) / "run.json").unlink()
    assert state(root) is State.DAMAGED
    (run_folder(root) / "done").unlink()
    assert state(root) is State.MISSING


@junk
def test_failures_that_cannot_be_read_count_and_are_named(
    root: Path, damage: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    (run_folder(root) / "done").unlink()
    folder = Store(root).folder(run_folder(root).name)
    for number in (1, 2):  # it is tried again once
        folder.fail({"exit": 1, "error": "e", "traceback": "", "log": ""}, number)
    folder.record_restart("w")
    for name in ("failed-0002.json", "lost-0001.json"):
        damage(folder.path / name)
    code, said = call(capsys, sweep.main, "status", "--output_dir", str(root))
    assert code == 1
    assert "failed-0002.json is damaged: " in said
    assert "lost-0001.json is damaged: " in said
    assert "failed-0002.json is damaged" in call(capsys, collect.main, "--input_dir", str(root))[1]
    call(capsys, sweep.main, "retry", "--skip_confirmation", "--output_dir", str(root))
    assert state(root) is State.WAITING
    folder.record_restart("again")
    assert folder.restarts()[1]["why"] == "again"


@junk
def test_a_damaged_plan_is_named_and_written_anew_by_retry(
    root: Path, damage: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_plan(root)
    damage(root / "plan.json")
    for main, words in (
        (sweep.main, ("status", "--output_dir", str(root))),
        (sweep.main, ("prune", "--output_dir", str(root))),
        (sweep.main, ("delete_incomplete", "--output_dir", str(root))),
        (collect.main, ("--input_dir", str(root))),
    ):
        code, said = call(capsys, main, *words)
        assert code == 2
        assert f"{root / 'plan.json'} is damaged: " in said
        assert said.endswith(": `dgbench sweep retry` writes it anew\n")
        assert said.count("\n") == 1
    if not (root / "plan.json").is_dir():
        assert call(capsys, sweep.main, "retry", "--skip_confirmation", "--output_dir", str(root))[0] == 0
        assert read_plan(root) == before
        assert state(root) is State.DONE


@junk
def test_a_damaged_declaration_is_named_and_made_again_by_the_first_launch(
    root: Path, damage: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(root / "sweep.json")
    for verb in ("retry", "prune"):
        code, said = call(capsys, sweep.main, verb, "--skip_confirmation", "--output_dir", str(root))
        assert code == 2
        assert f"{root / 'sweep.json'} is damaged: " in said
        assert said.endswith(": remove it, and launch with the words of the first launch again: what is done stays\n")
    assert state(root) is State.DONE
    (root / "sweep.json").rmdir() if (root / "sweep.json").is_dir() else (root / "sweep.json").unlink()
    setting = {"steps": 2, "checkpoint_freq": 1, "backbone": "Linear"}
    sweep_of(root, "ERM", setting=setting, site=Site(device="cpu"))
    assert (root / "sweep.json").is_file()
    assert state(root) is State.DONE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plan: plan["runs"][0].__setitem__(4, 7), "has no data set or fold in it"),
        (lambda plan: plan["runs"][0].__setitem__(4, "0"), "has no data set or fold in it"),
        (lambda plan: plan["runs"][0].__setitem__(3, "Else"), "has no data set or fold in it"),
        (lambda plan: plan["runs"][0].__setitem__(5, None), "has values of other types"),
        (lambda plan: plan["runs"][0].__setitem__(7, [0]), "stands on runs that don't come before it"),
        (lambda plan: plan["runs"][0].__setitem__(7, [-1]), "stands on runs that don't come before it"),
        (lambda plan: plan["runs"][0].pop(), "not iterable"),
        (lambda plan: plan["runs"].append(7), "cannot unpack"),
        (lambda plan: plan["cells"][0].__setitem__(2, [[9, "model"]]), "names runs that are not in it"),
        (lambda plan: plan["cells"][0].__setitem__(0, "Else"), "of which there is nothing in it"),
        (lambda plan: plan["cells"].append("ab"), "not enough values to unpack"),
        (lambda plan: plan.pop("folds"), "folds"),
        (lambda plan: plan.update(setting=[]), "setting: Setting is made from an object"),
        (lambda plan: plan["setting"].update(steps="many"), "setting: steps: 'many' is not int"),
        (lambda plan: plan.update(format="x"), "format"),
        (lambda plan: plan.update(more=1), "more"),
    ],
)
def test_a_plan_of_other_content_is_damaged(
    root: Path, change: Callable[[dict], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = json.loads((root / "plan.json").read_text())
    change(plan)
    (root / "plan.json").write_text(json.dumps(plan))
    for main, words in (
        (sweep.main, ["status", "--output_dir", str(root)]),
        (collect.main, ["--input_dir", str(root)]),
    ):
        code, told = call(capsys, main, *words)
        assert code == 2
        assert "plan.json is damaged: " in told
        assert said in told


def test_a_plan_of_another_format_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = json.loads((root / "plan.json").read_text())
    (root / "plan.json").write_text(json.dumps({**plan, "format": 99}))
    code, said = call(capsys, sweep.main, "status", "--output_dir", str(root))
    assert (code, "has format 99, this version reads 2" in said) == (2, True)


def test_what_a_disk_alone_has_changed_is_found_by_collect_and_then_by_all(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No date tells of it: `status` believes the file server, until one command has read the records."""
    monkeypatch.setattr(folder_module, "file_clock", lambda root: time.time() + 60)
    assert state(root) is State.DONE
    monkeypatch.setattr(RunFolder, "stamp", lambda self, rung=None: (verified(root)[self.id], 0.0))
    path = run_folder(root) / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b"1", b"7", 1))
    assert state(root) is State.DONE
    assert "damaged" in call(capsys, collect.main, "--input_dir", str(root))[1]
    monkeypatch.setattr(RunFolder, "stamp", lambda self, rung=None: ("", 0.0))
    assert state(root) is State.DAMAGED


def test_retry_reads_everything(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "file_clock", lambda root: time.time() + 60)
    assert state(root) is State.DONE
    monkeypatch.setattr(RunFolder, "stamp", lambda self, rung=None: (verified(root).get(self.id, "another"), 0.0))
    path = run_folder(root) / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b"1", b"7", 1))
    assert state(root) is State.DONE
    said = call(capsys, sweep.main, "retry", "--skip_confirmation", "--output_dir", str(root))[1]
    assert "1 failed or damaged run may run again" in said


def verified(root: Path) -> dict[str, str]:
    """Id -> stamp, of the runs that the folder remembers as verified."""
    path = root / "verified.json"
    found: dict[str, str] = json.loads(path.read_text())["runs"] if path.exists() else {}
    return found
