"""Declare every option of a launch once: `flags` makes its flag, `sweep_file` reads its key."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dgbench.core.limits import find_problem, interval
from dgbench.core.wording import shorten


@dataclass(frozen=True)
class Option:
    """An option of the command line, given by `--name`, and mostly also a key of sweep files."""

    name: str
    part: Literal["asked", "flags", "setting", "site", "launch", "launcher", "worker", "run"]
    """Destination of its value. `asked` and `flags` are requests for runs, which sweep files may hold in the first case
    only; `setting` is a field of the setting, and a table of sweep files; `site` is a field of the machine's `Site`;
    `launch` says how to execute, `launcher` by which launcher, `worker` when a worker leaves; `run` chooses the run of
    `train`.
    """
    type: type
    """Type of the value, as in a sweep file. Flags of type list take several words, those of type bool none. The
    words of a setting are one text in a sweep file, with blanks between them.
    """
    help: str
    """One line for `--help`."""
    metavar: str | None = None
    """Placeholder for the value in `--help`; None: argparse's."""
    choices: tuple[str, ...] | None = None
    """The values that are allowed; None: any of the type."""
    alone: str | None = None
    """Value of the flag without a word; None: it needs a word."""
    default: int | None = None
    """Value without the flag; None leaves it out, so that a sweep file or a preset decides."""
    within: str = ""
    """The interval that a number must lie in: `[1, inf)`; empty: any number."""
    word: str = ""
    """A text that a whole number's option takes in place of one; empty: none."""

    def problem(self, value: object) -> str | None:
        """Return the problem with a value beyond its type, with the option's name; None if it is valid."""
        if self.word and isinstance(value, str):
            return None if value == self.word else f"--{self.name} is a number or {self.word}, not {shorten(value)}"
        wrong = find_problem(value, "any", (interval(self.within),) if self.within else ())
        return wrong and f"--{self.name} {wrong}"

    def read(self, text: str) -> int | str:
        """Convert a whole number; leave another text, which `problem` judges."""
        return int(text) if text.lstrip("-").isdecimal() else text

    @property
    def argument(self) -> dict[str, Any]:
        """Keyword arguments for `ArgumentParser.add_argument`. Without the flag the value is the option's default."""
        if self.type is bool and self.part == "setting":  # a preset may have either value
            return {"action": argparse.BooleanOptionalAction, "default": None, "help": self.help}
        if self.type is bool:
            return {"action": "store_true", "default": None, "help": self.help}
        words: dict[str, Any] = {
            "nargs": "+" if self.type is list else "?" if self.alone else None,
            "type": self.read if self.word else self.type if self.type in (int, float) else str,
        }
        if self.alone:
            words["const"] = self.alone
        if self.type is list and self.part == "flags":  # a second `--set` adds to the first
            words["action"] = "extend"
        return {**words, "choices": self.choices, "default": self.default, "help": self.help, "metavar": self.metavar}


REQUEST = (
    Option("algorithms", "asked", list, "rows: ALGORITHM[+RULE][+AVERAGE][+MERGER][+ADAPTER]", "NAME"),
    Option("datasets", "asked", list, "names, folder:/path, or csv:/path/to/file.csv", "NAME"),
    Option("quick", "flags", bool, "a first look: default hyperparameters, one trial, no pairs of test domains"),
    Option("n_hparams", "asked", int, "end of the range of hyperparameter seeds (20)", "N"),
    Option("n_hparams_from", "asked", int, "its start (0, which is the defaults)", "N", within="[0, inf)"),
    Option(
        "grid",
        "flags",
        list,
        "a row for each of these values, and each combination of several names, in place of draws: also ENTRY.NAME=...",
        "NAME=VALUE,...",
    ),
    Option("members", "asked", list, "merge each trial's first N runs too, for each N: a curve over members", "N"),
    Option("search", "asked", str, "random (each draw trained to its end), or halving (worse ones dropped)", "NAME"),
    Option("n_trials", "asked", int, "end of the range of independent repetitions (3)", "N"),
    Option("n_trials_from", "asked", int, "its start (0)", "N", within="[0, inf)"),
    Option("single_test_envs", "asked", bool, "no folds with two test domains"),
    Option("test_envs", "asked", list, "test these domains only, by name or number", "DOMAIN"),
    Option("single_source", "asked", bool, "train on one, test on the others"),
    Option("all_domains", "asked", bool, "train on the tested domain too: a reference"),
    Option("train_domains", "asked", list, "one fold spelled out: these train (default: all others)", "DOMAIN"),
    Option("val_domains", "asked", list, "one fold spelled out: these validate", "DOMAIN"),
    Option("test_domains", "asked", list, "one fold spelled out: these are tested", "DOMAIN"),
)
"""Options that choose methods, data, protocol and search."""

