"""From what was asked for and what a folder holds to what is left to do: the engine behind `sweep`.

Looking changes nothing; `Sweep.write` records what was asked for, `Sweep.execute` does it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.sources import open_dataset, split_datasets
from dgbench.core.errors import Problems, UserError
from dgbench.core.machine import usable_cores, visible_gpus
from dgbench.core.run import Run
from dgbench.core.site import Site
from dgbench.data.cache import build_cache
from dgbench.data.dataset import Dataset
from dgbench.data.facts import DatasetFacts
from dgbench.launchers.base import Slot
from dgbench.networks.start import fetch
from dgbench.plan.asking import declare, open_facts
from dgbench.plan.cost import refuse_large_predictions, refuse_small_domains
from dgbench.plan.declaration import FILE, Declaration, read_declaration, write_declaration
from dgbench.plan.planfile import FILE as PLAN
from dgbench.plan.planfile import read_plan, tabulate, write_plan
from dgbench.plan.planner import Plan
from dgbench.store.folder import State, Store, model_path

_JOB = "dgbench.execute.job"
_PRELOADED = (_JOB, "torch._dynamo", "torch.utils.serialization.config", "numpy.ctypeslib")
"""Imported once, before forking; but for the first, what torch imports at the first optimizer and the first saving,
which takes longer than many a run."""


@dataclass(frozen=True)
class Sweep:
    """A sweep folder, and all that it should hold."""

    root: Path
    declaration: Declaration
    plan: Plan
    site: Site

    @property
    def store(self) -> Store:
        """The folder's runs."""
        return Store(self.root)

    def states(self, retries: int) -> dict[str, State]:
        """The state of each planned run, from its folder."""
        return self.store.states((run.id for run in self.plan.runs), retries)

    def job(self, run: Run, slot: Slot) -> dict[str, Any]:
        """What `dgbench.execute.job.run_job` is called with, in a process of its own or here."""
        return {
            "root": str(self.root),
            "id": run.id,
            "site": self.site.to_json(),
            "keep": {name: sorted(models) for name, models in self.plan.read_by_others.get(run.id, {}).items()},
            "threads": slot.threads,
        }

    def without_weights(self) -> tuple[Run, ...]:
        """Finished runs that didn't keep models that an unfinished one reads, and so on down: to be made again."""
        states = self.states(0)
        wanted: dict[str, set[tuple[str, str]]] = {}
        found = []
        for run in reversed(self.plan.runs):
            folder, models = self.store.folder(run.id), wanted.get(run.id, ())
            if states[run.id] is State.DONE:
                if all(model_path(folder.path, name, which).is_file() for name, which in models):
                    continue
                found.append(run)
            for source in run.inputs:
                wanted.setdefault(source.run, set()).update((source.predictor, which) for which in run.reads)
        return tuple(found)

    def fetch(self, retries: int = 0) -> None:
        """Have on this machine, before any run starts, what hubs have and runs that are not done need: weights, words.

        It is fetched once and found by all runs, also on other machines that share the hub's cache (HF_HOME). Raises
        `UserError` with everything that can't be had; writes nothing to the sweep's folder.
        """
        if all(state is State.DONE for state in self.states(retries).values()) and not self.without_weights():
            return
        problems = Problems()
        for dataset, setting in dict.fromkeys((run.dataset, run.setting) for run in self.plan.runs):
            with problems.collecting():
                fetch(setting, self.plan.datasets[dataset].input_shape)
        for _, opened in self._datasets():
            with problems.collecting():
                opened.equip()
        problems.raise_if_any()

    def write(self) -> None:
        """Write what was asked for and the plan; make runs whose weights are read, but gone, run again."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output_dir {self.root} cannot be made: {error.strerror}") from None
        declaration = self.declaration
        table = tabulate(self.plan, declaration.setting, declaration.protocol, declaration.overrides)
        write_plan(self.root, table)
        write_declaration(self.root, self.declaration, self.site)  # last: who finds it finds the plan too
        for run in self.without_weights():
            print(f"{run.name} did not keep the weights that others read now: it runs again")
            self.store.folder(run.id).reset()

    def execute(self, *, jobs: int | None, jobs_per_gpu: int, retries: int) -> int:
        """Run on this machine what is not done; 0 if all is done then, else 1."""
        # Not at the top: only who executes needs multiprocessing and rich, which take long to import.
        from dgbench.launchers.driver import drive
        from dgbench.launchers.forkserver import ForkServer
        from dgbench.launchers.interrupts import Interrupts
        from dgbench.launchers.local import LocalSlots, make_slots
        from dgbench.launchers.progress import progress

        gpus = visible_gpus() if self.site.device in ("auto", "cuda") else []
        if self.site.device == "cuda" and not gpus:
            raise UserError("--device cuda: this machine shows no GPU (nvidia-smi -L, CUDA_VISIBLE_DEVICES)")
        if any(state is not State.DONE for state in self.states(retries).values()):
            self._build_caches()
        jobs = jobs or len(gpus) * jobs_per_gpu or usable_cores()
        with progress(self.store, self.plan.runs, jobs) as observer, Interrupts() as interrupts:
            engine = LocalSlots(
                self.store,
                make_slots(jobs, gpus, jobs_per_gpu),
                make_job=self.job,
                start_server=lambda: ForkServer(f"{_JOB}:run_job", _PRELOADED, f"{_JOB}:preload", self._preloaded()),
                interrupts=interrupts,
            )
            summary = drive(self.store, self.plan.runs, engine, retries, interrupts, observer)
        print(", ".join(f"{count:,} {what}" for what, count in summary.counts.items() if count))
        return 0 if summary.counts["done"] == len(self.plan.runs) else 1

    def remarks(self) -> Iterator[str]:
        """What is worth knowing of the data sets' files, and of methods that were changed since."""
        catalogue, changed = Catalogue(self.site.include), Counter[str]()
        for run in self.plan.runs:
            parts = (run.method, *run.averages)
            now = {part.name: source for part in parts if (source := catalogue.entries[part.name].source)}
            then = (self.store.folder(run.id).summary() or {}).get("sources", {}) if now else {}
            changed.update(name for name, source in then.items() if source != now.get(name))
        for name, runs in changed.items():
            yield f"WARNING: {name} is not what {runs} finished runs were made by. They stay: use another folder for it"
        for name, dataset in self._datasets():
            yield from (f"{name}: {remark}" for remark in dataset.remarks())

    def _build_caches(self) -> None:
        """Decode images that runs share before any of them waits for it."""
        if self.declaration.setting.cache == "auto":
            for _, dataset in self._datasets():
                build_cache(dataset)

    def _datasets(self) -> Iterator[tuple[str, Dataset]]:
        catalogue = Catalogue(self.site.include)
        for name, size, backbone, interpolation in self._opened():
            yield name, open_dataset(name, self.site, catalogue, size, backbone, interpolation)

    def _opened(self) -> list[tuple[str, int, str, str]]:
        """The data sets of the runs, with image size, network and interpolation that they are opened for."""
        asked = {(run.dataset, run.setting) for run in self.plan.runs}
        return sorted({(name, how.image_size, how.backbone, how.interpolation) for name, how in asked})

    def _preloaded(self) -> dict[str, Any]:
        """What the process that runs are forked from should read before."""
        names = {run.method.name for run in self.plan.runs} | {p.name for run in self.plan.runs for p in run.averages}
        return {"site": self.site.to_json(), "names": sorted(names), "datasets": self._opened()}


