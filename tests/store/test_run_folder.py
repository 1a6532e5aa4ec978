from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgbench.core.protocol import Fold, View
from dgbench.core.run import ResolvedEntry, Run
from dgbench.core.setting import setting
from dgbench.store import removal
from dgbench.store.files import write_atomic
from dgbench.store.folder import Store
from dgbench.store.lease import lease_name
from dgbench.store.notes import FREE_KILLS, UNMENDED
from dgbench.store.run_folder import RECORDS, RunFolder
from dgbench.store.sealed import CorruptFile
from dgbench.store.state import State

FOLD = Fold(("b",), (View("a", "in"),), (View("a", "out"),), (View("b", "in"),))
TOY = Run("train", ResolvedEntry("Toy", {"lr": 0.1}), "Data", FOLD, 0, 0, setting())
FRESH = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path, TOY.id)
    folder.create(TOY)
    return folder


def lines(folder: RunFolder) -> list[dict]:
    """The records, each of which must be whole."""
    path = folder.path / RECORDS
    data = path.read_bytes() if path.exists() else b""
    assert not data or data.endswith(b"\n")
    return [orjson.loads(line) for line in data.splitlines()]


def believed(folder: RunFolder) -> tuple[list[dict], int]:
    """What the reader of a finished run makes of its records."""
    finished = folder.finished()
    assert finished is not None
    return finished[1:]