TRAINING = (
    Option("preset", "asked", str, "settings of a paper or suite by name (dgbench): one of `dgbench list presets`"),
    Option("steps", "setting", int, "optimizer steps (default: the data set's own)", "STEPS"),
    Option("checkpoint_freq", "setting", int, "steps between evaluations", "STEPS"),
    Option("backbone", "setting", str, "network: of `dgbench list backbones`, of timm, or a class of yours", "NAME"),
    Option("pretrained", "setting", bool, "start timm's networks from pretrained weights (the default), or not"),
    Option("image_size", "setting", int, "side of images in pixels (default: the data set's own)", "PIXELS"),
    Option("precision", "setting", str, "numbers of the forward pass (fp32)", "fp32|bf16"),
    Option(
        "optimizer", "setting", str, "of methods that bring none of their own (adam): `dgbench list optimizers`", "NAME"
    ),
    Option(
        "schedule", "setting", str, "course of the learning rates (constant): cosine, linear, step, one_cycle", "NAME"
    ),
    Option("compile", "setting", bool, "train with a featurizer compiled by torch.compile"),
    Option("holdout_fraction", "setting", float, "share of a domain that validates (.2)", "SHARE"),
    Option(
        "validation", "asked", str, "own splits: validate on further domains (ood) or on those that train", "ood|id"
    ),
    Option("evaluate", "setting", str, "selectors (what a selector may read), or all", "VIEWS"),
    Option(
        "stream",
        "setting",
        list,
        "how adapters are shown inputs: batch_size=N order=shuffled|by_class domains=separate|continual|mixed",
        "WORD=VALUE",
    ),
    Option(
        "set",
        "flags",
        list,
        "any setting or hyperparameter, also ENTRY.NAME=VALUE",
        "NAME=VALUE",
    ),
    Option("hparams", "asked", dict, 'the same as JSON: \'{"lr": 1e-3, "NAME": {...}}\'', "JSON"),
)
"""Options of the training and evaluation of every run."""

_INCLUDED = "Python files with algorithms, networks, data sets, ...; FILE:NAME is a class written for DomainBed"
DATA = (
    Option("data_dir", "site", Path, "folder that holds the data sets", "DIR"),
    Option("include", "site", list, _INCLUDED, "FILE"),
    Option("cache", "setting", str, "keep decoded images for all runs, or decode them always", "auto|off"),
    Option("cache_dir", "site", Path, "where to keep them (.dgbench-cache beside the data)", "DIR"),
    Option("skip_bad_images", "site", bool, "leave out images that can't be decoded"),
    Option("allow_missing_classes", "site", bool, "take own data of which a domain lacks a class"),
    Option("exif", "site", str, "turn own images as their EXIF says (keep: as stored)", choices=("keep", "turn")),
    Option("max_image_pixels", "site", int, "largest image (default: Pillow's limit)", "N", within="[1, inf)"),
)
"""Options that choose the files to read, and how."""

DEVICE = (
    Option(
        "device",
        "site",
        str,
        "where to compute (auto: on GPUs, if any)",
        choices=("auto", "cpu", "cuda", "mps"),
    ),
    Option("workers", "site", int, "processes a run that decode images (by its cores)", "N", within="[0, inf)"),
    Option("backbone_weights", "site", Path, "what the backbone starts from: .safetensors, or tensors in .pth", "FILE"),
)
"""Options for the device of a run, and for files that it needs besides the data."""

