from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbench.store import holder as holders
from dgbench.store import lease as leases
from dgbench.store import process
from dgbench.store.holder import (
    GONE,
    TTL,
    TTL_OF_NETWORKS,
    WORKING,
    Holder,
    Looks,
    default_ttl,
    is_held,
    judge,
    read_holder,
)
from dgbench.store.lease import LeaseLost, StopSignals, claim, lease_name, newest
from dgbench.store.process import Process, file_clock
from tests.support.places import ROOT, SUPPORT

ELSEWHERE = Process(host="elsewhere", boot="another kernel", pid=1, started=1)


def write_lease(folder: Path, number: int, holder: Process | None, age: float = 0.0) -> None:
    path = folder / lease_name(number)
    path.write_text(json.dumps(asdict(holder)) if holder else "")
    os.utime(path, (time.time() - age,) * 2)


def take(folder: Path, **options: float) -> leases.Lease | None:
    return claim(folder, folder / "done", folder / "cancel", **options)


@pytest.fixture(autouse=True, scope="module")
def _short_beats() -> Iterator[None]:
    """Holders elsewhere beat so often that a second look comes at once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(holders, "BEAT", 0.02)
        yield


def dead_process() -> Process:
    child = subprocess.Popen(["sleep", "60"])
    found = replace(Process.current(), pid=child.pid, started=process.start_time(child.pid))
    assert found.alive()
    child.kill()
    child.wait()
    return found


@given(st.dictionaries(st.integers(1, 12_000), st.booleans()))
def test_newest_is_by_number_not_by_text(leases_released: dict[int, bool]) -> None:
    names = ["run.json", "done", "lease-x", "failed-0099.json"]
    names += [lease_name(n) for n in leases_released]
    names += [f"{lease_name(n)}.released" for n, released in leases_released.items() if released]
    highest = max(leases_released, default=0)
    for order in (names, names[::-1]):
        assert newest(order) == (highest, leases_released.get(highest, False))


def test_one_holder_at_a_time_and_numbers_go_up(tmp_path: Path) -> None:
    first = take(tmp_path)
    assert first is not None
    assert first.number == 1
    assert take(tmp_path) is None
    first.release()
    first.release()
    second = take(tmp_path)
    assert second is not None
    assert second.number == 2
    assert sorted(os.listdir(tmp_path)) == ["lease-0001", "lease-0001.released", "lease-0002"]


def test_nothing_to_claim_when_done(tmp_path: Path) -> None:
    (tmp_path / "done").touch()
    assert take(tmp_path) is None
    assert os.listdir(tmp_path) == ["done"]


def test_done_between_looking_and_claiming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = os.listdir

    def late(path: Path) -> list[str]:
        names = listed(path)
        (tmp_path / "done").touch()
        return names

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", late)
        assert take(tmp_path) is None
    assert newest(os.listdir(tmp_path)) == (1, True)


def test_of_two_who_judged_the_same_lease_one_gets_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lease(tmp_path, 1, ELSEWHERE, age=100)
    quicker = []

    def slow_judge(*args: object) -> float:
        monkeypatch.setattr(leases, "judge", judge)
        quicker.append(take(tmp_path))
        quicker[0].release()
        return GONE

    monkeypatch.setattr(leases, "judge", slow_judge)
    assert take(tmp_path) is None, "lease 2 was claimed, and released, by the quicker: it is not free again"
    assert quicker[0].number == 2


@pytest.mark.parametrize("age", [0, 1000])
def test_a_process_of_this_machine_is_looked_up(tmp_path: Path, age: float) -> None:
    write_lease(tmp_path, 1, Process.current(), age)
    assert is_held(tmp_path / lease_name(1), 60, time.time)
    write_lease(tmp_path, 2, replace(Process.current(), started=Process.current().started - 1), age)
    assert not is_held(tmp_path / lease_name(2), 60, time.time), "the pid belongs to a later process"
    write_lease(tmp_path, 3, dead_process(), age)
    assert not is_held(tmp_path / lease_name(3), 60, time.time)


def test_names_of_hosts_are_for_people_unless_a_process_is_gone(tmp_path: Path) -> None:
    """A container may rename its host; copies of a virtual machine share the identity of their kernel."""
    assert replace(Process.current(), host="renamed").alive() is True
    assert replace(dead_process(), host="renamed").alive() is None


def test_a_proc_of_another_namespace_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "readlink", lambda path: "1234567" if path == "/proc/self" else "pid:[1]")
    process.machine.cache_clear()
    try:
        found = Process.current()
        assert (found.boot, found.started, found.alive()) == ("", 0, None)
    finally:
        process.machine.cache_clear()


def test_a_lease_names_its_holder_engine_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    lease = take(tmp_path, ttl=90)
    assert lease
    assert read_holder(lease.path) == Holder(Process.current(), "slurm:5_2", leases.BEAT, 90)
    monkeypatch.setenv("DGBENCH_ENGINE", "ray:n1")
    lease.release()
    lease = take(tmp_path)
    assert lease
    found = read_holder(lease.path)
    assert found
    assert (found.engine, found.ttl) == ("ray:n1", TTL)


def test_the_time_to_live_is_the_holders(tmp_path: Path) -> None:
    path = tmp_path / lease_name(1)
    for ttl, held in ((200.0, True), (50.0, False)):
        path.write_bytes(Holder(ELSEWHERE, ttl=ttl).to_json())
        os.utime(path, (time.time() - 100,) * 2)
        assert is_held(path, 10 if held else 1000, time.time) is held


def test_a_silent_holder_is_gone_at_the_second_look_two_beats_later(tmp_path: Path) -> None:
    path, looks = tmp_path / lease_name(1), Looks()
    path.write_bytes(Holder(ELSEWHERE, beat=0.1, ttl=50).to_json())
    os.utime(path, (time.time() - 100,) * 2)
    assert not is_held(path, 60, time.time), "it seems gone"
    assert 0.1 < judge(path, 60, time.time, looks) <= 0.2
    assert 0 < judge(path, 60, time.time, looks) <= 0.2, "too soon"
    time.sleep(0.2)
    assert judge(path, 60, time.time, looks) == GONE
    os.utime(path, (time.time() - 90,) * 2)
    assert judge(path, 60, time.time, looks) > GONE, "it gave another sign since"
    os.utime(path)
    assert judge(path, 60, time.time, looks) == WORKING


def test_a_holder_that_gives_a_sign_between_two_looks_keeps_its_run(tmp_path: Path) -> None:
    """As one whose file server hung, or whose times another client had cached."""
    path = tmp_path / lease_name(1)
    path.write_bytes(Holder(ELSEWHERE, beat=0.3, ttl=50).to_json())
    os.utime(path, (time.time() - 100,) * 2)
    timer = threading.Timer(0.1, os.utime, (path,))
    timer.start()
    assert take(tmp_path) is None
    timer.join()


@pytest.mark.parametrize(
    ("kind", "ttl"), [("ext4", TTL), ("nfs4", TTL_OF_NETWORKS), ("fuse.sshfs", TTL_OF_NETWORKS), ("lustre", TTL)]
)
def test_the_file_system_says_how_long_a_holder_may_be_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, ttl: float
) -> None:
    place = str(tmp_path).replace("\\", "\\134")
    mounts = f"1 0 8:1 / / rw - overlay o rw\n2 1 0:5 / {place}/a\\040b rw shared:1 - {kind} server:/x rw\n"
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, **o: mounts if "mountinfo" in str(self) else real(self, **o))
    default_ttl.cache_clear()
    try:
        assert default_ttl(tmp_path / "a b" / "sweep") == ttl
        assert default_ttl(tmp_path / "a bc") == TTL
    finally:
        default_ttl.cache_clear()


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen(["sleep", "60"])
    found = replace(Process.current(), pid=child.pid, started=process.start_time(child.pid))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert found.alive() is False
    child.wait()


def test_another_users_process_whose_start_is_hidden_is_judged_by_age(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    mine = Process.current()
    assert mine.alive() is True
    monkeypatch.setattr(process, "start_time", lambda pid: None)
    assert mine.alive() is None


@pytest.mark.parametrize(
    "holder",
    [ELSEWHERE, replace(Process.current(), boot="another container"), replace(Process.current(), boot=""), None],
)
def test_others_are_judged_by_the_file_servers_clock(tmp_path: Path, holder: Process | None) -> None:
    write_lease(tmp_path, 1, holder, age=50)
    assert is_held(tmp_path / lease_name(1), 60, time.time)
    assert not is_held(tmp_path / lease_name(1), 60, lambda: time.time() + 11)
    assert is_held(tmp_path / lease_name(1), 60, lambda: time.time() - 60), "the clocks of two servers differ a little"
    assert take(tmp_path) is None
    assert take(tmp_path, ttl=40) is not None


@pytest.mark.parametrize("holder", [ELSEWHERE, None])
def test_a_lease_dated_in_the_future_does_not_hold_the_run_until_then(tmp_path: Path, holder: Process | None) -> None:
    write_lease(tmp_path, 1, holder, age=-24 * 3600)
    assert not is_held(tmp_path / lease_name(1), 60, time.time)
    lease = take(tmp_path)
    assert lease is not None
    assert lease.number == 2


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"null", b"17", b'"x"', b'{"host": 1}', b"\xff\x00", b'{"host": "h"', None]
)
def test_a_lease_that_is_none_of_ours_is_judged_by_its_age(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / lease_name(1)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    assert take(tmp_path) is None
    assert leases.number_of(tmp_path, os.getpid(), 0) is None
    os.utime(path, (1, 1))
    lease = take(tmp_path)
    assert lease is not None
    assert lease.number == 2


def test_a_lease_is_whole_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed at any system call on the way leaves no lease without a holder."""
    seen: list[set[str]] = []
    link = os.link

    def killed(beside: Path, path: Path) -> None:
        seen.append({name for name in os.listdir(tmp_path) if leases.is_lease(name)})
        link(beside, path)
        assert read_holder(Path(path)) == Holder(Process.current(), ttl=TTL)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            take(tmp_path)
    assert seen == [set()]
    assert os.listdir(tmp_path) == [lease_name(1)]
    assert take(tmp_path) is None, "it has a holder, this process"