def prepare(root: Path, asked: Mapping[str, Any], site: Site, catalogue: Catalogue) -> Sweep:
    """The sweep that `root` will hold once this was asked for too; raises `UserError`, writes nothing."""
    try:
        declaration, paths = declare(asked, catalogue)
    except UserError as error:
        raise UserError(*error.problems, *_wrong_with_data(asked, site, catalogue)) from None
    site = replace(site, paths=paths)
    if (root / FILE).exists():
        before, old_site = read_declaration(root, include=site.include)
        declaration = before.grown_by(declaration, root)
        site = replace(
            site,
            paths={**old_site.paths, **site.paths},
            data_dir=site.data_dir or old_site.data_dir,
            cache_dir=site.cache_dir or old_site.cache_dir,
            include=old_site.include,
        )
        catalogue = Catalogue(site.include)
    elif root.exists() and not root.is_dir():
        raise UserError(f"--output_dir {root} is a file: use a new folder")
    elif root.is_dir() and any(path.name != PLAN and not path.name.startswith(".") for path in root.iterdir()):
        raise UserError(f"--output_dir {root} holds something else: use a new folder")
    return _planned(root, declaration, site, catalogue)


def _wrong_with_data(asked: Mapping[str, Any], site: Site, catalogue: Catalogue) -> Sequence[str]:
    """What is wrong with the files of those data sets whose names are right."""
    problems = Problems()
    for text in asked.get("datasets", ()):
        with suppress(UserError):
            paths = split_datasets([text], catalogue)
            for name in paths:
                with problems.collecting():
                    open_dataset(name, replace(site, paths=paths), catalogue)
    return problems.found


def reopen(root: Path, *, include: Sequence[str] = (), **moved: Any) -> Sweep:
    """The sweep that a folder holds, planned again; `moved` are fields of its site that have changed.

    `include`: where included files lie now that are gone from where they were.
    """
    declaration, site = read_declaration(root, include=include)
    site = replace(site, **moved)
    return _planned(root, declaration, site, Catalogue(site.include))


def _planned(root: Path, declaration: Declaration, site: Site, catalogue: Catalogue) -> Sweep:
    facts = open_facts(declaration, site, catalogue)
    _refuse_other_data(root, facts)
    plan = declaration.plan(facts, catalogue)
    refuse_small_domains(plan)
    if site.save_predictions:
        refuse_large_predictions(plan)
    return Sweep(root, declaration, plan, site)


def _refuse_other_data(root: Path, facts: Mapping[str, DatasetFacts]) -> None:
    if not (root / FILE).exists():
        return
    before = read_plan(root).datasets
    changed = [name for name in facts if name in before and before[name].fingerprint != facts[name].fingerprint]
    if changed:
        raise UserError(
            *(
                f"{name} is not the data that {root} was begun with (fingerprints differ): use another folder"
                for name in changed
            )
        )