EXECUTING = (
    Option("jobs", "launch", int, "runs at once (default: one a core, or one a GPU slot)", "N", within="[1, inf)"),
    Option(
        "jobs_per_gpu",
        "launch",
        int,
        "runs at once on each GPU (1), or auto: as many as its memory and the cores hold",
        "N|auto",
        within="[1, inf)",
        word="auto",
    ),
    Option("ttl", "launch", float, "seconds of silence after which it is gone (60; NFS: 180)", "S", within="[10, inf)"),
    Option("retries", "site", int, "times that a failed run runs again (1)", "N", within="[0, inf)"),
    Option("grace", "launch", float, "seconds to save runs when stopped (10)", "S", within="[0, inf)"),
    *DEVICE,
)
"""Options of execution, which change no result but for the last digits: runs at the same time share the cores, and sums
over fewer threads are rounded otherwise.
"""

LAUNCHER = (
    Option(
        "launcher",
        "launcher",
        list,
        "where runs execute: one of `dgbench list launchers`, or a file, with its options (local)",
        "NAME OPTION=VALUE",
    ),
    Option("detach", "launcher", bool, "leave as soon as the launcher's jobs are submitted"),
)
"""Options that choose where runs execute."""
QUEUE = replace(LAUNCHER[0], help="the launcher whose jobs are meant, if it is a file (the last one)", metavar="FILE")
"""Option of commands that ask a launcher about its jobs."""

LEAVING = (
    Option(
        "idle",
        "worker",
        float,
        "seconds without a run to claim after which it leaves (120); inf: stay",
        "S",
        default=120,
        within="[0, inf]",
    ),
    Option("once", "worker", bool, "execute one run, then leave"),
    Option("stop_after", "worker", str, "time after which it saves its runs and leaves: 3h50m, 45m, 90s", "TIME"),
    Option(
        "max_failures", "worker", int, "failures in a row that make it leave (3)", "K", default=3, within="[1, inf)"
    ),
)
"""Options of `worker` alone: when it leaves before the sweep is done."""

OUTPUT = (
    Option(
        "save_models",
        "site",
        str,
        "keep weights that no other run reads: the best and last of each model (all), or the best alone, half as much",
        choices=("best", "all"),
        alone="all",
    ),
    Option(
        "save_predictions",
        "site",
        str,
        "keep logits of the models that selectors name (chosen, the default), or of each evaluation (all)",
        choices=("chosen", "all"),
        alone="chosen",
    ),
)
"""Options on files that a run keeps besides its records."""

ONE_RUN = (
    Option("hparams_seed", "run", int, "draw of hyperparameters (0: the defaults)", "N", default=0, within="[0, inf)"),
    Option("trial_seed", "run", int, "which split and initial weights (0)", "N", default=0, within="[0, inf)"),
)
"""Options that choose the run that `train` makes."""

THREADS = (Option("threads", "run", int, "threads (default: one a core)", "N", within="[1, inf)"),)
"""Option of `train` alone: a sweep shares the cores among its runs."""

OPTIONS = {
    option.name: option
    for option in (*REQUEST, *TRAINING, *DATA, *LAUNCHER, *EXECUTING, *LEAVING, *OUTPUT, *ONE_RUN, *THREADS)
}
"""Name -> option."""

Groups = Mapping[str, tuple[Option, ...]]
"""Heading in `--help` -> the options below it."""

LAUNCH: Groups = {
    "which runs": REQUEST,
    "how they train": TRAINING,
    "data": DATA,
    "where runs execute": LAUNCHER,
    "this machine": EXECUTING,
    "output": OUTPUT,
}
"""Options of `launch`."""
_MOVABLE = {
    "data_dir": "where the data lie on this machine",
    "cache_dir": "where decoded images are kept on this machine",
    "include": "where included files lie on this machine",
}
PLACES = tuple(replace(OPTIONS[name], help=text) for name, text in _MOVABLE.items())
"""Options of commands that take up a sweep on another machine, or after its files have moved."""
WORKER: Groups = {
    "when it leaves": LEAVING,
    "data": PLACES,
    "this machine": (
        OPTIONS["jobs"],
        replace(OPTIONS["jobs_per_gpu"], default=1),
        replace(OPTIONS["grace"], default=25, help="seconds to save runs when stopped (25)"),
        OPTIONS["ttl"],
        OPTIONS["device"],
        OPTIONS["workers"],
    ),
}
"""Options of `worker`."""
TRAIN: Groups = {
    "which run": ONE_RUN,
    "how it trains": TRAINING,
    "data": DATA,
    "this machine": (*THREADS, *DEVICE),
    "output": OUTPUT,
}
"""Options of `train`."""
