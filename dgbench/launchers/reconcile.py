"""Compare the runs that a sweep should have with those in its folder, and execute the difference.

A `Sweep` pairs a plan with a folder; `launchers.prepare` makes it. Its methods are the steps of `dgbench launch`:
`states` and `remarks` look and change nothing, `ensure_inputs` downloads weights and vocabularies, `write` records the
declaration and the plan, `execute` executes every run that is not done. Each may be called again at any time, because
the state of a run is read from the folder, never remembered. The same launch therefore starts, resumes and finishes a
sweep, and a second one beside it is harmless.
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset
from dgbench.core.errors import UNWRITABLE, Problems, UserError
from dgbench.core.halving import expected
from dgbench.core.machine import report_step, usable_cores, visible_gpus
from dgbench.core.protocol import LeaveOneDomainOut
from dgbench.core.run import Run
from dgbench.core.site import Site
from dgbench.core.wording import group_values, printable
from dgbench.data.cache import build_cache
from dgbench.data.dataset import Dataset
from dgbench.launchers.base import GRACE, STOPPED_EARLY, TO_THE_END, UNAVAILABLE, Engine, Observer, Slot, Terms
from dgbench.networks.start import ensure_weights
from dgbench.plan.declaration import FILE as DECLARATION
from dgbench.plan.declaration import Declaration, read_declaration, write_declaration
from dgbench.plan.networks import seeming_classifiers
from dgbench.plan.onset import late_onsets
from dgbench.plan.plan import Plan
from dgbench.plan.planfile import tabulate, write_plan
from dgbench.store import removal
from dgbench.store.files import model_path
from dgbench.store.folder import Store
from dgbench.store.lease import Stopped
from dgbench.store.search import write_search
from dgbench.store.state import State

if TYPE_CHECKING:
    from dgbench.launchers.forkserver import ForkServer
    from dgbench.launchers.interrupts import Interrupts
    from dgbench.launchers.local import KeptServer

_JOB = "dgbench.execute.job"
_PRELOADED = (_JOB, "torch._dynamo", "torch.utils.serialization.config", "numpy.ctypeslib", "numpy.ma")
"""Modules that the fork server imports. Those after the first are imported by torch when it makes its first optimizer
or saves its first file, and by numpy when it finds the first distinct values: in each run that would take longer than
many a run itself."""


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder together with everything that it should hold. `launchers.prepare` makes it."""

    root: Path
    declaration: Declaration
    plan: Plan
    site: Site
    catalogue: Catalogue
    """With the files that `site` includes."""
    extended: Declaration | None = None
    """The declaration that the folder held when this sweep was planned; None: it held none."""

    @cached_property
    def store(self) -> Store:
        """The access to the folder's runs; one object, which remembers the signs of life that it has seen."""
        return Store(self.root, self.site.ttl, self.plan.brackets)

    def with_ttl(self, ttl: float | None) -> Sweep:
        """Return the sweep with another time to live of leases, in seconds; None: the same sweep."""
        return self if ttl is None else replace(self, site=replace(self.site, ttl=ttl))

    def states(self, retries: int | None = None) -> dict[str, State]:
        """Read the state of each planned run from its folder; failed runs are those failed for good.

        Args:
            retries: Number of times that a failed run is tried again; None: the sweep's.
        """
        return self.store.states((run.id for run in self.plan.runs), self.site.retries if retries is None else retries)

    def job(self, run: Run, slot: Slot) -> dict[str, Any]:
        """Make the argument of `dgbench.execute.job.run_job` for a run in a slot, as plain values."""
        # With `auto`, a run whose GPU can't be used would train on the CPU without a word.
        on_gpu = slot.gpu is not None and self.site.device == "auto"
        site = replace(self.site, device="cuda") if on_gpu else self.site
        return {
            "root": str(self.root),
            "id": run.id,
            "site": site.to_json(),
            "keep": {name: sorted(models) for name, models in self.plan.read_by_others.get(run.id, {}).items()},
            "threads": slot.threads,
            "until": self.store.standing(run.id).until,
        }

    def without_weights(self) -> tuple[Run, ...]:
        """Return the finished runs that must run again, because models that unfinished runs read are gone.

        A run that must run again reads its own inputs again, so the search goes from the last runs to the first.
        """
        states = self.states(0)
        wanted: dict[str, set[tuple[str, str]]] = {}
        found = []
        for run in reversed(self.plan.runs):
            folder, models = self.store.folder(run.id), wanted.get(run.id, ())
            if states[run.id] is State.DROPPED:
                continue
            if states[run.id] is State.DONE:
                if all(model_path(folder.path, name, which).is_file() for name, which in models):
                    continue
                found.append(run)
            for source in run.inputs:
                wanted.setdefault(source.run, set()).update((source.predictor, which) for which in run.reads)
        return tuple(found)

    def ensure_inputs(self) -> None:
        """Download the weights and vocabularies that unfinished runs need, before any of them starts.

        The files go to the hub's cache, where runs find them, also on machines that share it (HF_HOME). Nothing is
        written to the sweep's folder.

        Raises:
            UserError: Files could not be downloaded; names all of them.
        """
        if all(state.settled for state in self.states().values()) and not self.without_weights():
            return
        problems = Problems()
        for dataset, setting in dict.fromkeys((run.dataset, run.setting) for run in self.plan.runs):
            with problems.collecting():
                ensure_weights(setting, self.plan.datasets[dataset].input_shape)
        for _, opened in self.datasets():
            with problems.collecting():
                opened.ensure_vocabulary()
        problems.raise_if_any()

    def write(self) -> None:
        """Write the declaration and the plan to the folder, and reset the runs of `without_weights`.

        Raises:
            UserError: The folder can't be made, or another launch has written another declaration meanwhile.
        """
        self._refuse_other_declaration()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output_dir {self.root} cannot be made: {error.strerror}") from None
        declaration = self.declaration
        changes = declaration.changes(self.plan, self.catalogue)
        settings = {
            name: declaration.setting_on(name) for name in self.plan.datasets if name in declaration.of_datasets
        }
        table = tabulate(self.plan, declaration.setting, declaration.protocol, changes, settings)
        write_plan(self.root, table)
        write_search(self.root, self.plan.brackets)
        write_declaration(self.root, self.declaration, self.site)  # last: a folder with a declaration has a plan
        for run in self.without_weights():
            print(f"{run.name} did not keep the weights that others read now: it runs again")
            removal.reset(self.store.folder(run.id), done_too=True)

    def _refuse_other_declaration(self) -> None:
        """Raise UserError if the folder's declaration is neither the one that was extended nor this sweep's."""
        if not (self.root / DECLARATION).exists():
            return
        present, _ = read_declaration(self.root, self.catalogue)
        if present not in (self.extended, self.declaration):
            raise UserError(f"another launch has changed the sweep in {self.root} meanwhile: give the command again")

    def execute(
        self,
        slots: Sequence[Slot],
        interrupts: Interrupts,
        *,
        grace: float = GRACE,
        terms: Terms = TO_THE_END,
        first: int = 0,
        kept: KeptServer | None = None,
    ) -> int:
        """Execute the unfinished runs on this machine.

        Args:
            slots: Places where runs execute at once; see `slots`.
            interrupts: Signals that stop it.
            grace: Seconds that runs have to save their state when it is stopped.
            terms: Conditions under which it leaves before all runs are settled.
            first: Place in the plan of the run that starts first.
            kept: Holds the process that runs are forked from, for further calls; None: it ends with this one.

        Returns:
            The exit code; see `Summary.exit_code`.
        """
        # Not at the top: multiprocessing and rich take long to import, and only executing needs them.
        from dgbench.launchers.forkserver import ForkServerDied
        from dgbench.launchers.local import LocalSlots
        from dgbench.launchers.progress import progress

        engine = LocalSlots(
            self.store,
            slots,
            make_job=self.job,
            start_server=(lambda: kept.get(self.fork_server)) if kept else self.fork_server,
            interrupts=interrupts,
            grace=grace,
            keeps_server=kept is not None,
        )
        with progress(self.store, self.plan.runs, len(slots)) as observer:
            try:
                return self.execute_by(engine, interrupts, observer, terms, first)
            except ForkServerDied as error:
                print(f"dgbench: error: {error}", file=sys.stderr)
                return STOPPED_EARLY

    def fork_server(
        self, target: str = f"{_JOB}:run_job", changed: Callable[[Run], Run] = lambda run: run
    ) -> ForkServer:
        """Start a process to fork runs from, with the entries imported and the data opened that they share.

        Args:
            target: "module:function", called in each forked process with its job.
            changed: Returns a planned run as the processes execute it.

        Raises:
            ForkServerDied: It could not start.
        """
        from dgbench.launchers.forkserver import ForkServer  # with multiprocessing, as in `execute`

        return ForkServer(target, (*_PRELOADED, target.partition(":")[0]), f"{_JOB}:preload", self._preloaded(changed))

    def execute_by(
        self,
        engine: Engine,
        interrupts: Interrupts,
        observer: Observer,
        terms: Terms = TO_THE_END,
        first: int = 0,
    ) -> int:
        """Execute the unfinished runs by an engine, and print how it ended.

        Args:
            engine: An engine without attempts; it is closed at the end.
            interrupts: Signals that stop it.
            observer: Called with every event.
            terms: Conditions under which it leaves before all runs are settled.
            first: Place in the plan of the run that starts first.

        Returns:
            The exit code; see `Summary.exit_code`.
        """
        from dgbench.launchers.driver import drive  # with multiprocessing, as in `execute`

        if not all(state.settled for state in self.states().values()):
            try:
                self.build_caches()
            except Stopped:
                print(f"stopped while images are decoded; to go on: {go_on(self.root)}")
                return STOPPED_EARLY
        try:
            summary = drive(self.store, self.plan.runs, engine, self.site.retries, interrupts, observer, terms, first)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            where = printable(str(error.filename or self.root))
            print(f"dgbench: error: {where} can't be used: {error.strerror}", file=sys.stderr)
            print(f"to go on: {go_on(self.root)}")
            return UNAVAILABLE
        if summary.stepped:
            report_step()
        print(", ".join(f"{count:,} {what}" for what, count in summary.counts.items() if count))
        if summary.left and summary.exit_code:
            print(f"to go on: {go_on(self.root)}")
        return summary.exit_code

    def slots(self, jobs: int | None, jobs_per_gpu: int) -> list[Slot]:
        """Return the places of this machine where runs execute at once.

        Args:
            jobs: Their number; None: one a GPU slot, or one a core.
            jobs_per_gpu: Most of them on one GPU.

        Raises:
            UserError: The site says `cuda`, and there is no GPU.
        """
        from dgbench.launchers.local import make_slots  # with multiprocessing, as in `execute`

        gpus = visible_gpus() if self.site.device in ("auto", "cuda") else []
        if self.site.device == "cuda" and not gpus:
            raise UserError("--device cuda: this machine shows no GPU (nvidia-smi -L, CUDA_VISIBLE_DEVICES)")
        return make_slots(jobs or len(gpus) * jobs_per_gpu or usable_cores(), gpus, jobs_per_gpu)

    def remarks(self) -> Iterator[str]:
        """Yield the contents of the data sets, warnings of methods changed since, and remarks on the files."""
        datasets = dict(self.datasets())  # one that is opened in several ways has the same files in each
        for name, dataset in datasets.items():
            yield printable(f"{name}: {_held(dataset)}")
        changed = Counter[str]()
        for run in self.plan.runs:
            parts = (run.method, *run.averages)
            now = {part.name: source for part in parts if (source := self.catalogue.method(part.name).source)}
            then = (self.store.folder(run.id).summary() or {}).get("sources", {}) if now else {}
            changed.update(name for name, source in then.items() if source != now.get(name))
        for name, runs in changed.items():
            yield f"WARNING: {name} is not what {runs} finished runs were made by. They stay: use another folder for it"
        yield from map(printable, (*late_onsets(self.plan, self.catalogue), *seeming_classifiers(self.plan)))
        for budget in expected(self.plan.brackets):
            steps = f"{budget.trained:,} of {budget.steps:,} steps ({budget.share})"
            yield f"search: {budget.how} trains {steps}, {budget.to_the_end}"
        for name, dataset in datasets.items():
            yield from (printable(f"{name}: {remark}") for remark in dataset.remarks())

    def tested(self) -> Iterator[str]:
        """Yield a line on the tested domains of each data set, by name: a request may give their numbers."""
        folds = group_values((run.dataset, run.fold.held_out) for run in self.plan.runs)
        for name, held_out in folds.items():
            domains = tuple(dict.fromkeys(domain for fold in held_out for domain in fold))
            # In leave-one-domain-out, a domain is reported where it is held out alone; pairs serve selection.
            pairs = self.declaration.protocol == LeaveOneDomainOut.name
            tested = [domain for domain in domains if not pairs or (domain,) in held_out]
            others = [domain for domain in domains if domain not in tested]
            line = f"{name}: tested are {', '.join(tested)}"
            if others:
                line += f"; held out with them in pairs, for leave-one-domain-out selection alone: {', '.join(others)}"
            yield printable(line)

    def build_caches(self) -> None:
        """Decode images that runs share before any of them waits for it; raise `UserError` with those that can't be."""
        if self.declaration.setting.cache == "auto":
            for _, dataset in self.datasets():
                build_cache(dataset)

    def datasets(self) -> Iterator[tuple[str, Dataset]]:
        """Yield each data set of the runs by its name, opened; one name may come in several sizes."""
        for name, size, backbone, interpolation in self._opened():
            yield name, open_dataset(name, self.site, self.catalogue, size, backbone, interpolation)

    def _opened(self) -> list[tuple[str, int, str, str]]:
        """List the data sets of the runs, with image size, network and interpolation that they are opened for."""
        asked = {(run.dataset, run.setting) for run in self.plan.runs}
        return sorted({(name, how.image_size, how.backbone, how.interpolation) for name, how in asked})

    def _preloaded(self, changed: Callable[[Run], Run] = lambda run: run) -> dict[str, Any]:
        """Make the argument of `dgbench.execute.job.preload`, which the fork server calls before the first run."""
        names = {run.method.name for run in self.plan.runs} | {p.name for run in self.plan.runs for p in run.averages}
        networks = {(run.setting.backbone, run.setting.lora_rank > 0) for run in self.plan.runs}
        return {
            "site": self.site.to_json(),
            "names": sorted(names),
            "datasets": self._opened(),
            "networks": sorted(networks),
            "runs": [changed(run).to_json() for run in self._sharing()],
        }

    def _sharing(self) -> list[Run]:
        """List an unfinished run for each way of reading data and cutting them that several of them share."""
        states = self.states()
        found: dict[tuple[object, ...], list[Run]] = {}
        for run in self.plan.runs:
            how = run.setting
            # Data that are generated for each run anew would be many, and read by few.
            if not states[run.id].settled and how.generated_data != "run":
                read = (run.dataset, how.image_size, how.backbone, how.interpolation, how.cache)
                found.setdefault((*read, how.holdout_fraction, run.data_seed, run.trial), []).append(run)
        return [runs[0] for runs in found.values() if len(runs) > 1]


def go_on(root: Path) -> str:
    """Return the command that goes on with the sweep of a folder, as a shell takes it."""
    return f"dgbench launch {shlex.quote(str(root))}"


def _held(dataset: Dataset) -> str:
    """Summarize a data set in a line: its domains with their counts, and the first few classes."""
    counts = [f"{printable(name)} {n:,}" for name, n in zip(dataset.domains, dataset.counts(), strict=True)]
    classes = [printable(name) for name in dataset.classes]
    found = f"{sum(dataset.counts()):,} examples in {len(counts)} domain(s): {_first(counts, 12)}"
    return f"{found}; {len(classes)} class(es): {_first(classes, 6)}" if classes else found


def _first(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
