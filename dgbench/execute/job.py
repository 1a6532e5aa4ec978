"""Execute one run of a sweep in one process, from the claim of its lease to the file `done`.

A launcher starts a process for each run, which calls `run_job`; `dgbench train` calls it in its own process. A run
passes these stages, in this order:

    claim the lease -> open the data -> train | merge | adapt -> append records -> write `done`, last

A run of a search may have to wait for others at a step, to be compared with them there (`core.halving`). Its process
then writes a note on that rung instead of `done`, keeps the checkpoint and leaves; another attempt goes on from it.

`training` holds the loop, `derived` merging and adapting. They read the run, its data and its device from the
`RunContext` that `context.open_context` makes, and measure each predictor by `evaluate.evaluate`. A run without `done`
counts as unfinished, whatever else its folder holds, so a process may be killed between any two stages: the next
attempt resumes from the checkpoint, if there is one, or starts again.

Every outcome is data. A failure is written to the run's folder and the process exits with 1. The other exit codes
(`TAKEN`, `STOPPED`, `INPUT_DAMAGED`, `AT_RUNG` of `store.lease`) tell the launcher that the attempt ended without a
failure of the run: another process executes it, it was stopped, a run that it reads has to be executed again first, or
it waits at a rung.
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
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dgbench.catalogue.catalogue import Catalogue, shared_catalogue
from dgbench.catalogue.entry import PACKAGE, CatalogueEntry, source_as_imported, source_of
from dgbench.catalogue.sources import open_dataset
from dgbench.core.errors import UserError
from dgbench.core.machine import describe_engine, describe_processor, peak_memory
from dgbench.core.progress import NO_DISPLAY, TrainingDisplay
from dgbench.core.run import Run
from dgbench.core.site import Site
from dgbench.core.version import __version__
from dgbench.core.wording import printable_lines
from dgbench.data.views import keep_domains
from dgbench.execute.analyze import execute_analysis
from dgbench.execute.context import InputDamaged, RunContext, dataset_of, open_context
from dgbench.execute.derived import execute_adapt, execute_merge
from dgbench.execute.training import Training
from dgbench.methods.algorithm import Algorithm
from dgbench.networks.low_rank import LowRank
from dgbench.networks.network import keep_featurizer
from dgbench.networks.norms import batch_norms
from dgbench.networks.start import import_libraries
from dgbench.networks.weights import with_weights_file
from dgbench.store import removal
from dgbench.store.folder import Store
from dgbench.store.lease import AT_RUNG, INPUT_DAMAGED, STOPPED, TAKEN, Lease, LeaseLost, Stopped, StopSignals
from dgbench.store.run_folder import RunFolder

log = logging.getLogger(__name__)

_MOST_FEATURIZERS = 8
"""Most featurizers that the process which runs are forked from makes and holds; one may take a second."""
_DERIVED = {"merge": execute_merge, "adapt": execute_adapt, "analyze": execute_analysis}
"""Kind of a run that trains nothing -> the function that executes it."""


class _PrintableFormatter(logging.Formatter):
    """A log formatter that escapes control characters, which a terminal would obey: names of files may hold some."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a log record, with its traceback, and escape its control characters."""
        return printable_lines(super().format(record))


def preload(shared: dict[str, Any]) -> None:
    """Import the entries and open the data sets of a sweep once, in the process that its runs are forked from.

    Args:
        shared: `site` (a `Site` as JSON), `names` (algorithms and averages), `datasets`, a list of (name, image size,
            backbone, interpolation) as `open_dataset` takes them, `networks`, a list of (backbone, whether low-rank
            changes train), and `runs`, those as JSON whose domains, and maybe initial featurizer, others read as well.
    """
    site = Site.from_json(shared["site"])
    catalogue = shared_catalogue(site.include)
    for name in shared["names"]:
        entry = catalogue.method(name)
        # Hashed before the import, so that `done` names the code that runs.
        _source_of(entry)
        entry.load()
    for dataset, *reading in shared["datasets"]:
        opened = open_dataset(dataset, site, catalogue, *reading)
        opened.preload()
        opened.fingerprint()
    sharing = [Run.from_json(run) for run in shared["runs"]]
    for run in sharing:
        # What is wrong with the data fails the runs that read them, and not those of other data.
        with suppress(UserError):
            keep_domains(dataset_of(run, site, catalogue), run)
    for name, low_rank in shared["networks"]:
        import_libraries(name, low_rank=low_rank)
    for run in list(filter(_starts_frozen, sharing))[:_MOST_FEATURIZERS]:
        # Whatever is wrong with a network fails the runs that build it, each with its traceback, and not the launch.
        with suppress(Exception):
            setting = with_weights_file(run.setting, site.backbone_weights)
            keep_featurizer(setting, dataset_of(run, site, catalogue).input_shape, run.init_seed)
    # Their answers are cached: a forked run starts no git and reads no package metadata.
    versions()
    commit()
    describe_processor()