def test_a_link_that_was_made_though_the_server_says_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def twice(beside: Path, path: Path) -> None:
        link(beside, path)
        link(beside, path)

    monkeypatch.setattr(os, "link", twice)
    assert take(tmp_path) is not None


def test_file_systems_without_links_are_claimed_exclusively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(beside: Path, path: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert take(tmp_path) is not None
    assert os.listdir(tmp_path) == [lease_name(1)]
    assert read_holder(tmp_path / lease_name(1)) == Holder(Process.current(), ttl=TTL)
    assert not leases._create(tmp_path / lease_name(1), TTL)


def test_who_was_tidied_away_while_claiming_was_too_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def slow(beside: Path, path: Path) -> None:
        Path(beside).unlink()
        link(beside, path)

    monkeypatch.setattr(os, "link", slow)
    assert take(tmp_path) is None


def test_a_lease_whose_folder_vanished_is_nobodys(tmp_path: Path) -> None:
    assert not is_held(tmp_path / lease_name(1), 60, time.time)


def test_file_clock_is_the_time_and_leaves_nothing(tmp_path: Path) -> None:
    before = time.time()
    assert before - 1 < file_clock(tmp_path) < time.time() + 1, "but for the grain of its clock"
    assert os.listdir(tmp_path) == []


def test_number_of_finds_the_lease_of_a_process(tmp_path: Path) -> None:
    for number, holder in enumerate([Process.current(), ELSEWHERE, Process.current(), ELSEWHERE], start=1):
        write_lease(tmp_path, number, holder)
    assert leases.number_of(tmp_path, os.getpid(), 0) == 3
    assert leases.number_of(tmp_path, os.getpid(), 3) is None
    assert leases.number_of(tmp_path, 1, 0) is None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.02)


