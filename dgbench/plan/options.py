"""The options of a launch. Each is declared once: `flags` makes its flag, `asking` reads its key in a sweep file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dgbench.core.limits import find_problem, interval
from dgbench.core.setting import PRESETS


@dataclass(frozen=True)
class Option:
    """One option, given by `--name`."""

    name: str
    part: Literal["asked", "setting", "site", "launch", "run"]
    """What its value is part of: what a sweep file may say (`asked`, also its table `setting`), the machine's `Site`,
    how `launch` executes, or which run `train` makes by hand."""
    type: type
    """Of the value, as in a sweep file. Flags of a list take several words, those of a bool none."""
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    default: int | None = None
    within: str = ""
    """The interval that a number must lie in: `[1, inf)`; empty: any number."""

    def problem(self, value: object) -> str | None:
        """Describe the problem with a value beyond its type, with the option's name; None if it is fine."""
        wrong = find_problem(value, "any", (interval(self.within),) if self.within else ())
        return wrong and f"--{self.name} {wrong}"

    @property
    def argument(self) -> dict[str, Any]:
        """Make the arguments of `ArgumentParser.add_argument`. A flag that is not given is None, or its default."""
        if self.type is bool:
            return {"action": "store_true", "default": None, "help": self.help}
        words = {"nargs": "+" if self.type is list else None, "type": self.type if self.type in (int, float) else str}
        return {**words, "choices": self.choices, "default": self.default, "help": self.help, "metavar": self.metavar}


ASKING = (
    Option("algorithms", "asked", list, "rows: ALGORITHM[+AVERAGE][+MERGER][+ADAPTER]", "NAME"),
    Option("datasets", "asked", list, "names, folder:/path, or csv:/path/to/file.csv", "NAME"),
    Option("n_hparams", "asked", int, "end of the range of hyperparameter seeds (20)", "N"),
    Option("n_hparams_from", "asked", int, "its start (0, which is the defaults)", "N", within="[0, inf)"),
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
"""What is to be known: methods, data, protocol, search."""

_INCLUDED = "Python files with algorithms, data sets, ...; FILE:NAME is a class written for DomainBed"
SETTING = (
    Option("preset", "asked", str, f"one of {', '.join(PRESETS)}"),
    Option("steps", "setting", int, "optimizer steps (default: the data set's own)"),
    Option("checkpoint_freq", "setting", int, "steps between evaluations", "STEPS"),
    Option("holdout_fraction", "setting", float, "share of a domain that validates (.2)", "SHARE"),
    Option(
        "validation", "asked", str, "own splits: validate on further domains (ood) or on those that train", "ood|id"
    ),
    Option("evaluate", "setting", str, "selectors (what a selector may read), or all", "VIEWS"),
    Option("hparams", "asked", dict, 'fixed values: \'{"lr": 1e-3, "NAME": {...}}\'', "JSON"),
    Option("data_dir", "site", Path, "folder that holds the data sets"),
    Option("include", "site", list, _INCLUDED, "FILE"),
    Option("cache", "setting", str, "keep decoded images for all runs, or decode them always", "auto|off"),
    Option("cache_dir", "site", Path, "where to keep them (.dgbench-cache beside the data)", "DIR"),
    Option("skip_bad_images", "site", bool, "leave out images that can't be decoded"),
    Option("allow_missing_classes", "site", bool, "take own data of which a domain lacks a class"),
    Option("exif", "site", str, "turn own images as their EXIF says (keep: as stored)", choices=("keep", "turn")),
    Option("max_image_pixels", "site", int, "largest image (default: Pillow's limit)", "N", within="[1, inf)"),
    Option("save_models", "site", bool, "keep all weights, not only those that runs read"),
    Option("save_predictions", "site", bool, "keep logits of the models that selectors name"),
)
"""How every run is trained and evaluated, from which data, and what is kept of it."""

DEVICE = (
    Option("device", "site", str, "(default: auto)", choices=("auto", "cpu", "cuda", "mps")),
    Option("workers", "site", int, "processes a run that decode images (0)", "N", within="[0, inf)"),
    Option("backbone_weights", "site", Path, "what the backbone starts from: .safetensors, or tensors in .pth", "FILE"),
)
"""What a run computes on, and from which files beside the data."""

EXECUTING = (
    Option("jobs", "launch", int, "runs at once (default: one a core, or one a GPU slot)", "N", within="[1, inf)"),
    Option("jobs_per_gpu", "launch", int, "runs at once on each GPU (1)", "N", default=1, within="[1, inf)"),
    Option("retries", "launch", int, "times that a failed run runs again (1)", "N", default=1, within="[0, inf)"),
    *DEVICE,
)
"""How to execute. Nothing here changes a result, but for last digits: runs at once share the cores, and sums over fewer
threads are rounded otherwise."""

ONE_RUN = (
    Option("hparams_seed", "run", int, "draw of hyperparameters (0: the defaults)", "N", default=0, within="[0, inf)"),
    Option("trial_seed", "run", int, "which split and initial weights (0)", "N", default=0, within="[0, inf)"),
    Option("threads", "run", int, "threads (default: one a core)", "N", within="[1, inf)"),
)
"""Which run `train` makes by hand, and on how many threads."""

OPTIONS = {option.name: option for option in (*ASKING, *SETTING, *EXECUTING, *ONE_RUN)}
"""All options by name."""