def _starts_frozen(run: Run) -> bool:
    """Return whether a run trains a classifier alone, on a featurizer that other runs start with as well.

    Only then does the start of the network take as long as hundreds of steps, and its memory stay shared.
    """
    return run.kind == "train" and run.setting.freeze == "featurizer" and run.setting.init != "run"


def run_job(job: dict[str, Any], catalogue: Catalogue | None = None, display: TrainingDisplay = NO_DISPLAY) -> int:
    """Execute one run of a sweep in this process.

    Args:
        job: `root` (the sweep folder), `id`, `site` (a `Site` as JSON), `keep` (predictor -> which of its models other
            runs read), `threads` (CPU threads for torch) and `until` (step at which the run waits for others of the
            search; None or absent: none).
        catalogue: The catalogue that the run was planned with, if this process planned it; None: the one that all runs
            of this process share.
        display: Receives each step and evaluation of a training, for people who wait for this run alone.

    Returns:
        The exit code: 0 when the run is done, `TAKEN`, `STOPPED`, `INPUT_DAMAGED`, `AT_RUNG`, or 1 after a failure was
        written to the run's folder.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_PrintableFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    torch.set_num_threads(job["threads"])
    store = Store(Path(job["root"]), job["site"].get("ttl"))
    folder = store.folder(job["id"])
    # Signals are caught before the claim: one that ended the process between the claim and its answer would leave a
    # lease that other machines trust until it expires.
    with StopSignals() as stops:
        lease = folder.claim(stops)
        if lease is None:
            return TAKEN
        log.info("attempt %d on %s", lease.number, " ".join(filter(None, (platform.node(), describe_engine()))))
        with lease:
            # The search may have dropped the run by now, and its checkpoint with it.
            if job.get("until") in folder.scores():
                return AT_RUNG
            return _attempt(job, folder, store, lease, catalogue, display)


def _attempt(
    job: dict[str, Any],
    folder: RunFolder,
    store: Store,
    lease: Lease,
    catalogue: Catalogue | None,
    display: TrainingDisplay,
) -> int:
    """Execute a claimed run and turn its outcome into the exit code of `run_job`."""
    try:
        started, site = time.time(), Site.from_json(job["site"])
        catalogue = catalogue or shared_catalogue(site.include)
        context = open_context(folder.run(), store, site, catalogue, job["keep"], lease, display)
        return execute(context, lease, started, job.get("until"))
    except Stopped:
        log.info("stopped on request; launched again, it goes on")
        return STOPPED
    except LeaseLost as error:
        # The run's folder is another process's now, so not even this attempt's end is written there.
        log.info("%s", error)
        return TAKEN
    except InputDamaged as error:
        # The input loses its `done` and is executed again, then this run. Nothing is wrong with this run, so no failure
        # is recorded.
        log.warning("%s: run %s, which is read here, is made again, and this one after it", error, error.run)
        removal.begin_anew(store.folder(error.run), str(error))
        return INPUT_DAMAGED
    except (Exception, SystemExit) as error:  # SystemExit: a method that calls sys.exit(0) has not succeeded
        user_error = isinstance(error, UserError)
        if user_error:  # written for the user; a traceback adds nothing
            log.error("failed: %s", error)
        else:
            log.exception("failed")
        error_line = f"{type(error).__name__}: {error}"
        info = {"exit": 1, "error": error_line, "traceback": traceback.format_exc(), "log": str(folder.log_path)}
        folder.fail(info, lease.number, final=user_error)  # a second attempt would meet the same files
        return 1


def execute(context: RunContext, lease: Lease, started: float, until: int | None = None) -> int:
    """Execute a claimed run and write its `done`, or the note on the rung to which it may train.

    Args:
        context: The run, opened.
        lease: The right to execute it, confirmed before `done` is written.
        started: When the attempt began, in seconds since 1970.
        until: The evaluated step at which it waits for others of the search; None: none.

    Returns:
        The exit code: 0, or `AT_RUNG`.

    Raises:
        Stopped: The run was asked to stop; a training run has saved its state.
        LeaseLost: Another process has taken the run over.
        InputDamaged: A model that the run reads is damaged.
    """
    run = context.run
    sources_of(run, context.catalogue)  # now, for files that have no hash once they are imported
    log.info("%s on %s: %s", run.id, context.device, run.name)
    algorithm = context.algorithm(begin=run.kind == "train", train=run.kind == "train")
    training = Training(context, algorithm) if run.kind == "train" else None
    try:
        with context.reader:
            if training:
                training.execute(until)
            else:
                # What trains nothing keeps no checkpoint: it starts again, without the records of earlier attempts.
                context.folder.truncate_records(0)
                _DERIVED[run.kind](context, algorithm)
    except Stopped:
        # A lost lease asks to stop, too, and then the folder is another process's. Else the time counts as cost.
        lease.confirm()
        write_times(context.folder, started, context.device)
        raise
    write_times(context.folder, started, context.device)
    # Other processes trust `done`, so it is not written by a process that has lost the run, as by being suspended for
    # longer than the lease allows.
    lease.confirm()
    summary: dict[str, Any] = {"fingerprint": context.dataset.fingerprint(), "versions": versions(), "commit": commit()}
    summary["weights"] = algorithm.network.started_from
    summary["network"] = describe_network(algorithm)
    summary["machine"] = describe_machine(context.device)
    if sources := sources_of(run, context.catalogue):
        summary["sources"] = sources
    if training and until is not None:
        context.folder.reach(until, training.score_at(until), summary)
        return AT_RUNG
    context.folder.finish(summary)
    # After `done`: a kill between the two leaves a file too many, in the other order it would lose the run.
    context.folder.remove_checkpoint()
    return 0


def sources_of(run: Run, catalogue: Catalogue) -> dict[str, str]:
    """Return file and hash of each of the run's entries that lies outside the package, by the entry's name.

    The package's own entries are left out: the commit in `done` identifies them.
    """
    names = (run.method.name, *(average.name for average in run.averages))
    return {name: source for name in names if (source := _source_of(catalogue.method(name)))}


def _source_of(entry: CatalogueEntry) -> str:
    """Return the names and hashes of the files that an entry is made of, as they were imported."""
    return " ".join(dict.fromkeys(filter(None, map(_as_imported, entry.files))))


def _as_imported(file: str) -> str:
    """Return the name and hash of a file, and an empty string for the package's own files.

    A file that is edited while runs execute must not change what their `done` records: an included file counts as it
    was imported, and any other as of the first call.
    """
    return source_as_imported(Path(file)) or _at_first(file)


@cache
def _at_first(file: str) -> str:
    """Return `source_of` a file as of the first call."""
    return source_of(Path(file))


def describe_network(algorithm: Algorithm) -> dict[str, Any]:
    """Return facts about the predicting network that its setting does not hold, for tables.

    Returns:
        `parameters` (their number), `batch_norm` (`live`, `frozen`, or `none` where there is none), and `tag`, that of
        timm's weights; empty for others.
    """
    network, predictor = algorithm.network, algorithm.predictor_tensors()
    changes = {id(p) for part in algorithm.modules() if isinstance(part, LowRank) for p in part.parameters()}
    sizes = {name: p.numel() for name, p in algorithm.named_parameters() if id(p) not in changes}
    # An average of weights predicts by buffers, of which the network has as many as parameters.
    count = sum(n for name, n in sizes.items() if name in predictor) or sum(p.numel() for p in network.parameters())
    norm = ("frozen" if network.frozen_batch_norm else "live") if batch_norms(algorithm) else "none"
    # A class written for DomainBed builds its own network, beside a stand-in without a featurizer.
    facts = getattr(getattr(network, "featurizer", None), "pretrained_cfg", None) or {}
    return {"parameters": count, "batch_norm": norm, "tag": str(facts.get("tag") or "")}


def describe_machine(device: torch.device) -> str:
    """Return the processor with its vector extensions, and the name of the GPU if `device` is one."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return describe_processor() + ("" if device.type == "cpu" else f", {gpu}")


