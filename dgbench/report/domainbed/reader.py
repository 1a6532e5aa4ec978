"""Read a sweep folder of DomainBed into `Results`.

DomainBed's own tables count runs without `done`; dgbench lists them as unfinished.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from dgbench.core.collector import without_collector
from dgbench.core.errors import UserError
from dgbench.core.protocol import Explicit, Fold, LeaveOneDomainOut, SingleSource
from dgbench.core.setting import Setting, setting
from dgbench.core.wording import group_values, printable
from dgbench.plan.provenance import Provenance
from dgbench.report.domainbed.folder import ALGORITHMS, DONE, ENVIRONMENTS, RECORDS, RunArgs, accuracy_key
from dgbench.report.origin import Origin
from dgbench.report.results import WARNING, Candidate, Gap, Results, Series, Spot
from dgbench.store.files import read_whole

_ACCURACY = re.compile(r"env(\d+)_(?:in|out)_acc")
"""Key of an accuracy in a record; its group is the domain's number."""

ARGUMENTS: Mapping[str, object] = {
    "task": "domain_generalization",
    "uda_holdout_fraction": 0,
    "holdout_fraction": 0.2,
    "steps": None,
    "checkpoint_freq": None,
    "hparams": None,
}
"""Arguments of DomainBed's `train` that change the meaning of a number, with their defaults.

DomainBed's tables pool runs that differ in them.
"""


_PLAIN, _AUGMIX, _RESNET18, _OF_DIGITS = "resnet50.tv_in1k", "resnet50.ram_in1k", "resnet18.tv_in1k", "MNIST_CNN"
"""dgbench's names of DomainBed's networks."""


def is_sweep(root: Path) -> bool:
    """Return whether some subfolder holds records of DomainBed."""
    with os.scandir(root) as entries:
        return any(entry.is_dir() and os.path.exists(f"{entry.path}/{RECORDS}") for entry in entries)


def read_sweep(root: Path) -> Results:
    """Read a sweep folder of DomainBed.

    It holds no plan, so the missing runs are inferred. A row that has any run of a data set should have all test
    domains that some row has, all trials of the folder, and all the row's hyperparameter seeds. Test domains that no
    row has count as not planned, while DomainBed's tables show an X there and in the average.

    Raises:
        UserError: No run in it can be read.
    """
    reader = _Reader()
    with without_collector():
        for folder in _folders(root):
            reader.read(folder)
        if not reader.found:
            raise UserError(f"{root} holds no run that can be read", *reader.notes)
        return reader.results()


def _folders(root: Path) -> list[str]:
    """Return the paths of the subfolders, sorted by name."""
    with os.scandir(root) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir())


class _Found(NamedTuple):
    """A run that was read."""

    candidate: Candidate
    arguments: Mapping[str, str]
    """Its values of `ARGUMENTS`, as text."""
    network: str
    """The network that its hyperparameters name, by dgbench's name; empty if they don't."""


