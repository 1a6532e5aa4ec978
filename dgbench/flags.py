"""The flags by which a sweep is asked for and executed; spelled as DomainBed's users know them."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from dgbench.core.errors import Problems, UserError
from dgbench.core.setting import PRESETS
from dgbench.core.site import Site
from dgbench.data.cache_format import check_place
from dgbench.networks.weights import sha256_of
from dgbench.plan.asking import KEYS

_ASKED = tuple(name for name in KEYS if name not in ("setting", "hparams", "space"))
_SETTING = ("steps", "checkpoint_freq", "holdout_fraction", "evaluate", "cache")


def add_asking(parser: ArgumentParser) -> None:
    """What is to be known: methods, data, protocol, search."""
    parser.add_argument("--sweep", type=Path, metavar="FILE", help="a sweep declared in TOML; flags win over it")
    parser.add_argument("--algorithms", nargs="+", metavar="NAME", help="rows: ALGORITHM[+AVERAGE][+MERGER][+ADAPTER]")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="names, folder:/path, or csv:/path/to/file.csv")
    parser.add_argument("--n_hparams", type=int, metavar="N", help="end of the range of hyperparameter seeds (20)")
    parser.add_argument("--n_hparams_from", type=int, metavar="N", help="its start (0, which is the defaults)")
    parser.add_argument("--n_trials", type=int, metavar="N", help="end of the range of independent repetitions (3)")
    parser.add_argument("--n_trials_from", type=int, metavar="N", help="its start (0)")
    parser.add_argument("--single_test_envs", action="store_true", default=None, help="no folds with two test domains")
    parser.add_argument("--test_envs", nargs="+", metavar="DOMAIN", help="test these domains only, by name or number")
    parser.add_argument("--single_source", action="store_true", default=None, help="train on one, test on the others")
    parser.add_argument(
        "--all_domains", action="store_true", default=None, help="train on the tested domain too: a reference"
    )
    for name, what in (("train", "train (default: all others)"), ("val", "validate"), ("test", "are tested")):
        parser.add_argument(
            f"--{name}_domains", nargs="+", metavar="DOMAIN", help=f"one fold spelled out: these {what}"
        )


def add_setting(parser: ArgumentParser) -> None:
    """How every run is trained and evaluated, from which data, and what is kept of it."""
    parser.add_argument("--preset", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the data set's own)")
    parser.add_argument("--checkpoint_freq", type=int, metavar="STEPS", help="steps between evaluations")
    parser.add_argument("--holdout_fraction", type=float, metavar="SHARE", help="share of a domain that validates (.2)")
    parser.add_argument("--evaluate", metavar="VIEWS", help="selectors (what a selector may read), or all")
    parser.add_argument("--hparams", metavar="JSON", help='fixed values: \'{"lr": 1e-3, "NAME": {...}}\'')
    parser.add_argument("--data_dir", help="folder that holds the data sets")
    parser.add_argument(
        "--include",
        nargs="+",
        metavar="FILE",
        help="Python files with algorithms, data sets, ...; FILE:NAME is a class written for DomainBed",
    )
    parser.add_argument("--cache", metavar="auto|off", help="keep decoded images for all runs, or decode them always")
    parser.add_argument("--cache_dir", metavar="DIR", help="where to keep them (.dgbench-cache beside the data)")
    parser.add_argument("--skip_bad_images", action="store_true", help="leave out images that can't be decoded")
    parser.add_argument("--save_models", action="store_true", help="keep all weights, not only those that runs read")
    parser.add_argument("--save_predictions", action="store_true", help="keep the logits of final models")


def add_executing(parser: ArgumentParser) -> None:
    """How to execute. Nothing here changes a result, but for last digits: runs at once share the cores, and sums over
    fewer threads are rounded otherwise.
    """
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once (default: one a core, or one a GPU slot)")
    parser.add_argument("--jobs_per_gpu", type=int, default=1, metavar="N", help="runs at once on each GPU (1)")
    parser.add_argument("--retries", type=int, default=1, metavar="N", help="times that a failed run runs again (1)")
    add_device(parser)


def add_device(parser: ArgumentParser) -> None:
    """What a run computes on, and from which files beside the data."""
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="(default: auto)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes a run that decode images (0)")
    parser.add_argument(
        "--backbone_weights", metavar="FILE", help="what the backbone starts from: .safetensors, or tensors in .pth"
    )


def asked_of(args: Namespace) -> dict[str, Any]:
    """What the flags say, in the keys of a sweep file; only what was given."""
    asked = {name: getattr(args, name) for name in _ASKED if getattr(args, name, None) is not None}
    setting = {name: getattr(args, name) for name in _SETTING if getattr(args, name, None) is not None}
    if args.backbone_weights:
        setting["weights"] = sha256_of(Path(args.backbone_weights))
    if setting:
        asked["setting"] = setting
    if args.hparams is not None:
        try:
            asked["hparams"] = json.loads(args.hparams)
        except json.JSONDecodeError as error:
            raise UserError(f"--hparams is not JSON: {error}") from None
        if not isinstance(asked["hparams"], dict):
            raise UserError(f'--hparams is a JSON object like {{"lr": 0.001}}, not {args.hparams}')
    return asked


def site_of(args: Namespace) -> Site:
    """What the flags say of this machine."""
    if args.workers < 0:
        raise UserError("--workers must be at least 0")
    if args.cache_dir:
        check_place(Path(args.cache_dir))
    return Site(
        data_dir=os.path.abspath(args.data_dir) if args.data_dir else "",
        cache_dir=os.path.abspath(args.cache_dir) if args.cache_dir else "",
        include=tuple(os.path.abspath(path) for path in args.include or ()),
        skip_bad_images=args.skip_bad_images,
        device=args.device,
        workers=args.workers,
        backbone_weights=os.path.abspath(args.backbone_weights) if args.backbone_weights else "",
        save_models=args.save_models,
        save_predictions=args.save_predictions,
    )


def moved_of(args: Namespace) -> dict[str, Any]:
    """What the flags of `retry` change in what the last launch said of its machine."""
    if args.workers is not None and args.workers < 0:
        raise UserError("--workers must be at least 0")
    paths = {name: getattr(args, name) for name in ("data_dir", "cache_dir", "backbone_weights")}
    moved = {name: os.path.abspath(path) if path else None for name, path in paths.items()}
    include = tuple(os.path.abspath(path) for path in args.include or ())
    said = {**moved, "include": include, "device": args.device, "workers": args.workers}
    return {name: value for name, value in said.items() if value is not None}


def jobs_of(args: Namespace) -> dict[str, Any]:
    """What the flags say of the launcher."""
    problems = Problems()
    for name, least in (("jobs", 1), ("jobs_per_gpu", 1), ("retries", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            problems.add(f"--{name} must be at least {least}")
    problems.raise_if_any()
    return {"jobs": args.jobs, "jobs_per_gpu": args.jobs_per_gpu, "retries": args.retries}
