"""Runs that need no torch: they write numbered records, and some of them crash, hang, or are killed.

The job is {"root", "run", "steps", "pause", "fault"}; a fault strikes at step 2 of the first attempt, or of every
attempt if its name starts with "always-".
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path

from dgbench.store.lease import STOPPED, TAKEN, Lease, StopSignals
from dgbench.store.run_folder import RECORDS, RunFolder


def note(root: Path, text: str) -> None:
    """One line in the list of what was executed, whole even if several processes write at once."""
    file = os.open(root / "executed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, (text + "\n").encode())
    os.close(file)


def execute(job: dict) -> int:
    """The target of the fork server."""
    root = Path(job["root"])
    if job["fault"] == "always-before":
        raise RuntimeError("died before it claimed")
    folder = RunFolder(root, job["run"])
    with StopSignals() as stops:
        lease = folder.claim(stops)
        if lease is None:
            return TAKEN
        with lease:
            try:
                return _steps(job, root, folder, lease)
            except OSError:
                info = {"exit": 1, "error": "OSError", "traceback": traceback.format_exc(), "log": ""}
                folder.fail(info, lease.number)
                return 1


def _steps(job: dict, root: Path, folder: RunFolder, lease: Lease) -> int:
    records = folder.path / RECORDS
    done = records.read_bytes().count(b"\n") if records.exists() else 0
    note(root, f"{job['run']} {lease.number} {os.getpid()} {time.time()} begin {done}")
    print("threads", job["threads"], "gpu", repr(os.environ["CUDA_VISIBLE_DEVICES"]))
    for step in range(done, job["steps"]):
        if lease.stop_requested:
            note(root, f"{job['run']} {lease.number} {os.getpid()} {time.time()} stopped {step}")
            return STOPPED
        if step == 2 and (job["fault"].startswith("always-") or lease.number == 1):
            strike(job["fault"].removeprefix("always-"))
        time.sleep(job["pause"])
        lease.confirm()
        folder.append_records([{"step": step}])
        lease.beat(step + 1, job["steps"])
    folder.finish({"steps": job["steps"]})
    note(root, f"{job['run']} {lease.number} {os.getpid()} {time.time()} done {job['steps']}")
    return 0


def strike(fault: str) -> None:
    """Go wrong in the named way."""
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == "exit":
        sys.exit("left in the middle")
    elif fault == "zero":
        sys.exit(0)
    elif fault == "raise":
        raise RuntimeError("it went wrong")
    elif fault == "disk":
        raise OSError("No space left on device")
    elif fault == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        print("hanging")
        time.sleep(3600)
    else:
        assert fault == ""
