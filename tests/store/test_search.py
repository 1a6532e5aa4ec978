"""Runs of a search that drops some of them, as their folders show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgbench.core.errors import UserError
from dgbench.core.halving import Bracket, Standing
from dgbench.core.run import Run
from dgbench.store.folder import Store
from dgbench.store.run_folder import RECORDS
from dgbench.store.search import FILE, read_search, write_search
from dgbench.store.state import State
from tests.conftest import MakePlan

SUMMARY = {"fingerprint": "", "versions": {}, "commit": "", "sources": {}}


@pytest.fixture
def runs(make_plan: MakePlan) -> list[Run]:
    """Three draws, and the adaptations of the second and the third."""
    runs = [run for run in make_plan("ERM", "ERM+T3A", hparams=3).runs if run.fold.held_out == ("a",)]
    return runs[:3] + runs[4:6]


@pytest.fixture
def bracket(runs: list[Run]) -> Bracket:
    ids = [run.id for run in runs]
    return Bracket(tuple(ids[:3]), (5,), 11, readers={ids[1]: (ids[3],), ids[2]: (ids[4],)})


def reach(store: Store, run: Run, score: float) -> None:
    folder = store.folder(run.id)
    folder.create(run)
    folder.append_records([{"step": 0}, {"step": 5}])
    folder.reach(5, score, SUMMARY)


def test_states_follow_from_the_names_of_notes(tmp_path: Path, runs: list[Run], bracket: Bracket) -> None:
    write_search(tmp_path, [bracket])
    store, ids = Store(tmp_path), [run.id for run in runs]

    def states() -> list[State]:
        found = Store(tmp_path).states(ids, 0, thorough=True)
        assert found == store.states(ids, 0, thorough=True), "also for a process that has looked before"
        return [found[id] for id in ids]

    assert states() == [State.MISSING] * 5
    for run, score in zip(runs[:2], (0.8125, float("-inf")), strict=True):
        reach(store, run, score)
    assert states() == [State.PAUSED, State.PAUSED, State.MISSING, State.MISSING, State.MISSING]
    assert store.standing(ids[0]) == Standing(5, awaited=(ids[2],))
    assert store.standing(ids[2]) == Standing(5)
    reach(store, runs[2], 1e-05)
    assert states() == [State.WAITING, State.DROPPED, State.DROPPED, State.DROPPED, State.DROPPED]
    assert store.standing(ids[0]) == Standing(None)
    assert store.dropped() == dict.fromkeys(ids[1:], 5)
    assert store.folder(ids[2]).scores() == {5: 1e-05}
    store.folder(ids[0]).finish(SUMMARY)
    assert states()[0] is State.DONE
    assert [state.settled for state in states()] == [True] * 5


def test_results_of_a_dropped_run_are_held_to_its_note(tmp_path: Path, runs: list[Run], bracket: Bracket) -> None:
    write_search(tmp_path, [bracket])
    store = Store(tmp_path)
    for run, score in zip(runs, (0.5, 0.25, 0.125), strict=False):
        reach(store, run, score)
    folder = store.folder(runs[1].id)
    assert folder.finished() is None
    found = folder.finished(5)
    assert found
    assert found[1:] == ([{"step": 0}, {"step": 5}], 0)
    (folder.path / RECORDS).write_bytes(b'{"step":0}\n')
    assert store.states([folder.id], 0, thorough=True) == {folder.id: State.DAMAGED}
    assert "doesn't hold the 2 records" in store.damage(folder.id)


def test_without_the_file_every_draw_goes_on(tmp_path: Path, runs: list[Run], bracket: Bracket) -> None:
    write_search(tmp_path, [bracket])
    store = Store(tmp_path)
    for run, score in zip(runs, (0.5, 0.25, 0.125), strict=False):
        reach(store, run, score)
    assert read_search(tmp_path) == (bracket,)
    assert store.states([runs[1].id], 0) == {runs[1].id: State.DROPPED}
    write_search(tmp_path, [])
    assert not (tmp_path / FILE).exists()
    assert store.states([runs[1].id], 0) == {runs[1].id: State.WAITING}
    given = Store(tmp_path, brackets=[bracket])
    assert given.states([runs[1].id], 0) == {runs[1].id: State.DROPPED}, "what was just planned needs no file"


@pytest.mark.parametrize(
    "content", ["{", '{"format": 1}', '{"format": 1, "brackets": [{"runs": ["../x"], "rungs": [], "steps": 1}]}']
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=r"search\.json is damaged"):
        Store(tmp_path).states(["0" * 20], 0)