def soon(condition: Callable[[], object]) -> None:
    """Wait for what another thread does; only one that never does it fails."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_last_steps_are_written_at_the_end(tmp_path: Path) -> None:
    lease = take(tmp_path)
    assert lease is not None
    with lease:
        lease.beat(3, 10)
    assert (tmp_path / leases.PROGRESS).read_text() == "[3,10]"


@pytest.mark.usefixtures("quick")
def test_signs_of_life_and_progress(tmp_path: Path) -> None:
    lease = take(tmp_path)
    assert lease is not None
    with lease:
        for _ in range(2):
            before = lease.path.stat().st_mtime_ns
            soon(lambda before=before: lease.path.stat().st_mtime_ns > before)
        assert not (tmp_path / leases.PROGRESS).exists()
        lease.beat(3, 10)
        soon(lambda: (tmp_path / leases.PROGRESS).exists() and (tmp_path / leases.PROGRESS).read_text() == "[3,10]")
        assert not lease.stop_requested
        lease.confirm()
    assert (tmp_path / "lease-0001.released").exists()
    soon(lambda: all(thread.name != "heartbeat" for thread in threading.enumerate()))


@pytest.fixture
def heard() -> Iterator[None]:
    """Signals as in the foreground: a job in the background, as under nohup, inherits that SIGINT is ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop_and_the_old_handler_comes_back(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stops:
        lease = claim(tmp_path, None, tmp_path / "cancel", stops=stops)
        assert lease is not None
        with lease:
            assert not lease.stop_requested
            os.kill(os.getpid(), number)
            assert lease.stop_requested
            assert not lease.lost
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("heard")
def test_a_signal_before_the_claim_is_not_lost(tmp_path: Path) -> None:
    with StopSignals() as stops:
        os.kill(os.getpid(), signal.SIGTERM)
        lease = claim(tmp_path, None, tmp_path / "cancel", stops=stops)
        assert lease is not None
        with lease:
            assert lease.stop_requested
    assert newest(os.listdir(tmp_path)) == (1, True)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_again_does_not_wait() -> None:
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("heard")
def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals() as stops:
        os.kill(os.getpid(), signal.SIGINT)
        assert not stops.came


@pytest.mark.parametrize("earlier", [None, -5, 1_000_000])
def test_a_cancel_asks_to_stop_if_it_came_after_the_claim(tmp_path: Path, earlier: float | None) -> None:
    """Whatever the date of one that was there before: it may lie far in the future."""
    cancel = tmp_path / "cancel"
    if earlier is not None:
        cancel.write_text("once")
        os.utime(cancel, (time.time() + earlier,) * 2)
    lease = take(tmp_path)
    assert lease is not None
    lease._sign_of_life()
    assert not lease.stop_requested
    kept = cancel.stat().st_mtime_ns if earlier is not None else 0
    cancel.write_text("again")
    os.utime(cancel, ns=(kept, kept))  # clocks of servers may be coarse
    lease._sign_of_life()
    assert lease.stop_requested
    assert not lease.lost


def test_a_cancel_that_is_taken_back_asks_nothing(tmp_path: Path) -> None:
    (tmp_path / "cancel").touch()
    lease = take(tmp_path)
    assert lease is not None
    (tmp_path / "cancel").unlink()
    lease._sign_of_life()
    assert not lease.stop_requested


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["taken", "removed"])
def test_a_lease_that_others_took_is_lost(tmp_path: Path, how: str) -> None:
    lease = take(tmp_path)
    assert lease is not None
    with lease:
        lease.confirm()
        if how == "taken":
            write_lease(tmp_path, 2, ELSEWHERE)
        else:
            (tmp_path / "lease-0001").unlink()
        with pytest.raises(LeaseLost, match="lease-0001: another process took this run over"):
            lease.confirm()
        assert lease.lost
        assert lease.stop_requested
    again = leases.Lease(tmp_path, 1, tmp_path / "cancel", 60, 0)
    with again:
        soon(lambda: again.lost)


