"""Take the disk away: no space, no inodes, no permission."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.chaos.sandbox import Harm, Sandbox, finish, request, same, until
from dgbench.store.state import State

ROWS = ("ERM+SWAD", "ERM+DiWA", "ERM+T3A")
HUMBLE = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search,-fowner")
"""Words before a command that make root heed permissions."""
CODES = (0, 1, 2, 69, 75)
"""Exit codes of a launch or worker that could not write."""
ROOM = "size=64m,nr_inodes=100000"


def disks(place: Path, count: int, seed: int) -> Iterator[str]:
    """Launch on file systems of many sizes, each too small somewhere else; give them room, and finish."""
    if os.geteuid() != 0:
        yield "left out: mounting needs root"
        return
    whole = Sandbox(place / "whole", request(ROWS, steps=60))
    finish(whole.launch("--jobs", "2"), 0)
    used = sum(1 + path.stat().st_size // 4096 for path in whole.root.rglob("*") if path.is_file())
    inodes = sum(1 for _ in whole.root.rglob("*"))
    for number in range(count):
        # A checkpoint and a file that replaces another need more room meanwhile than is used at the end.
        share = (number + 1) / count
        for what, limit in (
            ("size", f"size={int(4 * (2 + share * used))}k"),
            ("inodes", f"size=64m,nr_inodes={int(4 + share * inodes)}"),
        ):
            with tiny(place / f"{what}-{number}", limit) as mount, Sandbox(mount.at, whole.words) as sandbox:
                ended = _launched_and_finished(sandbox, mount, whole)
            yield f"{limit}: {ended}; with room again the same records"


class Mount:
    """A tmpfs in this process' own namespace."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def resize(self, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"remount,{options}", "tmpfs", self.at], check=True)


@contextmanager
def tiny(at: Path, options: str) -> Iterator[Mount]:
    """A tmpfs at `at`, seen by this process and those that it starts, for the time of the block."""
    if ctypes.CDLL(None).unshare(0x00020000):  # CLONE_NEWNS
        raise Harm("no mount namespace can be made")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", at], check=True)
    try:
        yield Mount(at)
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


def _launched_and_finished(sandbox: Sandbox, mount: Mount, whole: Sandbox) -> str:
    """Launch on a full disk, then on one with room; return how the first launch ended."""
    launch = sandbox.launch("--jobs", "2", "--retries", "0")
    output = finish(launch, *CODES)
    status = sandbox.start("status", str(sandbox.root))
    finish(status, 0, 1, 2, 3)
    failed = sum(state is State.FAILED for state in sandbox.states().values())
    done = sum(state is State.DONE for state in sandbox.states().values())
    if launch.returncode == 0 and done < len(whole.states()):
        raise Harm(f"{sandbox.root}: the launch ended well with {done} runs done:\n{output}")
    if not failed and launch.returncode and "No space left" not in output:
        raise Harm(f"{sandbox.root}: neither a failed run nor a line on the disk:\n{output}")
    mount.resize(ROOM)
    again = sandbox.start("retry", str(sandbox.root), "--jobs", "2", "--skip_confirmation") if failed else None
    finish(again or sandbox.launch("--jobs", "2"), 0)
    same(sandbox, whole)
    return f"exit code {launch.returncode}, {done} done, {failed} failed ({_last(sandbox, output)})"


def permissions(place: Path, count: int, seed: int) -> Iterator[str]:
    """Take the right to write from a launch in mid-sweep, give it back, and finish."""
    if os.geteuid() != 0:
        yield "left out: it needs root"
        return
    whole = Sandbox(place / "whole", request(ROWS, steps=1500))
    finish(whole.launch("--jobs", "2"), 0)
    for number in range(count):
        with Sandbox(place / f"{number}", whole.words) as sandbox:
            ended = _robbed_and_finished(sandbox, whole)
        yield f"{ended}; with the right again the same records"


def _robbed_and_finished(sandbox: Sandbox, whole: Sandbox) -> str:
    """Take the right to write away in mid-sweep, then give it back and finish; return how the launch ended."""
    launch = sandbox.launch("--jobs", "2", "--retries", "0", wrap=HUMBLE)
    until(lambda: State.RUNNING in sandbox.states().values() or launch.poll() is not None, "a run")
    _permit(sandbox.root, 0o555)
    output = finish(launch, *CODES)
    done = sum(state is State.DONE for state in sandbox.states().values())
    _permit(sandbox.root, 0o755)
    finish(sandbox.start("retry", str(sandbox.root), "--jobs", "2", "--skip_confirmation", wrap=HUMBLE), 0)
    same(sandbox, whole)
    return f"exit code {launch.returncode} with {done} runs done ({_last(sandbox, output)})"


def _last(sandbox: Sandbox, output: str) -> str:
    """The last line that a command printed."""
    return output.strip().splitlines()[-1].replace(str(sandbox.root), "DIR")


def _permit(root: Path, mode: int) -> None:
    for path in [root, *root.rglob("*")]:
        with suppress(FileNotFoundError):  # it may be removed meanwhile
            path.chmod(mode)
