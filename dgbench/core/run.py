"""Describe a run: everything that decides one result, as a frozen dataclass whose id is a hash of its values.

A sweep is a set of runs. `plan.planner` makes them from what the user asked for: it takes the folds of a protocol
(`core.protocol`), resolves the hyperparameters of each method (`core.space`) and fills in the setting (`core.setting`).
The store keeps a folder for each run, named by its id, with the run's JSON inside; `execute.job` reads that JSON and
does the work.

There are four kinds. A `train` run fits an algorithm on a fold's training views, and each average that watches it
yields one more model. A `merge` run combines the models of finished runs, and an `adapt` run adapts one of them at test
time. An `analyze` run makes no predictor: it measures the models of finished runs beyond their scores. These three name
their members by run id in `inputs`, so runs form a directed acyclic graph. Since the id covers every
field, with the ids of inputs among them, equal ids mean equal results: a run that is in the store already is never
repeated, and a change of any value makes a new run and leaves the old one valid. Options of the machine (`core.site`)
are not part of a run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

from dgbench.core.plain import Canonical, fields_of, from_plain
from dgbench.core.protocol import Fold, View
from dgbench.core.seeding import seed_hash
from dgbench.core.setting import Setting
from dgbench.core.wording import printable

FORMAT = 1
"""Version of the run format, hashed into every id: raising it invalidates all stored runs."""

MODEL = "model"
"""Name of the predictor that every run yields. Each average that watches a run adds a predictor under its own name."""

BEST, LAST = "best", "last"
"""A predictor's models: the one with the best training-domain validation accuracy (the earliest of equals), and the
last.
"""

CHOSEN_BY: Mapping[str, str] = {"training-domain": "source_val", "validation-domain": "target_val"}
"""Selector that compares the steps of one run, not whole runs -> the field of `Fold` with the views that it reads."""

ALL_TRIALS = -1
"""`Run.trial` of a merger of runs of all trials. Its splits are seeded by this number, so they are no member's."""

Kind = Literal["train", "merge", "adapt", "analyze"]
"""Train a model, merge models of finished runs, adapt one at test time; or analyze models, which makes no predictor."""

_ID = re.compile(r"[0-9a-f]{20}")


def is_run_id(name: object) -> bool:
    """Return whether `name` has the form of `Run.id`. Check it before a name from a file becomes part of a path."""
    return isinstance(name, str) and _ID.fullmatch(name) is not None


@dataclass(frozen=True)
class ResolvedEntry(Canonical):
    """A catalogue entry (algorithm, average, merger, adapter, analysis) with the values of its hyperparameters."""

    name: str
    """Name in the catalogue."""
    hparams: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameter -> value. Values are scalars (`core.space.Value`); DomainBed classes may also take lists and
    objects.
    """


@dataclass(frozen=True)
class Input:
    """A predictor of another run, which a merge, an adaptation, an analysis or a student reads."""

    run: str
    """Id of the run that yields it."""
    predictor: str = MODEL
    """`MODEL`, or the name of an average. `Run.reads` lists which of the predictor's models are read."""


