"""What tidying removes: folders of runs that are checked at that moment, and nothing that a link points to."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import orjson
import pytest

from dgbench.core.errors import UserError
from dgbench.core.run import Run
from dgbench.launchers.tidy import begin_anew, incomplete, prunable, prune
from dgbench.plan.planfile import FILE, PlanTable, read_plan
from dgbench.store import removal
from dgbench.store.folder import Store
from dgbench.store.run_folder import RunFolder
from dgbench.store.state import State
from tests.support.places import SUPPORT

OWN: dict[str, Any] = runpy.run_path(str(SUPPORT / "own_sweep.py"))
UNASKED = "0123456789abcdef0123"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A finished sweep whose first run kept its weights, and beside it files that tidying must never touch."""
    root = tmp_path / "sweep"
    root.mkdir()
    table: PlanTable = OWN["make"](root, hparams=1, trials=1)
    models = root / "runs" / table.runs[0].id / "models"
    models.mkdir()
    (models / "model.best.safetensors").write_bytes(bytes(1000))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("three years")
    return root


def add_unasked(root: Path, name: str = UNASKED) -> Path:
    """A run that the plan doesn't have."""
    folder = root / "runs" / name
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    (folder / "records.jsonl").write_bytes(bytes(500))
    return folder


def tidy(root: Path) -> tuple[int, int]:
    return prune(root, prunable(root))


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_what_is_not_asked_for_and_weights_are_removed_as_was_said(root: Path) -> None:
    folder = add_unasked(root)
    said = prunable(root)
    first = read_plan(root).runs[0].id
    assert [found.id for found in said.runs] == [UNASKED]
    assert [found.id for found in said.weights] == [first]
    assert list(said.lines()) == [f"{folder}: 0.0 MB, a run", f"{root / 'runs' / first / 'models'}: 0.0 MB, weights"]
    assert prune(root, said) == (1, 1502)
    assert not folder.exists()
    assert not (root / "runs" / first / "models").exists()
    assert tidy(root) == (0, 0)


@pytest.mark.parametrize("name", ["notes", "0123456789abcdef012", "0123456789ABCDEF0123", UNASKED])
def test_a_folder_that_is_no_run_stays_and_is_named(root: Path, name: str) -> None:
    (root / "runs" / name).mkdir()
    (root / "runs" / name / "results.xlsx").write_text("by hand")
    assert prunable(root).left == (root / "runs" / name,)
    assert tidy(root)[0] == 0
    assert (root / "runs" / name / "results.xlsx").read_text() == "by hand"


def test_a_folder_that_a_killed_launch_just_made_is_removed(root: Path) -> None:
    (root / "runs" / UNASKED).mkdir()
    (root / "runs" / UNASKED / "lease-0001").touch()
    os.utime(root / "runs" / UNASKED / "lease-0001", (0, 0))
    assert tidy(root)[0] == 1


def test_no_link_is_followed(root: Path) -> None:
    thesis = root.parent / "thesis"
    (root / "runs" / UNASKED).symlink_to(thesis)
    inside = add_unasked(root, "f" * 20)
    for name, to in (("models", thesis), ("checkpoint.pt", thesis / "chapter.tex"), ("log.txt", "nowhere")):
        (inside / name).symlink_to(to)
    (thesis / ".chapter.tmp").touch()
    (thesis / "run.json").write_text("{}")
    lease = RunFolder(root, inside.name).claim()  # which removes what killed attempts were writing
    assert lease
    lease.release()
    assert prunable(root).left == (root / "runs" / UNASKED,)
    assert tidy(root)[0] == 1
    assert not inside.exists()
    assert sorted(os.listdir(thesis)) == [".chapter.tmp", "chapter.tex", "run.json"]
    assert (thesis / "chapter.tex").read_text() == "three years"


def test_weights_behind_a_link_stay(root: Path) -> None:
    first = root / "runs" / read_plan(root).runs[0].id / "models"
    elsewhere = root.parent / "scratch"
    first.rename(elsewhere)
    first.symlink_to(elsewhere)
    assert prunable(root).weights == ()
    assert tidy(root) == (0, 0)
    assert os.listdir(elsewhere) == ["model.best.safetensors"]


def test_a_folder_of_runs_that_is_a_link_is_refused(root: Path) -> None:
    add_unasked(root)
    elsewhere = root.parent / "scratch"
    (root / "runs").rename(elsewhere)
    (root / "runs").symlink_to(elsewhere)
    before = everything(elsewhere)
    with pytest.raises(UserError, match=r"runs is a link, and nothing is removed through one"):
        prunable(root)
    with pytest.raises(UserError, match=r"runs is a link"):
        begin_anew(root, [UNASKED])
    assert everything(elsewhere) == before


def test_a_run_that_is_under_way_stays(root: Path) -> None:
    add_unasked(root)
    lease = RunFolder(root, UNASKED).claim()
    assert lease
    assert tidy(root)[0] == 0
    lease.release()
    assert tidy(root)[0] == 1


def test_what_another_launch_asks_for_or_begins_after_the_question_stays(root: Path) -> None:
    add_unasked(root)
    said = prunable(root)
    plan = orjson.loads((root / FILE).read_bytes())
    plan["runs"][1][0] = UNASKED
    (root / FILE).write_bytes(orjson.dumps(plan))
    (first,) = said.weights
    (first.path / "done").unlink()
    assert prune(root, said) == (0, 0)
    assert not removal.remove_models(first)
    assert (first.path / "models").is_dir()
    assert (root / "runs" / UNASKED).is_dir()


def test_a_run_that_finished_after_the_question_stays(root: Path) -> None:
    store, ids = Store(root), [run.id for run in read_plan(root).runs[:2]]
    done = (store.folder(ids[1]).path / "done").read_bytes()
    for id in ids:
        (store.folder(id).path / "done").unlink()
    assert incomplete(root) == ids
    (store.folder(ids[1]).path / "done").write_bytes(done)
    assert begin_anew(root, ids) == ids[:1]
    assert not (store.folder(ids[0]).path / "records.jsonl").exists()
    assert store.states(ids, 0) == {ids[0]: State.WAITING, ids[1]: State.DONE}
    assert (store.folder(ids[1]).path / "records.jsonl").stat().st_size > 0


@pytest.mark.parametrize("id", ["../../thesis", "/tmp", "..", "", "0123456789abcdef012G", UNASKED + "\n", 7, None])
def test_ids_in_the_plan_that_are_no_ids_are_refused(root: Path, id: Any) -> None:
    plan = orjson.loads((root / FILE).read_bytes())
    plan["runs"][0][0] = id
    (root / FILE).write_bytes(orjson.dumps(plan))
    with pytest.raises(UserError, match=r"plan\.json is damaged: .* is not the id of a run"):
        read_plan(root)


@pytest.mark.parametrize("id", ["../../thesis", "/tmp", "..", "", "abc", UNASKED + "\n"])
def test_no_folder_is_made_of_another_name_than_an_id(root: Path, id: str) -> None:
    with pytest.raises(ValueError, match="is not the id of a run"):
        Store(root).folder(id)


def test_a_run_that_stands_on_a_path_is_refused(root: Path) -> None:
    id = read_plan(root).runs[-1].id
    data = orjson.loads((root / "runs" / id / "run.json").read_bytes())
    data["inputs"][0]["run"] = "../../thesis"
    run = Run.from_json(data)
    with pytest.raises(ValueError, match="is not the id of a run"):
        Store(root).folder(run.inputs[0].run)