def test_a_holder_that_cannot_give_signs_of_life_gives_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(leases.time, "monotonic", lambda: now[0])
    lease = take(tmp_path, ttl=60)
    assert lease is not None

    def away(path: Path) -> None:  # the file server
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "utime", away)
    for seconds, lost in ((59.0, False), (61.0, True)):
        now[0] = 1000.0 + seconds
        lease._sign_of_life()
        assert lease.lost is lost


def silent_until_now(lease: leases.Lease) -> None:
    """As after a sleep of the machine that was longer than the holder may be silent, and shorter than its lease."""
    lease._dated = time.time() - 40


def test_a_holder_that_was_silent_claims_the_next_number_first(tmp_path: Path) -> None:
    lease = take(tmp_path)
    assert lease is not None
    silent_until_now(lease)
    lease.confirm()
    assert lease.number == 2
    assert sorted(os.listdir(tmp_path)) == ["lease-0001", "lease-0001.released", "lease-0002"]
    lease.confirm()
    lease._sign_of_life()
    assert lease.number == 2
    lease.release()
    assert newest(os.listdir(tmp_path)) == (2, True)


@pytest.mark.parametrize("signs", [0, 1])
def test_of_a_holder_that_was_silent_and_its_judge_one_gets_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signs: int
) -> None:
    """The judge has found the holder gone, and creates its lease while the holder gives a sign of life again."""
    lease = take(tmp_path)
    assert lease is not None
    silent_until_now(lease)
    create = leases._create

    def too_late(path: Path, ttl: float) -> bool:
        write_lease(tmp_path, 2, ELSEWHERE)
        return create(path, ttl)

    monkeypatch.setattr(leases, "_create", too_late)
    for _ in range(signs):
        lease._sign_of_life()
    with pytest.raises(LeaseLost):
        lease.confirm()
    assert lease.number == 1
    assert sorted(os.listdir(tmp_path)) == ["lease-0001", "lease-0002"]


