"""Run the console command: `dgbench COMMAND ...` is `python -m dgbench.COMMAND ...`.

dgbench launch runs/quick --sweep quickstart     ten methods on real digits, in 3 minutes
dgbench status runs/quick                        how far it is
dgbench collect runs/quick                       its tables
dgbench train --algorithm VREx --dataset RotatedDigits --test 75
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from dgbench import cli
from dgbench.core.errors import UserError
from dgbench.core.version import __version__
from dgbench.core.wording import unknown_name

OF_SWEEPS = {
    "launch": "start, resume or finish a sweep",
    "status": "how far a sweep is, and what failed why",
    "retry": "let failed runs run again, and launch",
    "cancel": "have the running runs of a sweep, on any machine, save and stop",
    "delete_incomplete": "remove what unfinished runs left, but for those under way",
    "prune": "remove weights that no run reads any more, and runs that the sweep no longer asks for",
}
"""Name -> what `--help` says of it. Each is short for `dgbench sweep NAME`."""

COMMANDS = {
    "logs": "print the log of a run, or follow it",
    "collect": "print the tables of a sweep, ours or DomainBed's",
    "best": "print the chosen hyperparameters, and commands that train the chosen runs again",
    "predictions": "write the kept predictions of the chosen models as csv",
    "analyze": "measure the models of a sweep: sharpness, curvature, alignment, diversity",
    "report": "write tables, figures and every run of a sweep as one page that opens in a browser",
    "worker": "execute runs of a sweep beside other machines, until none is left",
    "predict": "predict image files by an exported model",
    "export": "write one model to use elsewhere, or a sweep for TensorBoard, MLflow, Weights & Biases, or DomainBed",
    "train": "train one run, in this process, and print its table",
    "list": "algorithms, averages, mergers, adapters, analyses, data sets, sweeps, backbones, settings, ...",
    "download": "fetch a data set, organize files that you have, or check those in its folder",
    "new": "print a file to start from: an algorithm, average, merger, adapter, analysis or data set of yours",
    "check": "check algorithms and data sets, ours or yours, against the rules that hold for all of them",
    "sweep": "the commands above `logs`, by one name: `dgbench sweep launch`",
}
"""Name of a module in `dgbench` -> what `--help` says of its command."""
PACKAGES = ("report",)
"""Those of `COMMANDS` that are packages."""


def usage() -> str:
    """Return the list of commands, each with a line, and the examples of this module's docstring."""
    lines = [f"  {name:<18} {text}" for name, text in (OF_SWEEPS | COMMANDS).items()]
    more = "`dgbench COMMAND --help` says more; `dgbench --version` prints the version."
    return "\n".join(["usage: dgbench COMMAND ...", "", *lines, "", cli.examples(__doc__), "", more])


def dispatch(argv: Sequence[str]) -> int:
    """Run a command, by the first word of `argv`, with the others; return its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(f"dgbench {__version__}")
        return 0
    name, words = ("sweep", argv) if argv[0] in OF_SWEEPS else (argv[0], argv[1:])
    if name not in COMMANDS:
        raise UserError(unknown_name("command", name, OF_SWEEPS | COMMANDS))
    return int(importlib.import_module(module_of(name)).main(words))


def module_of(command: str) -> str:
    """Return the name of the module that defines a command: `__main__` of it where the command is a package."""
    return f"dgbench.{command}.__main__" if command in PACKAGES else f"dgbench.{command}"


def main() -> int:
    """Run the console command of this process's arguments; return its exit code."""
    return cli.run(dispatch)


if __name__ == "__main__":
    sys.exit(main())
