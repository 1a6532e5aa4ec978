"""A run: everything that decides a result, as data. Its id is a hash of the resolved values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import orjson

from dgbench.core.plain import fields_of, from_plain
from dgbench.core.protocol import Fold, View
from dgbench.core.seeding import seed_hash
from dgbench.core.setting import Setting
from dgbench.core.wording import printable

FORMAT = 1
"""Version of the run format; part of every id."""

MODEL = "model"
"""The predictor that every run yields; an average that watched adds one under its own name."""

BEST, LAST = "best", "last"
"""Which of a predictor's models: at its best training-domain validation accuracy (the earliest), or the last."""

CHOSEN_BY: Mapping[str, str] = {"training-domain": "source_val", "validation-domain": "target_val"}
"""Selector that looks at a run by itself, at any of its steps -> what `Fold` calls the views that it reads."""

ALL_TRIALS = -1
"""The trial of a run that stands on runs of all trials: its splits are its own."""

Kind = Literal["train", "merge", "adapt"]

_ID = re.compile(r"[0-9a-f]{20}")


def is_run_id(name: object) -> bool:
    """Decide whether a value has the form of `Run.id`; anything else must not become part of a path."""
    return isinstance(name, str) and _ID.fullmatch(name) is not None


@dataclass(frozen=True)
class ResolvedEntry:
    """A catalogue entry with its resolved hyperparameters."""

    name: str
    hparams: Mapping[str, Any] = field(default_factory=dict)
    """Name -> `Value`; classes of other suites may have lists and objects too."""


@dataclass(frozen=True)
class Input:
    """A predictor of another run; which of its models is read, `Run.reads` says."""

    run: str
    predictor: str = MODEL


@dataclass(frozen=True)
class Run:
    """One thing to execute.

    `train`: `method` is an algorithm, watched by `averages`. `merge`: a merger over `inputs`. `adapt`: an adapter on
    the one input.
    """

    kind: Kind
    method: ResolvedEntry
    dataset: str
    fold: Fold
    hparams_seed: int
    trial: int
    setting: Setting
    averages: tuple[ResolvedEntry, ...] = ()
    inputs: tuple[Input, ...] = ()

    @cached_property
    def id(self) -> str:
        """Hash every field, and nothing else, to 20 hexadecimal digits."""
        return _hash({"format": FORMAT, **fields_of(self)})

    @property
    def name(self) -> str:
        """Name the run for people: method, data set, held-out domains, seeds."""
        return run_name(self.method.name, self.dataset, self.fold.held_out, self.hparams_seed, self.trial)

    @property
    def views(self) -> tuple[View, ...]:
        """List the views to evaluate: those that some selector may read; with `evaluate` all, also those that train."""
        more = self.fold.train if self.setting.evaluate == "all" else ()
        return (*evaluated_views(self.fold, self.trial), *more)

    @property
    def reads(self) -> tuple[str, ...]:
        """List the models to read of its inputs: an adapter tries both, mergers and students take the best alone."""
        if not self.inputs:
            return ()
        return (BEST, LAST) if self.kind == "adapt" else (BEST,)

    @property
    def validation(self) -> tuple[View, ...]:
        """List the views that training may watch: none for a run of all trials, whose members trained on them."""
        return () if self.trial == ALL_TRIALS else self.fold.validation

    @property
    def seed(self) -> int:
        """Seed the order of the data and the randomness of the steps."""
        held_out = list(self.fold.held_out)
        if self.setting.data_order == "run":
            return seed_hash(self.dataset, self.method.name, held_out, self.hparams_seed, self.trial)
        return seed_hash(self.dataset, held_out, self.hparams_seed, self.trial)

    @property
    def init_seed(self) -> int:
        """Seed the initial weights."""
        if self.setting.init == "sweep":
            return seed_hash(self.dataset, "init")
        return self.seed if self.setting.init == "run" else seed_hash(self.dataset, "init", self.trial)

    @property
    def data_seed(self) -> int:
        """Seed the data sets that draw their noise or membership."""
        if self.setting.generated_data == "sweep":
            return seed_hash("data")
        return self.seed if self.setting.generated_data == "run" else seed_hash("data", self.trial)

    @property
    def probed(self) -> Run:
        """Return the run whose data a linear probe is fitted to: of trial 0 where all trials start alike, else itself.

        Its validation parts come clean, for draws of augmentation would tell probes of one trial apart.
        """
        how = replace(self.setting, validation_augmented=False)
        return replace(self, setting=how, trial=0 if how.init == "sweep" else self.trial)

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain JSON, with its format and id."""
        plain: dict[str, Any] = orjson.loads(orjson.dumps({"format": FORMAT, "id": self.id, **fields_of(self)}))
        return plain

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Run:
        """Read what `to_json` wrote; raises ValueError if it is of another format."""
        if data.get("format") != FORMAT:
            raise ValueError(f"run format {data.get('format')!r}, this version reads {FORMAT}")
        return from_plain(Run, {name: value for name, value in data.items() if name not in ("format", "id")})


def _hash(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()[:20]


def is_json_of(id: str, data: Mapping[str, Any]) -> bool:
    """Decide whether JSON of a run is that of the run with this id, mostly without building it."""
    return _hash({name: value for name, value in data.items() if name != "id"}) == id or Run.from_json(data).id == id


def run_name(method: str, dataset: str, held_out: Sequence[str], hparams_seed: int, trial: int) -> str:
    """Name a run for people, on one line: `ERM PACS [photo] hparams 0 trial 1`."""
    of = "all trials" if trial == ALL_TRIALS else f"trial {trial}"
    return printable(f"{method} {dataset} [{'+'.join(held_out)}] hparams {hparams_seed} {of}")


def evaluated_views(fold: Fold, trial: int) -> tuple[View, ...]:
    """List the views that some selector may read of a run.

    A run of all trials was not kept from any part of the training domains, so they are left out.
    """
    trained_on = fold.source_val if trial == ALL_TRIALS else ()
    return tuple(view for view in fold.evaluated if view not in trained_on)