def no_space(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A file system of 256 KiB at `tmp_path`; call to remount it with other options."""

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path)]
        return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("size=256k"):
        pytest.skip("needs the right to mount a tmpfs")
    yield lambda options: None if mount(f"remount,{options}") else pytest.skip("cannot remount")
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_disk_that_is_really_full_and_then_read_only(tmp_path: Path, tiny: Callable[[str], None]) -> None:
    folder = RunFolder(tmp_path, TOY.id)
    folder.create(TOY)
    folder.append_records([{"i": 0}])
    lease = folder.claim()
    assert lease is not None
    big = [{"text": "x" * 1000}] * 400
    with pytest.raises(OSError, match="No space left"):
        folder.append_records(big)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(folder.path / "checkpoint.pt", bytes(400_000))
    assert lines(folder) == [{"i": 0}]
    assert not any(name.startswith("checkpoint") or name.endswith(".tmp") for name in os.listdir(folder.path))
    folder.append_records([{"i": 1}])
    lease.release()
    tiny("ro")
    for write in (
        lambda: folder.append_records([{"i": 2}]),
        lambda: folder.finish({}),
        folder.claim,
        lambda: removal.reset(folder),
    ):
        with pytest.raises(OSError, match="Read-only"):
            write()
    another = replace(TOY, trial=1)
    with pytest.raises(OSError, match="Read-only"):
        RunFolder(tmp_path, another.id).create(another)
    assert lines(folder) == [{"i": 0}, {"i": 1}]
    assert Store(tmp_path).states([TOY.id, another.id], 0) == {TOY.id: State.WAITING, another.id: State.MISSING}


# -- states -----------------------------------------------------------------------------------------------------------

HOLDERS = ["released", "dead", "alive", "young", "old"]


def put_lease(path: Path, number: int, holder: str) -> None:
    here = orjson.loads((path / "mine").read_bytes())
    process = {
        "released": here,
        "alive": here,
        "dead": {**here, "started": here["started"] + 1},
        "young": {**here, "boot": "another machine"},
        "old": {**here, "boot": "another machine"},
    }[holder]
    lease = path / lease_name(number)
    lease.write_bytes(orjson.dumps(process))
    os.utime(lease, (time.time() - (100 if holder == "old" else 5),) * 2)
    if holder == "released":
        (path / f"{lease_name(number)}.released").touch()


@FRESH
@given(
    known=st.booleans(),
    done=st.booleans(),
    holders=st.lists(st.sampled_from(HOLDERS), max_size=4),
    failed=st.integers(0, 4),
    killed=st.integers(0, 5),
    forgiven=st.integers(0, 3),
    retries=st.integers(0, 3),
)
def test_state_follows_from_the_folder(
    tmp_path_factory: pytest.TempPathFactory,
    known: bool,
    done: bool,
    holders: list[str],
    failed: int,
    killed: int,
    forgiven: int,
    retries: int,
) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("sweep"), TOY.id)
    if not (known or done or holders or failed or killed or forgiven):
        assert folder.state(retries) is State.MISSING
        return
    folder.create(TOY)
    mine = folder.claim()
    assert mine is not None
    (folder.path / lease_name(1)).rename(folder.path / "mine")
    for number, holder in enumerate(holders, start=1):
        put_lease(folder.path, number, holder)
    for number in range(1, failed + forgiven + 1):
        folder.fail({"error": "x"}, number)
        if number == forgiven:
            assert folder.clear_failures() == forgiven
    for number in range(100, 100 + killed):
        folder.fail({"error": "y"}, number, killed=True)
    if done:
        folder.finish({})
    if not known:
        (folder.path / "run.json").unlink()
    if done:
        expected = State.DONE
    elif holders and holders[-1] in ("alive", "young"):
        expected = State.RUNNING
    elif failed + max(0, killed - FREE_KILLS) > retries:
        expected = State.FAILED
    else:
        expected = State.WAITING if known else State.MISSING
    assert folder.state(retries) is expected
    assert Store(folder.path.parents[1]).states([TOY.id], retries) == {TOY.id: expected}
    claimed = folder.claim()
    assert (claimed is not None) == (expected not in (State.DONE, State.RUNNING))
    if claimed:
        assert claimed.number == len(holders) + 1


def test_a_folder_is_created_once_and_gives_the_run_back(folder: RunFolder, tmp_path: Path) -> None:
    before = (folder.path / "run.json").stat().st_mtime_ns
    folder.create(TOY)
    assert (folder.path / "run.json").stat().st_mtime_ns == before
    assert folder.run() == TOY
    assert Store(tmp_path).ids() == [TOY.id]
    assert Store(tmp_path / "nowhere").ids() == []


# -- records ----------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
RECORD = st.dictionaries(st.text(), JSON, max_size=4)


@FRESH
@given(batches=st.lists(st.lists(RECORD, max_size=3), max_size=3))
def test_records_come_back(tmp_path_factory: pytest.TempPathFactory, batches: list[list[dict]]) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("sweep"), TOY.id)
    folder.create(TOY)
    sizes = [folder.mark_records()[0]]
    for batch in batches:
        folder.append_records(batch)
        sizes.append(folder.mark_records()[0])
    everything = [record for batch in batches for record in batch]
    assert lines(folder) == everything
    folder.finish({"more": 1})
    assert believed(folder) == (everything, 0)
    summary = folder.summary()
    assert summary is not None
    assert (summary["records"], summary["more"]) == (len(everything), 1)
    for kept, size in reversed(list(enumerate(sizes))):
        folder.truncate_records(size)
        assert lines(folder) == [record for batch in batches[:kept] for record in batch]


@settings(FRESH, max_examples=15)
@given(records=st.lists(RECORD, min_size=1, max_size=3))
def test_records_torn_at_every_byte(tmp_path_factory: pytest.TempPathFactory, records: list[dict]) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("sweep"), TOY.id)
    folder.create(TOY)
    folder.append_records(records)
    folder.finish({})
    path = folder.path / RECORDS
    whole = path.read_bytes()
    refused = f"{RECORDS} doesn't hold the {len(records)} records that the run finished with"
    for size in range(len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptFile, match=refused):
            believed(folder)
        torn = whole[:size].rpartition(b"\n")[2]
        path.write_bytes(whole + torn)
        if whole[size : size + 1] == b"\n":  # all of a record but its end
            with pytest.raises(CorruptFile, match=refused):
                believed(folder)
        else:
            assert believed(folder) == (records, int(bool(torn)))
    path.write_bytes(whole[:-1])
    assert believed(folder) == (records, 0), "all but the end of the last line is all of it"


@pytest.mark.parametrize(
    "garbage", [b"", b"[1]", b"17", b'{"a": 1', b"\xff\xfe\x00", b'{"a": NaN}', b'{"a":1}{"b":2}', b"\0" * 50]
)
def test_garbage_among_the_records_is_cut_off_and_counted(folder: RunFolder, garbage: bytes) -> None:
    folder.append_records([{"i": 0}, {"i": 1}])
    folder.finish({})
    (folder.path / RECORDS).write_bytes(b'{"i":0}\n' + garbage + b'\n{"i":1}\n' + garbage)
    assert believed(folder) == ([{"i": 0}, {"i": 1}], 2 if garbage else 0)


def test_records_that_changed_after_the_end_are_refused(folder: RunFolder) -> None:
    folder.append_records([{"i": 0}, {"i": 1}])
    folder.finish({})
    path = folder.path / RECORDS
    refused = r"records\.jsonl doesn't hold the 2 records that the run finished with"
    for content in (b'{"i":0}\n', b'{"i":0}\n{"i":2}\n', b'{"i":0}\n{"i":1}\n{"i":2}\n'):
        path.write_bytes(content)
        with pytest.raises(CorruptFile, match=refused):
            believed(folder)
    path.unlink()
    with pytest.raises(CorruptFile, match=refused):
        believed(folder)
    path.mkdir()
    with pytest.raises(CorruptFile, match=refused):
        believed(folder)


@pytest.mark.parametrize("broken", ["write", "fsync"])
def test_a_failed_append_leaves_no_half_line(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    folder.append_records([{"i": 0}])
    real = os.write

    def short(file: int, data: bytes) -> int:
        if len(data) < 8:
            no_space()
        return real(file, data[:-5])

    with monkeypatch.context() as patched:
        patched.setattr(os, broken, short if broken == "write" else no_space)
        with pytest.raises(OSError, match="No space left"):
            folder.append_records([{"i": 1}, {"i": 2}])
    assert lines(folder) == [{"i": 0}]
    folder.append_records([{"i": 1}])
    assert lines(folder) == [{"i": 0}, {"i": 1}]


def test_appending_to_a_torn_line_is_our_mistake(folder: RunFolder) -> None:
    (folder.path / RECORDS).write_bytes(b'{"i":0}\n{"i')
    with pytest.raises(AssertionError, match="truncate_records first"):
        folder.append_records([{"i": 1}])
    folder.truncate_records(8)
    folder.append_records([{"i": 1}])
    assert lines(folder) == [{"i": 0}, {"i": 1}]


def test_a_checkpoint_that_has_seen_more_than_there_is(folder: RunFolder) -> None:
    folder.truncate_records(0)
    with pytest.raises(CorruptFile, match=r"records\.jsonl has 0 bytes, the checkpoint has seen 8"):
        folder.truncate_records(8)


def test_a_checkpoint_that_has_seen_other_records_than_there_are(folder: RunFolder) -> None:
    folder.append_records([{"i": 0}])
    size, sha256 = folder.mark_records()
    folder.append_records([{"i": 1}])
    folder.truncate_records(size, sha256)
    assert lines(folder) == [{"i": 0}]
    (folder.path / RECORDS).write_bytes(b'{"i":7}\n')
    with pytest.raises(CorruptFile, match=r"records\.jsonl is not what the checkpoint has seen"):
        folder.truncate_records(size, sha256)


def test_what_was_lost_is_told_until_the_run_is_reset(folder: RunFolder) -> None:
    assert folder.restarts() == []
    folder.record_restart("the disk died")
    folder.record_restart("and again")
    assert [loss["why"] for loss in folder.restarts()] == ["the disk died", "and again"]
    assert folder.state(0) is State.WAITING
    assert removal.reset(folder)
    assert folder.restarts() == []


def test_records_are_not_written_through_a_link(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("three years\n")
    (folder.path / RECORDS).symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(OSError, match="symbolic link"):
        folder.truncate_records(0)
    with pytest.raises(OSError, match="symbolic link"):
        folder.append_records([{"i": 0}])
    assert (tmp_path / "thesis.tex").read_text() == "three years\n"


# -- the end ----------------------------------------------------------------------------------------------------------


def test_failures_are_kept_in_order_and_may_be_forgiven(folder: RunFolder) -> None:
    for number in (10_000, 2, 9_999):
        folder.fail({"exit": 1, "error": f"e{number}"}, number)
    assert [failure["attempt"] for failure in folder.failures()] == [2, 9_999, 10_000]
    assert folder.state(2) is State.FAILED
    assert folder.state(3) is State.WAITING
    assert folder.clear_failures() == 3
    assert folder.failures() == []
    assert folder.state(0) is State.WAITING
    folder.fail({"exit": -9, "error": "e"}, 10_001, killed=True)
    assert folder.clear_failures() == 1
    assert len([name for name in os.listdir(folder.path) if name.startswith("forgiven-")]) == 4


def test_a_final_failure_is_not_retried_until_it_is_forgiven(folder: RunFolder) -> None:
    folder.fail({"error": "by chance"}, 1)
    assert folder.state(9) is State.WAITING
    assert folder.reason(9) == f"by chance (1 of 10 attempts; log: {folder.log_path})"
    folder.fail({"error": "no such file"}, 2, final=True)
    assert folder.state(9) is State.FAILED
    assert folder.reason(9) == f"no such file ({UNMENDED}; log: {folder.log_path})"
    assert [failure["error"] for failure in folder.failures()] == ["by chance", "no such file"]
    assert folder.clear_failures() == 2
    assert folder.state(0) is State.WAITING
    assert folder.reason() == f"no failure is on record (log: {folder.log_path})"


def test_a_claim_sweeps_up_what_a_killed_attempt_was_writing(folder: RunFolder) -> None:
    (folder.path / "models").mkdir()
    kept = {".failed-0001.json.abc.tmp", "checkpoint.pt", "run.json", "models", "lease-0001"}
    for name in (".checkpoint.pt.abc.tmp", "models/.model.abc.tmp", ".failed-0001.json.abc.tmp", "checkpoint.pt"):
        (folder.path / name).touch()
    assert folder.claim()
    assert set(os.listdir(folder.path)) == kept
    assert os.listdir(folder.path / "models") == []


def test_a_run_that_another_launch_begins_in_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds the lease removes temporary files, that of a slower launch included."""
    replace_file = os.replace

    def slow(*paths: Path) -> None:
        monkeypatch.setattr(os, "replace", replace_file)
        other = RunFolder(tmp_path, TOY.id)
        other.create(TOY)
        assert other.claim()
        replace_file(*paths)

    monkeypatch.setattr(os, "replace", slow)
    folder = RunFolder(tmp_path, TOY.id)
    folder.create(TOY)
    assert folder.run() == TOY
    assert set(os.listdir(folder.path)) == {"run.json", "lease-0001"}


def test_a_folder_that_is_removed_while_its_run_is_begun_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(*paths: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "replace", vanish)
    with pytest.raises(FileNotFoundError):
        RunFolder(tmp_path, TOY.id).create(TOY)


@pytest.mark.parametrize("text", [None, b"", b"[3", b"[3,10]"])
def test_progress_is_what_can_be_read(folder: RunFolder, text: bytes | None) -> None:
    if text is not None:
        (folder.path / "progress.json").write_bytes(text)
    assert folder.progress() == ((3, 10) if text == b"[3,10]" else None)