class _Reader:
    """Reader of one sweep folder of DomainBed, with its findings so far."""

    def __init__(self) -> None:
        self.found: dict[RunArgs, _Found] = {}
        self.domains: dict[str, tuple[str, ...]] = {}
        """Data set -> names of its domains, as many as its first run has."""
        self.numbers: dict[tuple[str, ...], int] = {}
        """Keys of a record -> number of domains that have an accuracy in it."""
        self.folds: dict[tuple[str, tuple[int, ...]], Fold] = {}
        """(Data set, test domains) -> the fold."""
        self.scores: dict[tuple[str, tuple[int, ...]], Callable[[Mapping[str, Any]], tuple[Any, ...]]] = {}
        """(Data set, test domains) -> function from a record to the accuracies on the fold's evaluated views."""
        self.steps: dict[tuple[int, ...], tuple[int, ...]] = {}
        """Each series of steps once: most runs share one."""
        self.silent = 0
        """Number of folders without records."""
        self.records = 0
        self.notes: list[str] = []

    def read(self, folder: str) -> None:
        """Read one run; a folder that can't be used becomes a note."""
        try:
            data = read_whole(f"{folder}/{RECORDS}")
        except OSError:
            self.silent += 1
            return
        name = printable(os.path.basename(folder))
        records = self._parse(data, name)
        try:
            args = _run_args(records[0]["args"])
        except (IndexError, KeyError, TypeError):
            self.notes.append(f"{name}: no record of a run, left out")
            return
        if wrong := self._refusal(args, records[0]):
            self.notes.append(f"{name}: {wrong}, left out")
            return
        done = os.path.exists(f"{folder}/{DONE}")
        candidate = self._candidate(name, args, records) if done else self._gap(args, "unfinished", run=name)
        arguments = _arguments(records[0]["args"])
        other = self.found.get(args)
        # Two folders may hold one run, as after a copy: the first that is done counts.
        if other and isinstance(other.candidate, Series):
            differ = [key for key, value in arguments.items() if value != other.arguments[key]]
            warning, difference = (WARNING, f" with another {', '.join(differ)}") if differ else ("", "")
            self.notes.append(f"{warning}{name} repeats the run in {other.candidate.run}{difference}, left out")
        else:
            self.found[args] = _Found(candidate, arguments, _network(args.dataset, records[0].get("hparams")))
            self.records += len(candidate.steps) if isinstance(candidate, Series) else 0

    def _parse(self, data: bytes, name: str) -> list[dict[str, Any]]:
        """Return the records of a file, without lines that are torn; `name` is that of the folder, for a note."""
        lines = [line for line in data.split(b"\n") if line.strip()]
        try:
            # All lines in one call, which is much faster; line by line only if some line is torn or holds NaN.
            records: list[dict[str, Any]] = orjson.loads(b"[" + b",".join(lines) + b"]")
        except orjson.JSONDecodeError:
            parsed = [_parse_line(line) for line in lines]
            records = [record for record in parsed if record is not None]
            if len(records) < len(lines):
                self.notes.append(f"{name}: {len(lines) - len(records)} torn lines, cut off")
        return records

    def _refusal(self, args: RunArgs, record: Mapping[str, Any]) -> str:
        """Return why a run has no place in tables; empty if it has one."""
        keys = tuple(record)
        if keys not in self.numbers:
            seen = [int(found[1]) for key in keys if (found := _ACCURACY.fullmatch(key))]
            self.numbers[keys] = max(seen, default=-1) + 1
        domains = self._domains(args.dataset, self.numbers[keys])
        if domains is None:
            return f"its {args.dataset} has fewer than 2 domains, or another number than other runs'"
        if 0 < len(set(args.test_envs) & set(range(len(domains)))) == len(args.test_envs) < len(domains):
            return ""
        return f"tables have no place for test domains {list(args.test_envs)} of {len(domains)}"

    def _domains(self, dataset: str, number: int) -> tuple[str, ...] | None:
        """Return the names of a data set's domains; None if other than in its first run, or fewer than 2."""
        if dataset not in self.domains and number >= 2:
            known = ENVIRONMENTS.get(dataset, ())
            self.domains[dataset] = known if len(known) == number else tuple(f"env{i}" for i in range(number))
        domains = self.domains.get(dataset)
        return domains if domains and len(domains) == number else None

    def _fold(self, dataset: str, envs: Iterable[int]) -> Fold:
        """Return the fold that tests the domains with these numbers and trains on all others."""
        place = dataset, tuple(sorted(envs))
        if place not in self.folds:
            names = self.domains[dataset]
            (self.folds[place],) = Explicit(train=(), test=tuple(names[env] for env in place[1])).folds(names)
        return self.folds[place]

    def _scores(self, dataset: str, envs: tuple[int, ...]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
        """Return a function from a record to the accuracies on the evaluated views of a fold."""
        if (dataset, envs) not in self.scores:
            places = {domain: i for i, domain in enumerate(self.domains[dataset])}
            evaluated = self._fold(dataset, envs).evaluated
            self.scores[dataset, envs] = itemgetter(
                *(accuracy_key(places[view.domain], view.part) for view in evaluated)
            )
        return self.scores[dataset, envs]

    def _candidate(self, name: str, args: RunArgs, records: Sequence[Mapping[str, Any]]) -> Candidate:
        """Return the series of a run in the folder `name`, or a gap if its records can't be used."""
        fold, scores = self._fold(args.dataset, args.test_envs), self._scores(args.dataset, args.test_envs)
        try:
            steps = tuple([record["step"] for record in records])
            start = 0 if steps in self.steps else _last_series(steps)
            accuracy = np.array([scores(record) for record in records[start:]], dtype=np.float64)
            if not np.isfinite(accuracy).all():
                raise ValueError("an accuracy is no number")
        except (KeyError, TypeError, ValueError) as error:
            return self._gap(args, "damaged", f"{type(error).__name__} in its records: {error}", name)
        if start:
            self.notes.append(
                f"{name}: run again into the same folder; the last series of records counts "
                "(DomainBed's tables mix them)"
            )
            steps = steps[start:]
        steps = self.steps.setdefault(steps, steps)
        # DomainBed writes no loss of validation views, so the last training loss tells.
        loss = records[-1].get("loss", 0.0)
        diverged = isinstance(loss, float) and not math.isfinite(loss)
        return Series(name, steps, fold.evaluated, accuracy, diverged)

    def _gap(self, args: RunArgs, state: str, why: str = "", run: str = "") -> Gap:
        """Make the gap of a run."""
        held_out = self._fold(args.dataset, args.test_envs).held_out
        return Gap(run, args.algorithm, args.dataset, held_out, args.hparams_seed, args.trial_seed, state, why)

    def results(self) -> Results:
        """Return everything read so far, with gaps for the missing runs."""
        if self.silent:
            self.notes.append(f"{self.silent} folders hold no {RECORDS}: which runs they are for is not known")
        rows = _ordered({args.algorithm for args in self.found}, ALGORITHMS)
        # DomainBed's order of rows and columns, whatever the folders are named.
        datasets = _ordered({args.dataset for args in self.found}, ENVIRONMENTS)
        folds: list[Fold] = []
        positions: dict[str, dict[frozenset[int], int]] = {}
        protocols: dict[str, None] = {}
        for name in datasets:
            protocol, test_envs = self._infer_protocol(name)
            protocols[protocol] = None
            positions[name] = {envs: len(folds) + i for i, envs in enumerate(test_envs)}
            folds += (self._fold(name, envs) for envs in test_envs)
        arguments = {name: self._values(name) for name in datasets}
        return Results(
            protocol=", ".join(protocols),
            preset="DomainBed's own",
            ddof=0,
            rows=rows,
            datasets={name: tuple(places.values()) for name, places in positions.items()},
            folds=tuple(folds),
            candidates=dict(self._arrange(positions)),
            records=self.records,
            origin=Origin(arguments=arguments),
            settings={name: found for name in datasets if (found := self._setting(name))},
            provenance=Provenance(asked=tuple(_departures(arguments.values()))),
            notes=tuple(self.notes),
        )

    def _setting(self, dataset: str) -> Setting | None:
        """Return a setting with the network and the steps of a data set's finished runs; None unless all share them."""
        shared = {
            (run.network, run.candidate.steps[-1] + 1) for run in self._of(dataset) if isinstance(run.candidate, Series)
        }
        if len(shared) != 1:
            return None
        network, steps = shared.pop()
        return (
            setting("domainbed-2024" if network == _AUGMIX else "domainbed-2020", backbone=network, steps=steps)
            if network
            else None
        )

    def _values(self, dataset: str) -> dict[str, Counter[str]]:
        """Return each of `ARGUMENTS` -> its values, counted over the data set's finished runs."""
        counted = [run for run in self._of(dataset) if isinstance(run.candidate, Series)]
        return {name: Counter(run.arguments[name] for run in counted) for name in ARGUMENTS}

    def _of(self, dataset: str) -> Iterator[_Found]:
        """Yield the runs of a data set."""
        return (run for args, run in self.found.items() if args.dataset == dataset)

    def _infer_protocol(self, dataset: str) -> tuple[str, list[frozenset[int]]]:
        """Infer a data set's protocol, and the sets of test domains that it asks for, in the order of our own sweeps.

        These are the sets that some row has a run of, and, if leave-one-domain-out selection was meant, the further
        pairs that it needs. It was meant if a pair holds a domain that is also held out alone. A set that can't serve
        it becomes a note.
        """
        begun = {frozenset(args.test_envs) for args in self.found if args.dataset == dataset}
        every = frozenset(range(len(self.domains[dataset])))
        alone = frozenset[int]().union(*(envs for envs in begun if len(envs) == 1))
        if not alone:
            one_source = all(len(every - envs) == 1 for envs in begun)
            protocol = SingleSource.name if one_source else Explicit.name
            return protocol, sorted(begun, key=lambda envs: sorted(every - envs if one_source else envs))
        pairs = {pair for pair in map(frozenset, combinations(every, 2)) if pair & alone}
        planned = begun | pairs if begun & pairs else begun
        for envs in sorted(begun - pairs, key=lambda envs: (len(envs), sorted(envs))):
            if len(envs) > 1:
                why = "neither was held out alone" if len(envs) == 2 else "others hold out one domain alone"
                held_out = "+".join(self._fold(dataset, envs).held_out)
                self.notes.append(f"{dataset}: no table reads the runs of [{held_out}], as {why}")
        return LeaveOneDomainOut.name, sorted(planned, key=lambda envs: (len(envs), sorted(envs)))

    def _arrange(
        self, positions: Mapping[str, Mapping[frozenset[int], int]]
    ) -> Iterator[tuple[tuple[str, str], dict[Spot, dict[int, Candidate]]]]:
        """Yield (row, data set) and its candidates, a gap where there is no run."""
        trials = sorted({args.trial_seed for args in self.found})
        seeds = group_values((args.algorithm, args.hparams_seed) for args in self.found)
        for row, dataset in sorted({(args.algorithm, args.dataset) for args in self.found}):
            spots: dict[Spot, dict[int, Candidate]] = {}
            for envs, position in positions[dataset].items():
                for trial in trials:
                    spots[position, trial] = {}
                    for seed in sorted(set(seeds[row])):
                        args = RunArgs(dataset, row, tuple(sorted(envs)), seed, trial)
                        found = self.found.get(args)
                        spots[position, trial][seed] = found.candidate if found else self._gap(args, "missing")
            yield (row, dataset), spots


def _arguments(args: Mapping[str, Any]) -> dict[str, str]:
    """Return each of `ARGUMENTS` as text, its default where the folder is of a version without it."""
    return {name: _as_text(args.get(name, default)) for name, default in ARGUMENTS.items()}


def _as_text(value: object) -> str:
    """Return a value as text."""
    return "default" if value is None else str(value)


def _network(dataset: str, hparams: object) -> str:
    """Return dgbench's name of the network that a run's hyperparameters choose, as in DomainBed; empty if unknown."""
    if not isinstance(hparams, dict) or "resnet18" not in hparams or hparams.get("vit"):
        return ""
    if "MNIST" in dataset:
        return _OF_DIGITS
    if hparams["resnet18"]:
        return _RESNET18
    # Commits before ERM++ know no AugMix, and start from torchvision's weights.
    return _AUGMIX if hparams.get("resnet50_augmix") else _PLAIN


def _departures(arguments: Iterable[Mapping[str, Counter[str]]]) -> Iterator[str]:
    """Yield the arguments that aren't the default in some run, with all their values: `steps 100 or None`."""
    every = [(name, value) for counts in arguments for name, values in counts.items() for value in values]
    for name, values in group_values(dict.fromkeys(every)).items():
        if set(values) - {_as_text(ARGUMENTS[name])}:
            yield f"{name} {' or '.join(values)}"


def _run_args(args: Mapping[str, Any]) -> RunArgs:
    """Read the arguments that place a run in tables."""
    test_envs = tuple(sorted(int(env) for env in args["test_envs"]))
    return RunArgs(
        str(args["dataset"]), str(args["algorithm"]), test_envs, int(args["hparams_seed"]), int(args["trial_seed"])
    )


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """Return a line's record, or None if it is torn; accepts DomainBed's NaN and Infinity, unlike orjson."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _last_series(steps: Sequence[int]) -> int:
    """Return the index at which the steps start over for the last time; 0 if they never do."""
    return max((i for i, (earlier, later) in enumerate(pairwise(steps), start=1) if later <= earlier), default=0)


def _ordered(names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Sort names: the known ones in their order, then the others by alphabet."""
    places = {name: place for place, name in enumerate(known)}
    return tuple(sorted(names, key=lambda name: (places.get(name, len(places)), name)))
