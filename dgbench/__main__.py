"""The console command: `dgbench COMMAND ...` is `python -m dgbench.COMMAND ...`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from dgbench import cli
from dgbench.core.errors import UserError
from dgbench.core.wording import unknown

COMMANDS = {
    "sweep": "launch sweeps; see how far they are; mend and tidy them",
    "collect": "print the tables of a sweep, ours or DomainBed's",
    "train": "one run by hand",
    "list": "what algorithms, averages, mergers, adapters, data sets and sweeps there are",
    "download": "fetch a data set, organise files that you have, or check what is there",
    "check": "hold algorithms, ours or yours, to what every algorithm must do",
    "export": "write a sweep as a folder that DomainBed's collector reads",
}


def usage() -> str:
    """List the commands."""
    lines = ["usage: dgbench COMMAND ...", ""]
    lines += [f"  {name:<9} {text}" for name, text in COMMANDS.items()]
    return "\n".join([*lines, "", "`dgbench COMMAND --help` says more."])


def dispatch(argv: Sequence[str]) -> int:
    """Run a command; return its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] not in COMMANDS:
        raise UserError(unknown("command", argv[0], COMMANDS))
    module = importlib.import_module(f"dgbench.{argv[0]}")
    return int(module.main(argv[1:]))


def main() -> int:
    """Run the console script; return its exit code."""
    return cli.run(dispatch)


if __name__ == "__main__":
    sys.exit(main())