@dataclass(frozen=True)
class Run:
    """One unit of work of a sweep, as data; made by planning, hashed to an id, executed by `execute.job`.

    Two runs with the same id yield the same result. Fields hold resolved values only: nothing in them stands for a
    default that a later version or another machine might fill in differently.
    """

    kind: Kind
    """`train`, `merge`, `adapt` or `analyze`; the meaning of `method` and `inputs` depends on it."""
    method: ResolvedEntry
    """The algorithm that trains, the merger, the adapter, or the analysis."""
    dataset: str
    """Name of the data set, as the user typed it."""
    fold: Fold
    """The held-out domains, and the views that train and are evaluated."""
    hparams_seed: int
    """Hyperparameter seed: 0 for the defaults, any other for a random draw. The drawn values are in `method`."""
    trial: int
    """Number of the independent repetition, which seeds the splits; `ALL_TRIALS` for a merger of all of them."""
    setting: Setting
    """How the run is trained and evaluated, with the data set's own numbers filled in."""
    averages: tuple[ResolvedEntry, ...] = ()
    """Averages of weights along the training; each yields a predictor under its own name."""
    inputs: tuple[Input, ...] = ()
    """Members of a merge, the one model of an adaptation, the models of an analysis, the teacher of a distilling
    algorithm; else empty.
    """

    id: str = field(init=False, repr=False, compare=False)
    """Hash of every other field, in 20 hexadecimal digits."""

    def __post_init__(self) -> None:
        fields = {  # in the order of their names, as `_hash` wants them
            "averages": [average.canonical for average in self.averages] if self.averages else (),
            "dataset": self.dataset,
            "fold": self.fold.canonical,
            "format": FORMAT,
            "hparams_seed": self.hparams_seed,
            "inputs": self.inputs,
            "kind": self.kind,
            "method": self.method.canonical,
            "setting": self.setting.canonical,
            "trial": self.trial,
        }
        # At once, and not when it is first asked for: plans ask it of all their runs, and a `cached_property`, which
        # makes a dict of the instance, takes a third of the time again.
        object.__setattr__(self, "id", _hash(fields))

    @property
    def name(self) -> str:
        """Name for logs and messages: method, data set, held-out domains, seeds. Unlike the id, it is not unique."""
        return run_name(self.method.name, self.dataset, self.fold.held_out, self.hparams_seed, self.trial)

    @property
    def views(self) -> tuple[View, ...]:
        """Views to evaluate: all that some selector may read, and with `evaluate="all"` those that train too."""
        more = self.fold.train if self.setting.evaluate == "all" else ()
        return (*evaluated_views(self.fold, self.trial), *more)

    @property
    def reads(self) -> tuple[str, ...]:
        """Models read of each input: `(BEST, LAST)` by an adapter, `(BEST,)` by a merger, an analysis or a student.

        An adapter is evaluated on both, because a selector may choose either; the others stand on one choice, made by
        training-domain validation.
        """
        if not self.inputs:
            return ()
        return (BEST, LAST) if self.kind == "adapt" else (BEST,)

    @property
    def validation(self) -> tuple[View, ...]:
        """Views that may be watched during training; none for a run of all trials, whose members trained on all."""
        return () if self.trial == ALL_TRIALS else self.fold.validation

    @property
    def seed(self) -> int:
        """Seed of the order of minibatches and of all randomness in training steps.

        With `data_order="run"` it is DomainBed's seed. Otherwise the method's name is left out, so that runs that
        differ in the algorithm alone see the same minibatches and can be compared in pairs.
        """
        held_out = list(self.fold.held_out)
        if self.setting.data_order == "run":
            return seed_hash(self.dataset, self.method.name, held_out, self.hparams_seed, self.trial)
        return seed_hash(self.dataset, held_out, self.hparams_seed, self.trial)

    @property
    def init_seed(self) -> int:
        """Seed of the initial weights, shared by all runs, by those of a trial, or by none (`Setting.init`)."""
        if self.setting.init == "sweep":
            return seed_hash(self.dataset, "init")
        return self.seed if self.setting.init == "run" else seed_hash(self.dataset, "init", self.trial)

    @property
    def data_seed(self) -> int:
        """Seed for data sets that draw noise or membership, shared as `Setting.generated_data` says."""
        if self.setting.generated_data == "sweep":
            return seed_hash("data")
        return self.seed if self.setting.generated_data == "run" else seed_hash("data", self.trial)

    @property
    def probed(self) -> Run:
        """The run that supplies the data to which a linear probe of the initial features is fitted.

        Initial classifiers must be equal wherever initial weights are meant to be equal. So it is trial 0 of this run
        where all trials start alike (`init="sweep"`), and validation images are never augmented, because draws of
        augmentation would make the probes of one trial differ.
        """
        how = replace(self.setting, validation_augmented=False)
        return replace(self, setting=how, trial=0 if how.init == "sweep" else self.trial)

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain JSON values, with its format and id."""
        fields = {"format": FORMAT, "id": self.id, **fields_of(self), "setting": self.setting.canonical}
        plain: dict[str, Any] = orjson.loads(orjson.dumps(fields))
        return plain

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Run:
        """Read the output of `to_json`.

        Raises:
            ValueError: The data are of another format.
            TypeError: A field is missing, unknown or of the wrong type.
        """
        if data.get("format") != FORMAT:
            raise ValueError(f"run format {data.get('format')!r}, this version reads {FORMAT}")
        return from_plain(Run, {name: value for name, value in data.items() if name not in ("format", "id")})


def _hash(fields: Mapping[str, Any]) -> str:
    # The canonical form: no white space, floats as the shortest text that reads back to the same number, arrays for
    # tuples, objects for dataclasses. Keys of dicts are sorted at every depth, here by the caller, since sorting takes
    # time in each of a plan's runs; those of dataclasses keep the order of their fields. Ids name the folders of stored
    # sweeps: changing any of this orphans them, and `tests/core/test_run.py` holds some ids fixed.
    return hashlib.sha256(orjson.dumps(fields)).hexdigest()[:20]


def is_json_of(id: str, data: Mapping[str, Any]) -> bool:
    """Return whether `data`, the JSON of a run, belongs to the run with this id."""
    # Hashing the JSON as it stands answers for nearly all runs, and is much faster than building them. JSON that leaves
    # out a field at its default hashes differently until the field is filled in, so a mismatch is checked the long way.
    return _hash_stored(data) == id or Run.from_json(data).id == id


def _hash_stored(data: Mapping[str, Any]) -> str:
    """Return the digits of `_hash` for the JSON of a run in the order in which `Run.to_json` writes it."""
    fields = {name: data[name] for name in sorted(data) if name != "id"}
    fields["method"] = _with_sorted_hparams(data["method"])
    fields["averages"] = [_with_sorted_hparams(average) for average in data.get("averages", ())]
    return _hash(fields)


def _with_sorted_hparams(entry: Mapping[str, Any]) -> dict[str, Any]:
    values = orjson.dumps(entry["hparams"], option=orjson.OPT_SORT_KEYS)
    return {**entry, "hparams": orjson.Fragment(values)}


def run_name(method: str, dataset: str, held_out: Sequence[str], hparams_seed: int, trial: int) -> str:
    """Format the name of a run for people, on one line: `ERM PACS [photo] hparams 0 trial 1`."""
    of = "all trials" if trial == ALL_TRIALS else f"trial {trial}"
    return printable(f"{method} {dataset} [{'+'.join(held_out)}] hparams {hparams_seed} {of}")


def evaluated_views(fold: Fold, trial: int) -> tuple[View, ...]:
    """Return the views of a fold that some selector may read of a run in this trial.

    A run of all trials has members that trained on each part of the training domains, so validation on those parts
    would be training accuracy: they are left out.
    """
    trained_on = fold.source_val if trial == ALL_TRIALS else ()
    return tuple(view for view in fold.evaluated if view not in trained_on)
