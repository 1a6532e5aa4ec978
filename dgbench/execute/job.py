"""One run in one process: claim it, execute it, and leave `done` or the reason why not.

claim -> data -> train | merge | adapt -> records -> done, last
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import subprocess
import sys
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dgbench.catalogue.catalogue import Catalogue, shared_catalogue
from dgbench.catalogue.entry import PACKAGE, source_of
from dgbench.catalogue.sources import open_dataset
from dgbench.core.errors import UserError
from dgbench.core.machine import describe_processor
from dgbench.core.run import Run
from dgbench.core.site import Site
from dgbench.core.version import __version__
from dgbench.core.wording import printable_lines
from dgbench.execute.context import InputDamaged, RunContext, open_context
from dgbench.execute.derived import execute_adapt, execute_merge
from dgbench.execute.training import Training
from dgbench.store.folder import RunFolder, Store
from dgbench.store.lease import INPUT_DAMAGED, STOPPED, TAKEN, Lease, LeaseLost, Stopped, StopSignals

log = logging.getLogger(__name__)


class _PrintableFormatter(logging.Formatter):
    """Escape control characters that a terminal showing the log would obey, as in a file's name."""

    def format(self, record: logging.LogRecord) -> str:
        """Format as ever, tracebacks too, and escape."""
        return printable_lines(super().format(record))


def preload(wanted: dict[str, Any]) -> None:
    """Read what all runs of a sweep need, in the process that they are forked from: classes and small data sets."""
    site = Site.from_json(wanted["site"])
    catalogue = shared_catalogue(site.include)
    for name in wanted["names"]:
        entry = catalogue.entries[name]
        _as_imported(entry.file)
        entry.load()
    for dataset, *how in wanted["datasets"]:
        open_dataset(dataset, site, catalogue, *how).preload()
    versions()
    commit()
    describe_processor()


def run_job(job: dict[str, Any], catalogue: Catalogue | None = None) -> int:
    """Execute one run of a sweep.

    Args:
        job: `root`, `id`, `site`, `keep` (predictor -> which models), `threads`.
        catalogue: The catalogue that the run was planned with; None in another process than that, where runs share one.

    Returns:
        The exit code of the process: 0, `TAKEN`, `STOPPED`, or 1 after a failure was written to the run's folder.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_PrintableFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    torch.set_num_threads(job["threads"])
    torch.backends.cudnn.deterministic = True
    store = Store(Path(job["root"]))
    folder = store.folder(job["id"])
    with StopSignals() as stops:
        lease = folder.claim(stops)
        if lease is None:
            return TAKEN
        with lease:
            return _attempt(job, folder, store, lease, catalogue)


def _attempt(job: dict[str, Any], folder: RunFolder, store: Store, lease: Lease, catalogue: Catalogue | None) -> int:
    """Execute a claimed run; return the exit code of `run_job`."""
    try:
        started, site = time.time(), Site.from_json(job["site"])
        catalogue = catalogue or shared_catalogue(site.include)
        execute(open_context(folder.run(), store, site, catalogue, job["keep"], lease), lease, started)
    except Stopped:
        log.info("stopped on request; launched again, it goes on")
        return STOPPED
    except LeaseLost as error:
        log.info("%s", error)
        return TAKEN
    except InputDamaged as error:
        log.warning("%s: run %s, which is read here, is made again, and this one after it", error, error.run)
        store.folder(error.run).begin_anew(str(error))
        return INPUT_DAMAGED
    except (Exception, SystemExit) as error:  # a method that calls sys.exit(0) has not succeeded
        told = isinstance(error, UserError)
        if told:  # in the user's words, to which a traceback adds nothing
            log.error("failed: %s", error)
        else:
            log.exception("failed")
        error_line = f"{type(error).__name__}: {error}"
        info = {"exit": 1, "error": error_line, "traceback": traceback.format_exc(), "log": str(folder.log_path)}
        folder.fail(info, lease.number, final=told)  # what is wrong with files is so the next time too
        return 1
    return 0


def execute(context: RunContext, lease: Lease, started: float) -> None:
    """Execute a claimed run, begun at that time, and write `done`; raise whatever goes wrong."""
    run, sources = context.run, sources_of(context.run, context.catalogue)
    log.info("%s on %s: %s", run.id, context.device, run.name)
    algorithm = context.algorithm(begin=run.kind == "train")
    if run.kind == "train":
        Training(context, algorithm).execute()
    else:
        context.folder.truncate_records(0)
        (execute_merge if run.kind == "merge" else execute_adapt)(context, algorithm)
    write_times(context.folder, started, context.device)
    lease.confirm()
    summary: dict[str, Any] = {"fingerprint": context.dataset.fingerprint(), "versions": versions(), "commit": commit()}
    summary["weights"] = algorithm.network.started_from
    summary["machine"] = describe_machine(context.device)
    if sources:
        summary["sources"] = sources
    context.folder.finish(summary)
    context.folder.remove_checkpoint()


def sources_of(run: Run, catalogue: Catalogue) -> dict[str, str]:
    """Map the run's entries that the package, and so the commit, doesn't hold to their file and its hash."""
    names = (run.method.name, *(average.name for average in run.averages))
    return {name: source for name in names if (source := _as_imported(catalogue.entries[name].file))}


@cache
def _as_imported(file: str) -> str:
    """Name and hash a file as it was at the first call, when it was imported: it may be edited while runs execute."""
    return source_of(Path(file))


def describe_machine(device: torch.device) -> str:
    """Name the hardware that computes a run: the processor with its vector extensions, and the GPU if one is used."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return describe_processor() + ("" if device.type == "cpu" else f", {gpu}")


def write_times(folder: RunFolder, started: float, device: torch.device) -> None:
    """Append times, host and device to `times.jsonl`: they differ between two executions, as records must not."""
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    line = {
        "started": started,
        "seconds": time.time() - started,
        "host": platform.node(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": describe_processor(),
        "threads": torch.get_num_threads(),
        "peak_bytes": peak,
    }
    with (folder.path / "times.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


@cache
def versions() -> dict[str, str]:
    """Return the versions that a number may depend on."""
    names = ("torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"dgbench": __version__, "python": platform.python_version(), **found}


@cache
def commit() -> str:
    """Find the commit of the source that runs, with `+changes` if files differ from it; empty outside a repository."""

    def git(*arguments: str) -> str:
        answer = subprocess.run(["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    tracked = git("ls-files", "--error-unmatch", "__init__.py")
    if not tracked:
        return ""
    return git("rev-parse", "--short=12", "HEAD") + (
        "+changes" if git("status", "--porcelain", "--", str(PACKAGE)) else ""
    )