RACERS = 8


def race(root: Path, mode: str, runs: int) -> list[list[str]]:
    """What the claimants note in each of `runs` folders."""
    dead = dead_process()
    for i in range(runs):
        (folder := root / f"{i:03d}").mkdir(parents=True)
        if i % 3:
            write_lease(folder, 1, dead)
        if i % 3 == 2:
            leases.mark_released(folder, 1)
    command = [sys.executable, str(SUPPORT / "lease_racer.py"), str(root), mode, str(RACERS)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    racers = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=env) for _ in range(RACERS)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("begin\n")
        racer.stdin.flush()
    for racer in racers:  # all live until all have finished, for what the dead held is free
        assert racer.stdout is not None
        assert racer.stdout.readline() == "finished\n"
    for racer in racers:
        racer.communicate()
        assert racer.returncode == 0
    return [(root / f"{i:03d}" / "claimed.txt").read_text().splitlines() for i in range(runs)]


def test_race_each_run_is_claimed_by_one(tmp_path: Path) -> None:
    claimed = race(tmp_path, "hold", 30)
    assert claimed == [["1"] if i % 3 == 0 else ["2"] for i in range(30)]


def test_race_would_tell_if_leases_were_not_exclusive(tmp_path: Path) -> None:
    assert all(len(lines) == RACERS for lines in race(tmp_path, "careless", 3))


def test_race_of_claims_and_releases_never_overlaps(tmp_path: Path) -> None:
    for lines in race(tmp_path, "cycle", 3):
        numbers = [int(line.split()[1]) for line in lines]
        assert len(lines) > 4
        assert lines == [f"{word} {n}" for n in numbers[::2] for word in ("begin", "end")]
        assert len(set(numbers[::2])) == len(numbers[::2])