def write_times(folder: RunFolder, started: float, device: torch.device) -> None:
    """Append the attempt's duration, host, device and peak memory to `times.jsonl`.

    They differ between two executions of a run, so they stay out of its records, which must not.

    Args:
        folder: The run's.
        started: When the attempt began, in seconds since 1970.
        device: The device that computed.
    """
    on_gpu = device.type == "cuda"
    line = {
        "started": started,
        "seconds": time.time() - started,
        "host": platform.node(),
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "processor": describe_processor(),
        "threads": torch.get_num_threads(),
        "peak_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else None,
        "reserved_bytes": torch.cuda.max_memory_reserved(device) if on_gpu else None,
        "host_bytes": peak_memory(),
    }
    with (folder.path / "times.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


@cache
def versions() -> dict[str, str]:
    """Return the versions of dgbench, Python and the libraries that a result may depend on, by name."""
    names = ("torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"dgbench": __version__, "python": platform.python_version(), **found}


@cache
def commit() -> str:
    """Return the commit of the source that runs; empty if it is in no repository.

    `+changes` is appended if files of the package differ from the commit.
    """

    def git(*arguments: str) -> str:
        answer = subprocess.run(["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    # The package may lie in a repository that doesn't track it, such as an environment inside a user's project.
    tracked = git("ls-files", "--error-unmatch", "__init__.py")
    if not tracked:
        return ""
    return git("rev-parse", "--short=12", "HEAD") + (
        "+changes" if git("status", "--porcelain", "--", str(PACKAGE)) else ""
    )
